"""Windows over a large picture, and the answers of all windows merged into one: plain geometry in numpy.

In: a picture's size and `Tiles`; then boxes found in the windows, in pixels of the whole picture. Out: windows that
overlap; then which boxes stay, which are pieces of one object, which repeat another. Not done here: asking a model,
masks (`tiled`). Letters: n boxes; a side is 0 left, 1 top, 2 right, 3 bottom.

Neighbours share `overlap` of a window's side, so an object smaller than that lies whole in at least one window. A box
that touches the inner border of its window may be cut: it yields to a whole one, and facing pieces are joined.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from paligemma.errors import UsageError

MAX_WINDOWS = 64  # of `tiles=True`, whose windows grow rather than be more
BORDER = 0.02  # a box this near to its window's border, in sides of the window, may be cut by it
SAME_IOU = 0.5  # two boxes of one label that overlap so much are one object
INSIDE = 0.3  # a cut box of which this much lies in another of its label is a part of that: models complete what is cut
IN_LINE = 0.5  # facing pieces whose extents along the border agree so much (1-D IoU) are one object

Window = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How a picture is cut into windows.

    Args:
        rows, cols: how many windows; both or none.
        size_px: side of a window in pixels of the picture; by default the model's own resolution.
        overlap: share of a window's side that it has in common with its neighbour, 0 to 0.9.
        include_whole: the whole picture is asked too, for objects larger than a window.

    Raises:
        UsageError: a number out of range, or rows and cols together with size_px.
    """

    rows: int | None = None
    cols: int | None = None
    size_px: int | None = None
    overlap: float = 0.2
    include_whole: bool = True

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "size_px"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if value is not None and not whole:
                raise UsageError(f"{name} of the tiles is {value!r}; give an integer from 1")
        if (self.rows is None) != (self.cols is None) or (self.rows is not None and self.size_px is not None):
            raise UsageError("tiles take either both rows and cols, or size_px, or none of them; leave the others out")
        if not 0 <= self.overlap <= 0.9:
            raise UsageError(f"overlap of the tiles is {self.overlap!r}; give a share of the window from 0 to 0.9")

    @classmethod
    def of(cls, value: Any) -> "Tiles | None":
        """What the option `tiles` says: None or False, True, (rows, cols), or `Tiles`.

        Raises:
            UsageError: anything else.
        """
        if value is None or value is False or isinstance(value, Tiles):
            return value or None
        if value is True:
            return cls()
        if isinstance(value, (tuple, list)) and len(value) == 2:
            return cls(rows=value[0], cols=value[1])
        raise UsageError(f"tiles is {value!r}; give True, (rows, cols) or Tiles(...)")


def windows(size_px: tuple[int, int], tiles: Tiles, side_px: int) -> list[Window]:
    """Left, top, right, bottom of each window, row by row, in whole pixels; one window if the picture is no larger.

    Args:
        size_px: width and height of the picture.
        side_px: the model's resolution, the windows' side unless `tiles` says another.

    Raises:
        UsageError: more rows or columns than pixels.
    """
    width, height = size_px
    if tiles.rows is not None and tiles.cols is not None:
        if tiles.rows > height or tiles.cols > width:
            raise UsageError(
                f"{tiles.rows} x {tiles.cols} tiles were asked of a picture of {height} x {width} pixels; ask for fewer"
            )
        across, down = _by_count(width, tiles.cols, tiles.overlap), _by_count(height, tiles.rows, tiles.overlap)
    else:
        side = tiles.size_px or side_px
        across, down = _by_size(width, side, tiles.overlap), _by_size(height, side, tiles.overlap)
        while tiles.size_px is None and len(across) * len(down) > MAX_WINDOWS:
            side = math.ceil(side * 1.1)
            across, down = _by_size(width, side, tiles.overlap), _by_size(height, side, tiles.overlap)
    return [(left, top, right, bottom) for top, bottom in down for left, right in across]


