"""Labelled pictures: files that people have -> examples with their truth. No model, no torch."""

from paligemma.data.labelled import LabelledImage, TrueBox, read_labelled

__all__ = ["LabelledImage", "TrueBox", "read_labelled"]
