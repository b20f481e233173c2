"""Scenes: one seed -> one picture with the exact truth about it.

`draw_scene(seed)` places one to four drawn objects and sometimes a printed word on a plain, graded or striped
background. The same seed always gives the same scene; every coordinate in the truth is a fraction of the side.
"""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from paligemma.scenes.first.drawings import COLORS, LABELS, OPAQUE, RGB, draw

NORM_BOX = tuple[float, float, float, float]
MAX_OBJECTS = 4
MIN_GAP = 0.06  # of the side: objects differ in their horizontal centre at least by this, so that order is defined

WORDS = tuple(
    """
    apple art bag ball bank bar bed bee big book box boy bus cafe cake call city clock coat cold cook corn cow cup
    dance day desk door down east egg end exit farm fast film fire fish five food four free game gate gift girl go
    gold good hat help hill home hot hotel ice info jam jazz job joy king kiwi lake land lemon life light lion list
    live low luck lunch map milk moon more movie music name new news nine no north nut ocean off old one open orange
    park pen piano pizza play pool push queen quiet quiz radio rain red rest ring road rock room rose sale salt sand
    school sea seven shop show six sky slow snow soap song soup south spa star start stop sugar sun taxi tea ten
    test three ticket time tip toy train two up van view wait walk wall warm water west wind wine wolf wood yes zero
    zone zoo
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One drawn object: box as (y_min, x_min, y_max, x_max) fractions of the side, mask bool[side, side]."""

    label: str
    color: str
    box: NORM_BOX
    mask: NDArray[np.bool_] = field(repr=False, compare=False)

    @property
    def center_x(self) -> float:
        return (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, kw_only=True)
class Text:
    """A printed word and one box per character."""

    word: str
    box: NORM_BOX
    char_boxes: tuple[NORM_BOX, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and the truth about it; `things` from left to right."""

    image: Image.Image
    things: tuple[Thing, ...]
    text: Text | None


def draw_scene(seed: int, size_px: int = 112) -> Scene:
    """The scene of a seed at a resolution in pixels (another resolution may place things a little differently)."""
    rng = random.Random(seed)
    base = _background_color(rng)
    image = _background(rng, base, size_px)
    taken: list[NORM_BOX] = []
    text = _place_text(rng, image, base, taken) if rng.random() < 0.35 else None
    things: list[Thing] = []
    for _ in range(rng.choice((1, 1, 2, 2, 2, 3, 3, 3, 4, 4, MAX_OBJECTS))):
        thing = _place_thing(rng, image, base, taken, things)
        if thing is not None:
            things.append(thing)
    _speckle(rng, image)
    return Scene(image=image, things=tuple(sorted(things, key=lambda t: t.center_x)), text=text)


def _place_thing(
    rng: random.Random, image: Image.Image, base: RGB, taken: list[NORM_BOX], before: list[Thing]
) -> Thing | None:
    """Draws one object where it overlaps nothing; None when twenty tries found no room."""
    side = image.width
    label, color = _choose(rng, base, before)
    rgb = _jitter(rng, COLORS[color], 14)
    stretch, flip = rng.uniform(0.88, 1.14), rng.random() < 0.5
    scale = rng.uniform(0.19, 0.46 - 0.04 * len(taken))
    where = [(rng.random(), rng.random()) for _ in range(20)]
    picture = draw(label, scale * side, rgb, stretch, flip)
    if picture.width > 0.62 * side:
        picture = draw(label, scale * side * 0.62 * side / picture.width, rgb, stretch, flip)
    for u, v in where:
        x, y = round(u * (side - picture.width)), round(v * (side - picture.height))
        box = (y / side, x / side, (y + picture.height) / side, (x + picture.width) / side)
        if all(_apart(box, other) for other in taken):
            taken.append(box)
            image.paste(picture, (x, y), picture)
            mask = np.zeros((side, side), bool)
            mask[y : y + picture.height, x : x + picture.width] = np.asarray(picture.getchannel("A")) >= OPAQUE
            return Thing(label=label, color=color, box=box, mask=mask)
    return None


def _choose(rng: random.Random, base: RGB, before: list[Thing]) -> tuple[str, str]:
    """Label and a colour that shows on the background; often one more of a kind, for something to count."""
    label = rng.choice(LABELS)
    color = rng.choice([name for name, rgb in COLORS.items() if _distance(rgb, base) > 130])
    if before and rng.random() < 0.4:
        twin = rng.choice(before)
        label = twin.label
        color = twin.color if rng.random() < 0.6 else color
    return label, color


def _place_text(rng: random.Random, image: Image.Image, base: RGB, taken: list[NORM_BOX]) -> Text:
    side = image.width
    word = rng.choice(WORDS).upper() if rng.random() < 0.7 else _random_string(rng)
    height = rng.uniform(0.12, 0.2) * side
    font = ImageFont.load_default(height)
    while font.getlength(word) > 0.92 * side:
        height *= 0.9
        font = ImageFont.load_default(height)
    left, top, right, bottom = font.getbbox(word)
    x = rng.uniform(0.02, 0.98 - (right - left) / side) * side - left
    y = rng.uniform(0.02, 0.98 - (bottom - top) / side) * side - top
    dark = sum(base) > 380
    ink = _jitter(rng, (30, 30, 35) if dark else (240, 240, 235), 25)
    ImageDraw.Draw(image).text((x, y), word, font=font, fill=ink)
    edges = [x + font.getlength(word[:k]) for k in range(len(word) + 1)]
    y0, y1 = (y + top) / side, (y + bottom) / side
    chars = tuple((y0, a / side, y1, b / side) for a, b in pairwise(edges))
    box = (y0, (x + left) / side, y1, (x + right) / side)
    taken.append(box)
    return Text(word=word, box=box, char_boxes=chars)


def _random_string(rng: random.Random) -> str:
    return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(rng.randint(2, 5)))


def _apart(a: NORM_BOX, b: NORM_BOX) -> bool:
    overlap = min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
    return not overlap and abs((a[1] + a[3]) - (b[1] + b[3])) / 2 > MIN_GAP


def _background_color(rng: random.Random) -> RGB:
    level = rng.choice((rng.uniform(175, 245), rng.uniform(175, 245), rng.uniform(25, 95)))
    return _jitter(rng, (round(level),) * 3, 30)


def _background(rng: random.Random, base: RGB, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), base)
    kind = rng.random()
    if kind < 0.35:
        other = Image.new("RGB", (side, side), _jitter(rng, base, 30))
        ramp = Image.linear_gradient("L").resize((side, side))
        if rng.random() < 0.5:
            ramp = ramp.transpose(Image.Transpose.ROTATE_90)
        image = Image.composite(other, image, ramp)
    elif kind < 0.6:
        pen = ImageDraw.Draw(image)
        step = rng.uniform(0.07, 0.2) * side
        stripe = _jitter(rng, base, 12)
        for k in range(0, int(side / step) + 1, 2):
            pen.rectangle((0, k * step, side, (k + 1) * step), fill=stripe)
    return image


def _speckle(rng: random.Random, image: Image.Image) -> None:
    """A few dots of dirt, so that no single pixel is a safe clue."""
    pen = ImageDraw.Draw(image)
    side = image.width
    for _ in range(rng.randint(0, 12)):
        x, y = rng.random() * side, rng.random() * side
        shade = rng.randint(60, 200)
        pen.ellipse((x, y, x + side * 0.012, y + side * 0.012), fill=(shade, shade, shade))


def _jitter(rng: random.Random, rgb: tuple[int, ...], spread: int) -> RGB:
    red, green, blue = (min(255, max(0, c + rng.randint(-spread, spread))) for c in rgb)
    return red, green, blue


def _distance(a: RGB, b: RGB) -> float:
    return sum(abs(p - q) for p, q in zip(a, b, strict=True))
