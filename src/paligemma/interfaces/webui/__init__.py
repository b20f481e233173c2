"""The web page: one model, a picture, the verbs. Loopback only, no other machine is ever asked for anything.

`words.py` all texts in English and Chinese, `answer.py` what is asked and how the answer is shown (plain data),
`examples.py` pictures to begin with, `page.py` and `look.py` the page, `guard.py` what a browser may ask for,
`server.py` the process.
"""
