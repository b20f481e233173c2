"""Labelled pictures: what people's files say of a picture, whatever their format. Plain values; no files are opened.

A `LabelledImage` is a picture's file and its objects; an object has a label, a box in pixels and, where its file knows,
a shape: polygons, or the run lengths of a mask. Shapes stay as compact as they came and become pixels when asked for,
so that a data set of a million objects fits into memory. Who reads and writes files: `formats`; who makes training
rows: `convert`.
"""

from dataclasses import dataclass
from pathlib import Path

from paligemma.results import Mask
from paligemma.tasks.mask_sources import mask_of

Corners = tuple[float, float, float, float]
Polygons = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class TrueBox:
    """One object that is there.

    Attributes:
        label: what it is.
        xyxy: left, top, right, bottom in pixels of the upright picture.
        polygons: its parts, each x1, y1, x2, y2, ... in pixels; overlapping parts are united.
        runs: its mask as COCO's compressed run lengths of the whole picture. An object has one kind of shape or none.
        crowd: many of the kind in one region, as COCO marks them; no single object to be found.
    """

    label: str
    xyxy: Corners
    polygons: Polygons | None = None
    runs: str | None = None
    crowd: bool = False

    @property
    def has_mask(self) -> bool:
        """Whether its shape is known."""
        return self.polygons is not None or self.runs is not None

    def mask(self, size_px: tuple[int, int]) -> Mask | None:
        """Its pixels, or None where only the box is known.

        Args:
            size_px: width and height of the picture.

        Raises:
            InputError: a shape that cannot be drawn, or is of another picture.
        """
        if self.runs is not None:
            return mask_of({"size": [size_px[1], size_px[0]], "counts": self.runs}, size_px)
        return None if self.polygons is None else mask_of(self.polygons, size_px)


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One picture's file and everything in it that has a label; `size_px` is width and height of it upright."""

    path: Path
    boxes: tuple[TrueBox, ...]
    size_px: tuple[int, int]

    @property
    def labels(self) -> list[str]:
        """The labels in it, each once, in order of appearance."""
        return list(dict.fromkeys(box.label for box in self.boxes))
