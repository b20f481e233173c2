"""How the bundled model is made: tokenizer, seeing, speaking, report. `python -m tools.nano --help`."""
