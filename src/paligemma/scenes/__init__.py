"""The procedural world: pictures drawn by program, with exact truth about what is in them."""

from paligemma.scenes.truth import VERSION, Chart, Clip, Line, NormBox, Scene, Table, Thing

__all__ = ["VERSION", "Chart", "Clip", "Line", "NormBox", "Scene", "Table", "Thing"]
