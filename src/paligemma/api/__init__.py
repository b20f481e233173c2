"""PaliGemma for people: pictures and words in, `Answer`s out; `load` makes the model.

model = paligemma.load()                        # the bundled model, offline
model.ask("photo.jpg", "how many cats?")        # one picture -> one Answer
model.detect(["a.jpg", "b.jpg"], "cat; dog")    # a list -> a list of Detections, batched
model.caption(Images(*frames))                  # several pictures of one example -> one Answer
model.run([Query("a.jpg", "ocr"), ...])         # anything mixed -> answers in the same order

loading.py    a name -> a model                  pictures.py   what counts as a picture, or a list of them
model.py      the verbs                          options.py    what a verb takes besides its words
queries.py    one question as a value            requests.py   query -> prompt and pixels; tokens -> answer
running.py    many queries -> batches            stream.py     one answer, piece by piece
"""

from paligemma.api.loading import load
from paligemma.api.model import PaliGemma
from paligemma.api.pictures import EncodedImage, Images
from paligemma.api.queries import Query
from paligemma.api.ranking import Ranked
from paligemma.api.stream import AnswerStream
from paligemma.api.tiling import Tiles

__all__ = ["AnswerStream", "EncodedImage", "Images", "PaliGemma", "Query", "Ranked", "Tiles", "load"]
