"""Labelled data: files that people have -> examples with their truth, mixed and checked. No model."""

from paligemma.data.formats import read_labelled
from paligemma.data.labelled import LabelledImage, TrueBox

__all__ = ["LabelledImage", "TrueBox", "read_labelled"]
