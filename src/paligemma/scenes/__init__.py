"""The procedural world: pictures drawn by program, with exact truth about what is in them."""

from paligemma.scenes.drawings import COLORS, LABELS
from paligemma.scenes.language import caption, detection, examples, plural, segmentation
from paligemma.scenes.world import MAX_OBJECTS, WORDS, Scene, Text, Thing, draw_scene

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
