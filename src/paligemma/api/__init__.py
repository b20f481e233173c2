"""PaliGemma for people: pictures and words in, `Answer`s out; `load` makes the model.

    model = paligemma.load()                        # the bundled model, offline
    model.ask("photo.jpg", "how many cats?")        # one picture -> one Answer
    model.detect(["a.jpg", "b.jpg"], "cat; dog")    # a list -> a list of Detections, batched
    model.caption(Images(*frames))                  # several pictures of one example -> one Answer
    model.run([Query("a.jpg", "ocr"), ...])         # anything mixed -> answers in the same order

Files, by what passes through them:

    loading.py      a name -> a model                     model.py       the verbs
    pictures.py     what counts as a picture              options.py     what a verb takes besides its words
    queries.py      one question as a value               requests.py    query -> tokens, tokens -> answer
    running.py      many queries -> batches               stream.py      one answer, piece by piece
    encoding.py     pictures -> features, once            feature_cache  those that are remembered
    detecting.py    grammar, scores and masks of boxes    calibrating.py labelled pictures -> what scores mean
    tiled.py        many windows -> one answer            tiling.py      windows and merging, in numpy
    ranking.py      candidates -> their likelihoods
"""

from paligemma.api.loading import load
from paligemma.api.model import PaliGemma
from paligemma.api.pictures import EncodedImage, Images
from paligemma.api.queries import Query
from paligemma.api.ranking import Ranked
from paligemma.api.stream import AnswerStream
from paligemma.api.tiling import Tiles

__all__ = ["AnswerStream", "EncodedImage", "Images", "PaliGemma", "Query", "Ranked", "Tiles", "load"]
