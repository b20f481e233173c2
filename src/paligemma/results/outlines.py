"""Masks -> outlines: the edges between pixels, walked round each part, simplified, holes joined.

In: bool[h, w]. Out: closed polygons in pixel coordinates whose filling gives the mask back, exactly where nothing is
simplified. A pixel at column x covers x..x+1. Pixels that touch at a corner only belong to two parts. A hole is joined
to the outline around it by a way there and the same way back, which no filling rule sees; so formats that know one ring
for each part (COCO, YOLO) can hold it.
"""

import numpy as np


def outlines(mask: np.ndarray, tolerance_px: float = 0.0) -> list[np.ndarray]:
    """One float64[n, 2] of x, y for each part of bool[h, w], clockwise on screen, the first point not repeated.

    Args:
        tolerance_px: how far an outline may stray from the pixels' edges; 0 follows them exactly.
    """
    borders = _borders(mask)
    outer = [ring for ring in borders if area(ring) > 0]
    joined = [_simplified(ring, tolerance_px) for ring in outer]
    for hole in (ring for ring in borders if area(ring) < 0):
        inside = _left_of(hole[-1], hole[0])
        around = [i for i, ring in enumerate(outer) if _surrounds(ring, inside)]
        home = min(around, key=lambda i: area(outer[i]))
        joined[home] = _joined(joined[home], _simplified(hole, tolerance_px))
    return [ring.astype(np.float64) for ring in joined]


def rings(mask: np.ndarray, tolerance_px: float = 0.0) -> list[np.ndarray]:
    """The same borders each alone: parts clockwise on screen, holes against the clock."""
    return [_simplified(ring, tolerance_px).astype(np.float64) for ring in _borders(mask)]


def as_one(several: list[np.ndarray]) -> np.ndarray:
    """All parts in one ring, joined by cuts of no width; the filling stays the same.

    Args:
        several: float[n, 2] each, at least one.
    """
    whole = several[0]
    for ring in several[1:]:
        whole = _joined(whole, ring)
    return whole


def area(ring: np.ndarray) -> float:
    """Area of a closed ring in square pixels; negative where it runs against the clock on screen."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _borders(mask: np.ndarray) -> list[np.ndarray]:
    """int64[n, 2] corners x, y of every border, object to the right: parts clockwise on screen, holes against it."""
    start, direction = _edges(mask)
    if not len(start):
        return []
    width = mask.shape[1] + 1  # corners in a row
    step = np.array([1, width, -1, -width])  # right, down, left, up
    end = start + step[direction]
    order = np.argsort(start, kind="stable")
    first = np.searchsorted(start[order], end)
    following = order[first]
    # Where two borders meet in a corner, two edges leave it: turn right, which stays with the same pixel.
    second = order[np.minimum(first + 1, len(order) - 1)]
    crossing = (start[second] == end) & (second != following) & (direction[second] == (direction + 1) % 4)
    following = np.where(crossing, second, following).tolist()
    found, seen = [], np.zeros(len(start), dtype=bool)
    turns = direction[following] != direction
    for i in range(len(start)):
        if seen[i]:
            continue
        walk, at = [], i
        while not seen[at]:
            seen[at] = True
            walk.append(at)
            at = following[at]
        ring = end[np.array(walk)][turns[walk]]  # only where the direction changes
        found.append(np.stack([ring % width, ring // width], axis=1))
    return found


def _edges(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corner numbers where the borders' unit edges start, and their directions 0..3, object to the right of each."""
    padded = np.pad(mask.astype(bool), 1)
    width = mask.shape[1] + 1
    inside = padded[1:-1, 1:-1]
    starts, directions = [], []
    # Above a pixel the edge runs right, at its right down, below it left, at its left up.
    for direction, (neighbour, dy, dx) in enumerate(
        [(padded[:-2, 1:-1], 0, 0), (padded[1:-1, 2:], 0, 1), (padded[2:, 1:-1], 1, 1), (padded[1:-1, :-2], 1, 0)]
    ):
        y, x = np.nonzero(inside & ~neighbour)
        starts.append((y + dy) * width + x + dx)
        directions.append(np.full(len(y), direction))
    return np.concatenate(starts), np.concatenate(directions)


def _left_of(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The middle of the pixel to the left of the edge a -> b, at its end; of a hole's border that is in the hole."""
    dx, dy = np.sign(b - a)
    return float(b[0] - dx / 2 + dy / 2), float(b[1] - dy / 2 - dx / 2)


def _surrounds(ring: np.ndarray, point: tuple[float, float]) -> bool:
    """True where the middle of a pixel is inside a ring of upright and level edges."""
    x, y = point
    x1, y1, x2, y2 = ring[:, 0], ring[:, 1], np.roll(ring[:, 0], -1), np.roll(ring[:, 1], -1)
    crossed = (x1 == x2) & (x1 > x) & (np.minimum(y1, y2) < y) & (np.maximum(y1, y2) > y)
    return bool(crossed.sum() % 2)


def _joined(ring: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The ring with a way to another, round that and back, at their nearest corners."""
    distance = ((ring[:, None, :].astype(np.float64) - other[None, :, :]) ** 2).sum(axis=2)
    at, into = np.unravel_index(int(distance.argmin()), distance.shape)
    round_trip = np.concatenate([other[into:], other[: into + 1]])
    return np.concatenate([ring[: at + 1], round_trip, ring[at:]])


def _simplified(ring: np.ndarray, tolerance_px: float) -> np.ndarray:
    """Fewer corners, none of those left out farther than the tolerance from the new edge (Douglas and Peucker)."""
    if tolerance_px <= 0 or len(ring) <= 4:
        return ring
    far = int(((ring - ring[0]) ** 2).sum(axis=1).argmax())
    closed = np.concatenate([ring, ring[:1]]).astype(np.float64)
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        along = closed[b] - closed[a]
        off = closed[a + 1 : b] - closed[a]
        length = float(np.hypot(*along))
        distance = np.abs(along[0] * off[:, 1] - along[1] * off[:, 0]) / length if length else np.hypot(*off.T)
        worst = int(distance.argmax())
        if distance[worst] > tolerance_px:
            keep[a + 1 + worst] = True
            spans += [(a, a + 1 + worst), (a + 1 + worst, b)]
    kept = closed[:-1][keep[:-1]]
    return kept if len(kept) >= 3 and abs(area(kept)) > 0 else ring