def _by_size(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    side = min(length, side)
    step = max(1, side - math.floor(overlap * side))
    return _spread(length, side, 1 + math.ceil((length - side) / step))


def _by_count(length: int, count: int, overlap: float) -> list[tuple[int, int]]:
    return _spread(length, min(length, math.ceil(length / (count - (count - 1) * overlap))), count)


def _spread(length: int, side: int, count: int) -> list[tuple[int, int]]:
    """`count` stretches of `side` pixels from end to end, evenly."""
    starts = [0] if count == 1 else [i * (length - side) // (count - 1) for i in range(count)]
    return [(start, start + side) for start in starts]


@dataclass(frozen=True)
class Boxes:
    """n boxes of one picture, found in its windows.

    Args:
        xyxy: float64[n, 4] in pixels of the whole picture.
        labels: int64[n].
        scores: float64[n], only their order counts.
        cut: bool[n, 4]: which sides may be cut by the border of the window it was found in.
        parts: for each, the places in the first list of what it was made of; the first is the most certain.
    """

    xyxy: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    cut: np.ndarray
    parts: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Any) -> "Boxes":
        """Some of them, by their places."""
        chosen = np.asarray(places, dtype=np.int64)
        parts = tuple(self.parts[i] for i in chosen)
        return Boxes(self.xyxy[chosen], self.labels[chosen], self.scores[chosen], self.cut[chosen], parts)


def cut_sides(xyxy: np.ndarray, window: Window, size_px: tuple[int, int]) -> np.ndarray:
    """bool[n, 4]: which sides of boxes float64[n, 4] touch a border of their window that is inside the picture."""
    left, top, right, bottom = window
    near = np.array([right - left, bottom - top] * 2) * BORDER
    inner = np.array([left > 0, top > 0, right < size_px[0], bottom < size_px[1]])
    return (np.abs(xyxy.reshape(-1, 4) - np.array(window)) <= near) & inner


def merge(boxes: Boxes) -> Boxes:
    """Facing pieces joined, repetitions left out; most certain first. Merging a second time changes nothing."""
    return _without_repetitions(_joined(_without_known_pieces(boxes)))


def _without_known_pieces(boxes: Boxes) -> Boxes:
    """Leaves out cut boxes that are part of a whole one: joined to others they would only spoil it."""
    cut, shared = np.asarray(boxes.cut.any(1)), _shared_area(boxes.xyxy)
    same = boxes.labels[:, None] == boxes.labels[None]
    part = (shared >= INSIDE * np.diagonal(shared)[:, None]) & same & ~cut[None] & cut[:, None]
    return boxes.take(np.flatnonzero(~part.any(1)))


def _joined(boxes: Boxes) -> Boxes:
    """Unites pairs of pieces until no two face each other."""
    while pair := _facing_pair(boxes):
        first, second = sorted(pair, key=lambda i: -boxes.scores[i])
        a, b = boxes.xyxy[first], boxes.xyxy[second]
        union = np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])
        # a side is still cut where the piece that reaches furthest there is
        cut = np.where(np.isclose(a, union), boxes.cut[first], boxes.cut[second])
        rest = boxes.take([i for i in range(len(boxes)) if i not in pair])
        boxes = Boxes(
            xyxy=np.vstack([rest.xyxy, union]),
            labels=np.append(rest.labels, boxes.labels[first]),
            scores=np.append(rest.scores, boxes.scores[first]),
            cut=np.vstack([rest.cut, cut]),
            parts=(*rest.parts, (*boxes.parts[first], *boxes.parts[second])),
        )
    return boxes


def _facing_pair(boxes: Boxes) -> tuple[int, int] | None:
    """Two pieces of one label that face each other: one cut at its right (or bottom), one at its left (or top)."""
    for axis in (0, 1):
        ahead, behind = np.nonzero(boxes.cut[:, axis + 2])[0], np.nonzero(boxes.cut[:, axis])[0]
        for i in ahead:
            for j in behind:
                if i != j and boxes.labels[i] == boxes.labels[j] and _goes_on(boxes.xyxy[i], boxes.xyxy[j], axis):
                    return int(i), int(j)
    return None


def _goes_on(a: np.ndarray, b: np.ndarray, axis: int) -> bool:
    """Whether b begins inside a, ends behind it, and lies in line with it."""
    if not (a[axis] <= b[axis] <= a[axis + 2] <= b[axis + 2]):
        return False
    start, stop = 1 - axis, 3 - axis
    shared = min(a[stop], b[stop]) - max(a[start], b[start])
    return bool(shared >= IN_LINE * (max(a[stop], b[stop]) - min(a[start], b[start])))


def _without_repetitions(boxes: Boxes) -> Boxes:
    """Goes through the boxes, uncut ones first, the likelier first, and keeps those that repeat none before."""
    order = np.lexsort((np.arange(len(boxes)), -boxes.scores, boxes.cut.any(1)))
    boxes = boxes.take(order)
    shared = _shared_area(boxes.xyxy)
    area = np.diagonal(shared)
    kept: list[int] = []
    for i in range(len(boxes)):
        same = [k for k in kept if boxes.labels[k] == boxes.labels[i]]
        repeats = shared[i, same] >= SAME_IOU * (area[i] + area[same] - shared[i, same])
        part = boxes.cut[i].any() & (shared[i, same] >= INSIDE * area[i])
        if not (repeats | part).any():
            kept.append(i)
    return boxes.take(kept)


def _shared_area(xyxy: np.ndarray) -> np.ndarray:
    """float64[n, n]: area that each two boxes have in common."""
    low = np.maximum(xyxy[:, None, :2], xyxy[None, :, :2])
    high = np.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    return np.clip(high - low, 0, None).prod(-1)
