"""The procedural world: pictures drawn by program, with exact truth about what is in them."""

from paligemma.scenes.catalog import COLORS, LABELS, MOTIONS
from paligemma.scenes.clips import draw_clip
from paligemma.scenes.truth import VERSION, Chart, Clip, Line, NormBox, Scene, Table, Thing
from paligemma.scenes.world import SHARES, draw_scene

__all__ = [
    "COLORS",
    "LABELS",
    "MOTIONS",
    "SHARES",
    "VERSION",
    "Chart",
    "Clip",
    "Line",
    "NormBox",
    "Scene",
    "Table",
    "Thing",
    "draw_clip",
    "draw_scene",
]
