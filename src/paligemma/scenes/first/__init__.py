"""The first world, which the bundled nano was trained on: twenty kinds of objects, captions in English."""

from paligemma.scenes.first.drawings import COLORS, LABELS
from paligemma.scenes.first.language import caption, detection, examples, plural, segmentation
from paligemma.scenes.first.world import MAX_OBJECTS, WORDS, Scene, Text, Thing, draw_scene

__all__ = [
    "COLORS",
    "LABELS",
    "MAX_OBJECTS",
    "WORDS",
    "Scene",
    "Text",
    "Thing",
    "caption",
    "detection",
    "draw_scene",
    "examples",
    "plural",
    "segmentation",
]
