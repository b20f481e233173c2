"""From drawing commands to figures, and from a figure in a pose to an antialiased RGBA tile.

A drawing is written in the unit square (x right, y down) of a `Pen`, which keeps filled polygons only, so that a figure
can be stretched, turned, mirrored and measured exactly before a single pixel is painted. No randomness in here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from paligemma.scenes.catalog import RGB

HOLE = math.inf  # the shade that takes away what was drawn before
SUPERSAMPLING = 3  # tiles are painted this much larger and shrunk
OPAQUE = 128  # alpha from which a pixel belongs to the object
Point = tuple[float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Figure:
    """Filled polygons in drawing order: corners float64[N, 2] as (x, y), height 1; one shade each."""

    polygons: tuple[Points, ...]
    shades: tuple[float, ...]

    @cached_property
    def corners(self) -> Points:
        return np.concatenate(self.polygons)

    @cached_property
    def solid(self) -> NDArray[np.bool_]:
        """Which corners are not a hole's: those that bound the figure."""
        return np.repeat([shade != HOLE for shade in self.shades], [len(polygon) for polygon in self.polygons])


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How a figure is shown.

    Attributes:
        size: square root of width times height of the box around it before it is turned, as a fraction of the side.
        longest: no side of that box is longer than this fraction.
        stretch: factor on the width. turn: degrees clockwise. flip: mirrored left-right.
    """

    size: float
    longest: float = 0.62
    stretch: float = 1.0
    turn: float = 0.0
    flip: bool = False


class Pen:
    """Collects the shapes of one drawing; `shade` moves the main colour towards black (-1) or white (+1)."""

    def __init__(self, aspect: float):
        self._aspect = aspect
        self._polygons: list[Points] = []
        self._shades: list[float] = []

    def figure(self) -> Figure:
        return Figure(tuple(self._polygons), tuple(self._shades))

    def _add(self, points: Points, shade: float) -> None:
        self._polygons.append(points * (self._aspect, 1.0))
        self._shades.append(shade)

    def polygon(self, *points: Point, shade: float = 0) -> None:
        self._add(np.asarray(points, float), shade)

    def blob(self, *points: Point, shade: float = 0) -> None:
        """A smooth closed outline through the points."""
        self._add(_smooth(np.asarray(points, float)), shade)

    def box(self, x0: float, y0: float, x1: float, y1: float, shade: float = 0) -> None:
        self.polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1), shade=shade)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, shade: float = 0) -> None:
        self.sector(x0, y0, x1, y1, 0, 360, shade)

    def sector(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, shade: float = 0) -> None:
        """A slice of the ellipse in a box between two angles in degrees, clockwise from three o'clock."""
        whole = end - start >= 360
        angles = np.radians(np.linspace(start, end, max(6, round((end - start) / 12)) + 1)[: -1 if whole else None])
        center, radii = np.array(((x0 + x1) / 2, (y0 + y1) / 2)), np.array(((x1 - x0) / 2, (y1 - y0) / 2))
        rim = center + radii * np.stack((np.cos(angles), np.sin(angles)), axis=1)
        self._add(rim if whole else np.concatenate((center[None], rim)), shade)

    def disc(self, x: float, y: float, radius: float, shade: float = 0) -> None:
        """A circle, whatever the drawing's aspect; the radius is in heights."""
        across = radius / self._aspect
        self.ellipse(x - across, y - radius, x + across, y + radius, shade)

    def ring(self, x: float, y: float, radius: float, thickness: float, shade: float = 0) -> None:
        self.disc(x, y, radius, shade)
        self.disc(x, y, radius - thickness, HOLE)

    def line(self, points: Sequence[Point], thickness: float, shade: float = 0) -> None:
        """A stroke with round joints and ends; the thickness is in heights."""
        wide = (self._aspect, 1.0)
        for a, b in pairwise(points):
            start, end = np.asarray(a) * wide, np.asarray(b) * wide
            along = (end - start) / np.hypot(*(end - start)) * thickness / 2
            aside = np.array((-along[1], along[0]))
            self._add(np.stack((start + aside, end + aside, end - aside, start - aside)) / wide, shade)
        for x, y in points:
            self.disc(x, y, thickness / 2, shade)

    def curve(self, points: Sequence[Point], thickness: float, shade: float = 0) -> None:
        """A stroke that runs smoothly through the points, with round ends."""
        wide = (self._aspect, 1.0)
        steps = 6
        closed = _smooth(np.asarray((points[0], *points, points[-1])) * wide, steps)
        path = closed[steps : steps * len(points) + 1]
        along = np.gradient(path, axis=0)
        along /= np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-9)
        aside = np.stack((-along[:, 1], along[:, 0]), axis=1) * thickness / 2
        self._add(np.concatenate((path + aside, (path - aside)[::-1])) / wide, shade)
        for x, y in (points[0], points[-1]):
            self.disc(x, y, thickness / 2, shade)


