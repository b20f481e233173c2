"""What a model answers, as plain data: `Answer` for text, `Detections` for boxes and masks, `Notice` for oddities.

In: the raw text a model wrote and the pictures it saw. Out: text, boxes and masks in pixels, JSON and other formats,
and pictures people like to look at. Nothing here knows a model, and no torch.
"""

from paligemma.results import export
from paligemma.results.answer import Answer
from paligemma.results.boxes import Box
from paligemma.results.detections import Detections
from paligemma.results.mask import Corners, Mask
from paligemma.results.notice import Notice

__all__ = ["Answer", "Box", "Corners", "Detections", "Mask", "Notice", "export"]
