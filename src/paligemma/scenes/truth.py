"""What a drawn picture is known to show. Plain data; every coordinate is a fraction of the picture's sides, y first.

A `Scene` is one picture and the whole truth about it: things, printed or handwritten lines, a chart or a table.
A `Clip`
is eight frames with one thing that moves. Who draws: `world`, `clips`; who talks about them: `language`.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VERSION = 1  # of the generator: another number, another world; figures are only comparable within one

NormBox = tuple[float, float, float, float]  # y_min, x_min, y_max, x_max


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One drawn object.

    Attributes:
        label, color: English keys of `catalog.LABELS` and `catalog.COLORS`; words in other languages are `language`'s.
        box: around the pixels that can be seen.
        mask: bool[side, side], the pixels that can be seen.
        hidden: share of the object behind others, 0..1.
    """

    label: str
    color: str
    box: NormBox
    mask: NDArray[np.bool_] = field(repr=False, compare=False)
    hidden: float = 0.0

    @property
    def center_y(self) -> float:
        return (self.box[0] + self.box[2]) / 2

    @property
    def center_x(self) -> float:
        return (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of printed or handwritten text, and one box per character (a space has one too)."""

    text: str
    box: NormBox
    char_boxes: tuple[NormBox, ...]
    font: str
    handwritten: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A bar, line or pie chart: a title and one whole number per label; `colors` are keys of `catalog.COLORS`."""

    kind: str
    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    colors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Column names, row names and whole numbers, `cells[row][column]`."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and the truth about it; `things` from left to right, `lines` in reading order."""

    image: Image.Image = field(repr=False, compare=False)
    things: tuple[Thing, ...] = ()
    lines: tuple[Line, ...] = ()
    chart: Chart | None = None
    table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Eight frames in which one thing moves; `motion` is a key of `catalog.MOTIONS`."""

    frames: tuple[Image.Image, ...] = field(repr=False, compare=False)
    label: str
    color: str
    motion: str
