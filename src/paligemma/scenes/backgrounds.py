"""What is behind the objects: plain, graded, striped, checked, textured and photograph-like grounds, and grain.

Every random number is drawn before the size in pixels matters: soft grounds are made on a small grid and enlarged, so
that a ground looks the same at every size. To add one, write a function of (rng, palette, size) and enter it in
`GROUNDS` with its share.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma.scenes.catalog import RGB

GRID = 64  # soft grounds are made in this many cells a side
Field = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A background: the picture, its kind, and the two colours everything in it lies around."""

    image: Image.Image = field(repr=False, compare=False)
    kind: str
    base: RGB
    other: RGB


def draw_ground(rng: random.Random, size_px: int, kind: str | None = None) -> Ground:
    """A background of `GROUNDS`; without a kind one is drawn with the shares there."""
    if kind is None:
        kind = rng.choices(list(GROUNDS), [share for _, share in GROUNDS.values()])[0]
    base = base_color(rng)
    other = jitter(rng, base, 42)
    image = GROUNDS[kind][0](rng, base, other, size_px)
    return Ground(image=image, kind=kind, base=base, other=other)


def grain_level(rng: random.Random) -> float:
    """How much noise the sensor adds: mostly none, else 2 to 10 levels."""
    return rng.uniform(2, 10) if rng.random() < 0.4 else 0.0


def grain(rng: random.Random, image: Image.Image, level: float) -> Image.Image:
    """The whole picture as a sensor sees it, every pixel off by up to twice the level."""
    noise, most = _numbers(rng), round(2 * level)
    if not most:
        return image
    levels = noise.integers(-most, most + 1, (image.height, image.width, 1), np.int16)
    return Image.fromarray(np.clip(np.asarray(image) + levels, 0, 255).astype(np.uint8))


def base_color(rng: random.Random) -> RGB:
    """Light, dark or in between, with more or less of some colour."""
    low, high = rng.choices(((165, 245), (20, 85), (85, 165)), (0.55, 0.27, 0.18))[0]
    level, tint = rng.uniform(low, high), rng.uniform(0, 75)
    red, green, blue = (min(255, max(0, round(level + tint * rng.uniform(-1, 1)))) for _ in range(3))
    return red, green, blue


def jitter(rng: random.Random, rgb: RGB, spread: int) -> RGB:
    """A colour with every channel moved by up to `spread` levels."""
    red, green, blue = (min(255, max(0, c + rng.randint(-spread, spread))) for c in rgb)
    return red, green, blue


def _numbers(rng: random.Random) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(rng.getrandbits(64)))


def _plain(rng: random.Random, base: RGB, other: RGB, size_px: int) -> Image.Image:
    return Image.new("RGB", (size_px, size_px), base)


def _gradient(rng: random.Random, base: RGB, other: RGB, size_px: int) -> Image.Image:
    """From one colour to the other, straight or around a point."""
    y, x = _axes(GRID)
    if rng.random() < 0.7:
        angle = rng.uniform(0, math.tau)
        ramp = 0.5 + 0.5 * ((x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)) / 0.7
    else:
        ramp = np.hypot(x - rng.uniform(0.2, 0.8), y - rng.uniform(0.2, 0.8))
    return _enlarge(_between(base, other, ramp), size_px)


def _stripes(rng: random.Random, base: RGB, other: RGB, size_px: int) -> Image.Image:
    step, angle = rng.uniform(0.05, 0.2), rng.choice((0, math.pi / 2, rng.uniform(0, math.pi)))
    phase, duty = rng.random(), rng.uniform(0.3, 0.7)
    y, x = _axes(size_px)
    wave = np.mod((x * math.cos(angle) + y * math.sin(angle)) / step + phase, 1)
    mask = _soft(duty / 2 - np.abs(wave - 0.5), step, size_px)
    return _compose(base, other, mask)


def _checks(rng: random.Random, base: RGB, other: RGB, size_px: int) -> Image.Image:
    """A chess board, a grid of lines, or dots."""
    step, angle = rng.uniform(0.08, 0.2), rng.choice((0.0, rng.uniform(0, math.pi / 2)))
    phases, look = (rng.random(), rng.random()), rng.choice(("board", "grid", "dots"))
    y, x = _axes(size_px)
    across = np.mod((x * math.cos(angle) + y * math.sin(angle)) / step + phases[0], 1) - 0.5
    down = np.mod((y * math.cos(angle) - x * math.sin(angle)) / step + phases[1], 1) - 0.5
    if look == "board":
        edges = (np.abs(across) - 0.25) * np.sign(np.abs(down) - 0.25)
        edges = np.sign(edges) * np.minimum(np.abs(edges), np.abs(np.abs(down) - 0.25))
    elif look == "grid":
        edges = 0.08 - np.minimum(np.abs(across), np.abs(down))
    else:
        edges = 0.28 - np.hypot(across, down)
    return _compose(base, other, _soft(edges, step, size_px))