def _smooth(points: Points, steps: int = 6) -> Points:
    """A closed Catmull-Rom spline through the points."""
    t = np.arange(steps)[None, :, None] / steps
    before, here, then, after = (np.roll(points, k, axis=0)[:, None] for k in (1, 0, -1, -2))
    spline = here + t * (then - before) / 2
    spline = spline + t**2 * (2 * before - 5 * here + 4 * then - after) / 2
    spline = spline + t**3 * (3 * here - before - 3 * then + after) / 2
    return spline.reshape(-1, 2)


def shaded(rgb: RGB, shade: float) -> RGB:
    """A darker (shade < 0) or lighter colour; what cannot get darker or lighter goes a little the other way."""
    light = sum(rgb) / 3
    if shade < 0 and light < 60:
        shade *= -0.55
    elif shade > 0 and light > 215:
        shade *= -0.45
    target = 255 if shade > 0 else 0
    red, green, blue = (round(c + (target - c) * abs(shade)) for c in rgb)
    return red, green, blue


def posed(figure: Figure, pose: Pose) -> Points:
    """All corners in picture fractions, float64[N, 2] as (x, y); the box around the figure starts at (0, 0)."""
    corners: Points = figure.corners * (pose.stretch * (-1 if pose.flip else 1), 1.0)
    width, height = np.ptp(corners[figure.solid], axis=0)
    scale = min(pose.size / math.sqrt(width * height), pose.longest / max(width, height))
    corners = turned(corners * scale, pose.turn)
    return corners - corners[figure.solid].min(axis=0)


def turned(corners: Points, degrees: float) -> Points:
    """Corners turned clockwise around (0, 0)."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    result: Points = corners @ np.array(((cos, sin), (-sin, cos)))
    return result


def extent(figure: Figure, corners: Points) -> tuple[float, float]:
    """Width and height, as fractions of the side, of a figure whose corners are `posed`."""
    width, height = corners[figure.solid].max(axis=0)
    return float(width), float(height)


def paint(
    figure: Figure, corners: Points, rgb: RGB, *, size_px: int, offset: Point = (0.0, 0.0), outline: float = 0.0
) -> Image.Image:
    """An RGBA tile of a posed figure in a picture of `size_px` pixels.

    Args:
        corners: what `posed` gave. offset: of the figure inside the tile in pixels, each in [0, 1).
        outline: thickness of a contour as a fraction of the side, drawn inside the figure.
    """
    sides = np.ceil(corners[figure.solid].max(axis=0) * size_px + offset).astype(int) + 1
    big = [int(side) * SUPERSAMPLING for side in sides]
    tile = Image.new("RGBA", (big[0], big[1]), (*rgb, 0))
    draw = ImageDraw.Draw(tile)
    at = (corners * size_px + offset) * SUPERSAMPLING - 0.5
    start = 0
    for polygon, shade in zip(figure.polygons, figure.shades, strict=True):
        points = at[start : start + len(polygon)]
        start += len(polygon)
        fill = (*rgb, 0) if shade == HOLE else (*shaded(rgb, shade), 255)
        draw.polygon(points.ravel().tolist(), fill=fill)
    if outline:
        _contour(tile, shaded(rgb, -0.75), outline * size_px * SUPERSAMPLING)
    return tile.reduce(SUPERSAMPLING)


def _contour(tile: Image.Image, rgb: RGB, thickness: float) -> None:
    """Paints a line inside the figure's edge."""
    alpha = tile.getchannel("A")
    padded = Image.new("L", (tile.width + 2, tile.height + 2))
    padded.paste(alpha, (1, 1))
    blurred = padded.filter(ImageFilter.BoxBlur(max(1.0, thickness))).crop((1, 1, tile.width + 1, tile.height + 1))
    edge = blurred.point(lambda value: 255 if value < 253 else 0)
    tile.paste((*rgb, 255), (0, 0), Image.composite(edge, Image.new("L", tile.size), alpha))
