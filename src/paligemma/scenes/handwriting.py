"""Handwriting-like lines: the strokes of `faces` with a shaken hand, slant, wandering base line and uneven pen.

Digits and capitals only; digits and letters never meet in one line, since by hand O and 0, I and 1, S and 5 look alike.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw

from paligemma.scenes.faces import CAP_HEIGHT, STROKES, Point, flatten, strokes
from paligemma.scenes.lettering import (
    RGB,
    TRIES,
    WIDEST,
    Setting,
    Shape,
    apart,
    ink_on,
    line_at,
    loose,
    luminance,
    stamp,
    trace,
)
from paligemma.scenes.truth import Line, NormBox
from paligemma.scenes.words import DIGITS, LETTERS, WORDS

FONT = "hand"
CAP_PX = 110  # height of a capital while it is drawn
SMALLEST, HIGHEST, HIGHEST_OF_TWO = 0.14, 0.4, 0.28  # a line's height, of the side
LONGEST_WORD = 6
CLEAR = "ABCDEFGHJKLMNPQRTUVWXY"  # letters that are no digit, even alone


@dataclass(frozen=True, kw_only=True)
class Hand:
    """How somebody writes; lengths in units of which a capital is `faces.CAP_HEIGHT` high."""

    pen: float
    shake: float
    slant: float
    wander: float
    spacing: float
    turn: float
    swell: float
    width: float


def draw_hand(rng: random.Random) -> Hand:
    return Hand(
        pen=rng.uniform(0.45, 1.05),
        shake=rng.uniform(0.05, 0.32),
        slant=rng.uniform(-0.12, 0.32),
        wander=rng.uniform(0.0, 0.35),
        spacing=rng.uniform(0.9, 1.7),
        turn=math.radians(rng.uniform(-5, 5)),
        swell=rng.uniform(0.0, 0.5),
        width=rng.uniform(0.8, 1.15),
    )


def draw_written(rng: random.Random) -> str:
    """What is written: one to five digits, a short word, or one to four letters."""
    roll = rng.random()
    if roll < 0.5:
        return "".join(rng.choices(DIGITS, k=rng.choice((1, 1, 2, 2, 3, 3, 4, 5))))
    if roll < 0.8:
        return rng.choice([word for word in WORDS if len(word) <= LONGEST_WORD])
    count = rng.randint(1, 4)
    return "".join(rng.choices(CLEAR if count == 1 else LETTERS, k=count))


def written(rng: random.Random, text: str, hand: Hand) -> Shape:
    """The shape of a text in somebody's hand."""
    lines: list[list[Point]] = []
    reach: list[tuple[float, float]] = []  # of each character: its leftmost and rightmost point
    x = base = 0.0
    for character in text:
        way, size = rng.choice(STROKES[character]), rng.uniform(0.88, 1.08)
        base = max(-1.0, min(1.0, base + rng.uniform(-1, 1) * hand.wander))
        drawn = [_shaken(rng, curved, points, hand, size) for curved, points in strokes(way)]
        left, right = min(px for line in drawn for px, _ in line), max(px for line in drawn for px, _ in line)
        placed = [[_turned(px - left + x, py + base, hand.turn) for px, py in line] for line in drawn]
        reach.append((min(px for line in placed for px, _ in line), max(px for line in placed for px, _ in line)))
        lines += placed
        x += right - left + hand.pen + hand.spacing * rng.uniform(0.7, 1.2)
    first_x, first_y = min(px for line in lines for px, _ in line), min(py for line in lines for _, py in line)
    at_origin = [[(px - first_x, py - first_y) for px, py in line] for line in lines]
    scale = CAP_PX / CAP_HEIGHT
    image = trace(at_origin, hand.pen, scale, hand.swell)
    left, top, right, bottom = image.getbbox() or (0, 0, *image.size)
    between = [(a[1] + b[0]) / 2 - first_x + hand.pen for a, b in pairwise(reach)]
    edges = (0.0, *(x * scale - left for x in between), float(right - left))
    return Shape(image.crop((left, top, right, bottom)), edges)


def _shaken(rng: random.Random, curved: bool, points: Sequence[Point], hand: Hand, size: float) -> list[Point]:
    """One stroke as this hand does it: every control point a little off, slanted, smaller or larger."""
    moved = []
    for px, py in points:
        x, y = px + rng.gauss(0, hand.shake), py + rng.gauss(0, hand.shake)
        y = CAP_HEIGHT + (y - CAP_HEIGHT) * size
        moved.append((x * hand.width * size + (CAP_HEIGHT - y) * hand.slant, y))
    return flatten(curved, moved)


def _turned(x: float, y: float, angle: float) -> Point:
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def write(rng: random.Random, image: Image.Image, background: RGB, taken: list[NormBox]) -> tuple[Line, ...]:
    """Writes one or two lines by hand where nothing is taken, and takes their place; changes the picture.

    All that is drawn depends on `rng` alone, not on the picture's size.
    """
    hand, ink = draw_hand(rng), ink_on(rng, background)
    if rng.random() < 0.3:
        _rule(rng, image, background)
    count = rng.choice((1, 1, 2))
    lines = [_set(rng, text, hand, count) for text in _different(rng, count)]
    while lines:
        for _ in range(TRIES):
            boxes = loose(rng, lines)
            if all(apart(box, other) for box in boxes for other in taken):
                for line, box in zip(lines, boxes, strict=True):
                    stamp(image, line.made.coverage, box, ink)
                taken.extend(boxes)
                done = zip(lines, boxes, strict=True)
                return tuple(line_at(line.text, FONT, line.made, box, handwritten=True) for line, box in done)
        lines = lines[:-1]
    return ()


def _different(rng: random.Random, count: int) -> list[str]:
    texts = [draw_written(rng) for _ in range(count)]
    return list(dict.fromkeys(texts))


def _set(rng: random.Random, text: str, hand: Hand, count: int) -> Setting:
    """A text in this hand, as high as planned or as the width allows."""
    made = written(rng, text, hand)
    aspect = made.coverage.width / made.coverage.height
    height = min(rng.uniform(SMALLEST, HIGHEST if count == 1 else HIGHEST_OF_TWO), WIDEST / aspect)
    return Setting(text, FONT, made, height, height * aspect)


def _rule(rng: random.Random, image: Image.Image, background: RGB) -> None:
    """Ruled paper: faint lines across the picture."""
    step, first = rng.uniform(0.1, 0.25), rng.random()
    shade = -35 if luminance(background) > 128 else 35
    red, green, blue = (max(0, min(255, value + shade)) for value in background)
    pen, side = ImageDraw.Draw(image), image.width
    for k in range(int(1 / step) + 1):
        y = (k + first) * step * side
        pen.line((0, y, side, y), fill=(red, green, blue), width=max(1, side // 150))