def _texture(rng: random.Random, base: RGB, other: RGB, size_px: int) -> Image.Image:
    """One value-noise field between two colours: clouds, paper, wood grain, marble."""
    noise = _numbers(rng)
    look, fine = rng.choice(("clouds", "wood", "marble")), rng.uniform(0.45, 0.8)
    cells: tuple[tuple[int, int], ...] = ((3, 3), (6, 6), (13, 13), (26, 26), (52, 52))
    if look == "wood":
        cells = ((2, 8), (3, 20), (4, 45)) if rng.random() < 0.5 else ((8, 2), (20, 3), (45, 4))
    value = octaves(noise, cells, fine)[..., 0]
    if look == "marble":
        value = 2 * np.abs(np.sin(rng.uniform(2, 5) * value)) - 1
    return _enlarge(_between(base, other, np.clip(0.5 + 0.6 * value, -0.3, 1.3)), size_px)


def _photo(rng: random.Random, base: RGB, other: RGB, size_px: int) -> Image.Image:
    """Coloured noise at several scales, soft spots of light, darker corners, little of it sharp."""
    noise = _numbers(rng)
    fine = rng.uniform(0.35, 0.75)
    gray = octaves(noise, ((3, 3), (6, 6), (13, 13), (28, 28), (56, 56)), fine)
    tints = octaves(noise, ((2, 2), (4, 4), (9, 9)), 0.6, channels=3)
    picture = _between(base, other, np.full((GRID, GRID), 0.5, np.float32))
    picture += rng.uniform(8, 26) * gray + rng.uniform(4, 20) * tints
    y, x = _axes(GRID)
    for _ in range(rng.randint(0, 5)):
        center_y, center_x, radius = rng.random(), rng.random(), rng.uniform(0.04, 0.2)
        spot = _soft(radius - np.hypot(y - center_y, x - center_x), 1.0, 24)
        tint = np.array([rng.uniform(-10, 38) for _ in range(3)], np.float32)
        picture += (spot * rng.uniform(0.3, 1.0))[..., None] * tint
    corners = rng.uniform(0, 0.45)
    picture *= (1 - corners * ((x - 0.5) ** 2 + (y - 0.5) ** 2) * 2)[..., None]
    return _enlarge(picture, size_px)


def octaves(
    noise: np.random.Generator, cells: tuple[tuple[int, int], ...], persistence: float, channels: int = 1
) -> Field:
    """Value noise, float32[GRID, GRID, channels] of about unit spread: the sum of enlarged random grids.

    Args:
        cells: (across, down) of every grid, coarse to fine.
        persistence: how much of one grid's strength the next has.
    """
    total = np.zeros((GRID, GRID, channels), np.float32)
    power = 0.0
    for level, (across, down) in enumerate(cells):
        grid = noise.standard_normal((channels, down, across), np.float32)
        strength = persistence**level
        total += strength * np.moveaxis(_spread(down) @ grid @ _spread(across).T, 0, -1)
        power += strength**2
    return total / np.float32(0.7 * math.sqrt(power))


@cache
def _spread(cells: int) -> Field:
    """float32[GRID, cells] that interpolates smoothly between the values of a line of cells."""
    place = (np.arange(GRID) + 0.5) * (cells - 1) / GRID
    left = place.astype(int)
    t = place - left
    t = t * t * (3 - 2 * t)
    matrix = np.zeros((GRID, cells), np.float32)
    matrix[np.arange(GRID), left] = 1 - t
    matrix[np.arange(GRID), left + 1] = t
    return matrix


def _axes(side: int) -> tuple[Field, Field]:
    """The middle of every row, float32[side, 1], and of every column, float32[1, side], as fractions."""
    middles = (np.arange(side, dtype=np.float32) + 0.5) / side
    return middles[:, None], middles[None]


def _soft(edges: Field, step: float, size_px: int) -> Field:
    """From a distance inside a shape, in steps, to coverage 0..1 with edges a pixel wide."""
    return np.clip(edges * np.float32(step * size_px) + 0.5, 0, 1)


def _between(base: RGB, other: RGB, share: Field) -> Field:
    """float32[height, width, 3] between two colours."""
    start, end = np.array(base, np.float32), np.array(other, np.float32)
    return start + (end - start) * share[..., None].astype(np.float32)


def _compose(base: RGB, other: RGB, mask: Field) -> Image.Image:
    cover = Image.fromarray((mask * 255).astype(np.uint8))
    image = Image.new("RGB", cover.size, base)
    image.paste(other, (0, 0), cover)
    return image


def _enlarge(picture: Field, size_px: int) -> Image.Image:
    small = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return small.resize((size_px, size_px), Image.Resampling.BICUBIC)


GROUNDS: dict[str, tuple[Callable[[random.Random, RGB, RGB, int], Image.Image], float]] = {
    "plain": (_plain, 0.2),
    "gradient": (_gradient, 0.18),
    "stripes": (_stripes, 0.12),
    "checks": (_checks, 0.1),
    "texture": (_texture, 0.2),
    "photo": (_photo, 0.2),
}
