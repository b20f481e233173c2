"""Printed text: a string and a font -> its shape in ink, placed on a picture with one box per character.

No font file is ours: five fonts are variants of Pillow's built-in one, five are drawn from the tables in `faces`. Every
shape is first drawn at one fixed height, so that the layout, in fractions of the picture, is the same at every size.
Capitals, digits and `- . ! ? &` only.
"""

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from paligemma.scenes.faces import CAP_HEIGHT, PIXELS, STROKES, Point, flatten, strokes
from paligemma.scenes.truth import Line, NormBox

RGB = tuple[int, int, int]

CAP_PX = 72  # height of a capital in a shape
TYPE_PX, BASE_PX, PAD = 104, 84, 12  # of the built-in font's shapes: height, base line, room at the left and right
MIN_CONTRAST = 105  # between ink and ground, of 255
WIDEST = 0.94  # of the picture's side
MARGIN = 0.02
SMALLEST = 0.088  # height of a capital, of the side: 19.7 px at 224 px (a digit is a little lower)
HEIGHTS = {1: (0.11, 0.18), 2: (0.1, 0.17), 3: (SMALLEST, 0.14), 4: (SMALLEST, 0.12)}  # by number of lines
GAP = 0.035  # of the side, between lines that are not on one sign
TRIES = 12

INKS: tuple[RGB, ...] = (
    (20, 20, 24), (20, 20, 24), (245, 245, 240), (245, 245, 240), (20, 30, 110), (120, 15, 20), (10, 80, 40),
    (90, 20, 100), (75, 40, 15), (250, 220, 50), (170, 235, 250), (250, 170, 60), (255, 190, 205), (215, 35, 40),
)  # fmt: skip
SIGNS: tuple[RGB, ...] = (
    (245, 245, 240), (25, 25, 30), (20, 95, 60), (25, 60, 140), (170, 25, 30), (245, 210, 50), (230, 120, 30),
    (190, 190, 195), (250, 240, 205), (95, 60, 35), (160, 215, 235), (240, 180, 200), (75, 30, 105),
)  # fmt: skip


class Shape(NamedTuple):
    """Ink as coverage, `L` image cut tightly, where a capital is `CAP_PX` high; `edges`: characters + 1 x positions."""

    coverage: Image.Image
    edges: tuple[float, ...]


def shape(text: str, font: str) -> Shape:
    """The shape of a text in one of `FONTS`."""
    coverage, edges = FONTS[font](text)
    left, top, right, bottom = coverage.getbbox() or (0, 0, 1, 1)
    inner = (min(max(edge - left, 0), right - left) for edge in edges[1:-1])
    return Shape(coverage.crop((left, top, right, bottom)), (0.0, *inner, float(right - left)))


@lru_cache
def _builtin(cap_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(100)
    assert isinstance(font, ImageFont.FreeTypeFont)
    _, top, _, bottom = font.getbbox("H")
    return font.font_variant(size=100 * cap_px / (bottom - top))


@lru_cache(maxsize=1024)
def _glyph(character: str, bold: int, hollow: bool) -> tuple[Image.Image, float]:
    """A character of the built-in font with `PAD` pixels at its left, and its advance in pixels."""
    font = _builtin(CAP_PX - 2 * bold)
    advance = font.getlength(character)
    image = Image.new("L", (round(advance) + 2 * PAD, TYPE_PX))
    pen = ImageDraw.Draw(image)
    pen.text((PAD, BASE_PX), character, font=font, fill=255, stroke_width=bold, anchor="ls")
    if hollow:
        pen.text((PAD, BASE_PX), character, font=font, fill=0, anchor="ls")
    return image, advance + 2 * bold


def _type(text: str, *, bold: int = 0, hollow: bool = False, stretch: float = 1.0) -> Shape:
    glyphs = [_glyph(character, bold, hollow) for character in text]
    edges = [0.0, *accumulate(advance for _, advance in glyphs)]
    image = Image.new("L", (round(edges[-1]) + 2 * PAD, TYPE_PX))
    for (glyph, _), edge in zip(glyphs, edges, strict=False):
        image.paste(255, (round(edge), 0), glyph)
    if stretch != 1.0:
        image = image.resize((round(image.width * stretch), image.height), Image.Resampling.BILINEAR)
    return Shape(image, tuple((edge + PAD - bold) * stretch for edge in edges))


def _slanted(text: str, slant: float = 0.24) -> Shape:
    upright = _type(text, bold=2)
    image, lean = upright.coverage, slant * TYPE_PX
    size = (image.width + round(lean), image.height)
    shear = (1, slant, -lean, 0, 1, 0)
    sheared = image.transform(size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    return Shape(sheared, tuple(edge + lean / 2 for edge in upright.edges))


def _pixels(text: str, *, round_dots: bool = False) -> Shape:
    columns: list[list[bool]] = []
    edges = [0]
    for character in text:
        if character == " ":
            columns += [[False] * 7] * 4
        else:
            cells = [[row[x] == "#" for row in PIXELS[character].split()] for x in range(5)]
            used = [x for x in range(5) if any(cells[x])]
            columns += [*cells[used[0] : used[-1] + 1], [False] * 7]
        edges.append(len(columns))
    grid = np.array(columns, bool).T
    cell = round(CAP_PX / 7)
    coverage = grid.repeat(cell, 0).repeat(cell, 1)
    if round_dots:
        off = np.abs(np.arange(cell) - (cell - 1) / 2) / (cell / 2)
        dot = off[:, None] ** 2 + off[None, :] ** 2 <= 1
        coverage &= np.tile(dot, grid.shape)
    return Shape(Image.fromarray(coverage.astype(np.uint8) * 255), tuple(float(edge * cell) for edge in edges))


def _pen(text: str, *, pen: float = 0.8, stretch: float = 1.0) -> Shape:
    scale = CAP_PX / (CAP_HEIGHT + pen)
    lines: list[list[Point]] = []
    edges, x = [0.0], 0.0
    for character in text:
        width = 2.0
        if character != " ":
            drawn = [flatten(*stroke) for stroke in strokes(STROKES[character][0])]
            width = max(px for line in drawn for px, _ in line) * stretch
            lines += [[(px * stretch + x, py) for px, py in line] for line in drawn]
        x += width + 1.1 + pen
        edges.append(x)
    image = trace(lines, pen, scale)
    return Shape(image, tuple((edge + (pen if k else 0)) * scale for k, edge in enumerate(edges)))


def trace(lines: Sequence[Sequence[Point]], pen: float, scale: float, swell: float = 0.0) -> Image.Image:
    """Lines drawn with a round pen, all in units that are `scale` pixels; the origin is at (pen, pen).

    `swell`: how much wider the pen is in the middle of a line than at its ends, as a share.
    """
    right = max(x for line in lines for x, _ in line)
    bottom = max(y for line in lines for _, y in line)
    image = Image.new("L", (round((right + 2 * pen) * scale) + 1, round((bottom + 2 * pen) * scale) + 1))
    draw = ImageDraw.Draw(image)
    for line in lines:
        points = [((x + pen) * scale, (y + pen) * scale) for x, y in line]
        for k, (px, py) in enumerate(points):
            radius = pen * scale / 2 * (1 + swell * (math.sin(math.pi * k / max(len(points) - 1, 1)) - 0.6))
            draw.ellipse((px - radius, py - radius, px + radius, py + radius), fill=255)
            if k:
                draw.line((points[k - 1], (px, py)), fill=255, width=round(2 * radius))
    return image


FONTS: dict[str, Callable[[str], Shape]] = {
    "plain": _type,
    "bold": lambda text: _type(text, bold=4),
    "slanted": _slanted,
    "condensed": lambda text: _type(text, bold=2, stretch=0.72),
    "wide": lambda text: _type(text, bold=1, stretch=1.3),
    "outlined": lambda text: _type(text, bold=7, hollow=True),
    "pixel": _pixels,
    "dots": lambda text: _pixels(text, round_dots=True),
    "pen": _pen,
    "marker": lambda text: _pen(text, pen=1.2, stretch=0.95),
}


def stamp(image: Image.Image, coverage: Image.Image, box: NormBox, ink: RGB) -> None:
    """Prints a shape in a colour into a box, exact to a fraction of a pixel."""
    side_x, side_y = image.size
    y0, x0, y1, x1 = box[0] * side_y, box[1] * side_x, box[2] * side_y, box[3] * side_x
    left, top, right, bottom = int(x0), int(y0), -int(-x1 // 1), -int(-y1 // 1)
    per_x, per_y = coverage.width / (x1 - x0), coverage.height / (y1 - y0)
    pad = int(max(per_x, per_y)) + 2
    source = (
        pad + (left - x0) * per_x,
        pad + (top - y0) * per_y,
        pad + (right - x0) * per_x,
        pad + (bottom - y0) * per_y,
    )
    size = (right - left, bottom - top)
    mask = ImageOps.expand(coverage, pad).resize(size, Image.Resampling.BICUBIC, box=source)
    image.paste(ink, (left, top), mask)


def line_at(text: str, font: str, made: Shape, box: NormBox, *, handwritten: bool = False) -> Line:
    """The truth about a shape that was stamped into a box."""
    scale = (box[3] - box[1]) / made.edges[-1]
    xs = [box[1] + edge * scale for edge in made.edges]
    chars = tuple((box[0], a, box[2], b) for a, b in pairwise(xs))
    return Line(text=text, box=box, char_boxes=chars, font=font, handwritten=handwritten)


def luminance(rgb: RGB) -> float:
    return 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]


def ink_on(rng: random.Random, ground: RGB) -> RGB:
    """A colour that can be read on a ground."""
    return rng.choice([ink for ink in INKS if abs(luminance(ink) - luminance(ground)) >= MIN_CONTRAST])


class Setting(NamedTuple):
    """A line ready to be placed; sizes are fractions of the side."""

    text: str
    font: str
    made: Shape
    height: float
    width: float


def place_lines(
    rng: random.Random, image: Image.Image, background: RGB, texts: Sequence[str], taken: list[NormBox]
) -> tuple[Line, ...]:
    """Prints 1 to 4 lines from top to bottom where nothing is taken, and takes their place.

    A line too wide for the picture is left out, and so are the last ones for which there is no room. `background`: the
    picture's main colour. The picture is changed; all that is drawn depends on `rng` alone, not on the picture's size.
    """
    lines = [made for text in texts if (made := _set(rng, text, len(texts))) is not None]
    on_one_sign = len(lines) > 1 and rng.random() < 0.5
    while lines:
        for _ in range(TRIES):
            boxes = _block(rng, lines) if on_one_sign else loose(rng, lines)
            if all(apart(box, other, 0.06) for box in boxes for other in taken):
                return _print(rng, image, background, lines, boxes, taken, on_one_sign=on_one_sign)
        lines = lines[:-1]
    return ()


def _set(rng: random.Random, text: str, count: int) -> Setting | None:
    """A text in some font, as high as planned or as the width allows."""
    height = rng.uniform(*HEIGHTS[count])
    for font in (rng.choice(list(FONTS)), "condensed"):
        made = shape(text, font)
        scale = min(height, WIDEST * CAP_PX / made.coverage.width)
        if scale >= SMALLEST:
            width, height = (scale * side / CAP_PX for side in made.coverage.size)
            return Setting(text, font, made, height, width)
    return None


def loose(rng: random.Random, lines: Sequence[Setting]) -> list[NormBox]:
    """Lines one below the other at random places."""
    room = 1 - 2 * MARGIN - GAP * (len(lines) - 1) - sum(line.height for line in lines)
    offsets = sorted(rng.random() * max(room, 0) for _ in lines)
    boxes, used = [], MARGIN
    for line, offset in zip(lines, offsets, strict=True):
        x = rng.uniform(MARGIN, 1 - MARGIN - line.width)
        boxes.append((used + offset, x, used + offset + line.height, x + line.width))
        used += line.height + GAP
    return boxes


def _block(rng: random.Random, lines: Sequence[Setting]) -> list[NormBox]:
    """Lines close together, all at the left edge or all centred."""
    gap, align = rng.uniform(0.025, 0.05), rng.choice((0.0, 0.5))
    width = max(line.width for line in lines)
    height = sum(line.height for line in lines) + gap * (len(lines) - 1)
    x = rng.uniform(MARGIN, 1 - MARGIN - width)
    y = rng.uniform(MARGIN, max(MARGIN, 1 - MARGIN - height))
    boxes = []
    for line in lines:
        left = x + align * (width - line.width)
        boxes.append((y, left, y + line.height, left + line.width))
        y += line.height + gap
    return boxes


def _print(
    rng: random.Random,
    image: Image.Image,
    background: RGB,
    lines: Sequence[Setting],
    boxes: Sequence[NormBox],
    taken: list[NormBox],
    *,
    on_one_sign: bool,
) -> tuple[Line, ...]:
    around = (min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes))
    grounds = [background] * len(lines)
    if on_one_sign:
        grounds = [_sign(rng, image, around)] * len(lines)
    elif rng.random() < 0.4:
        grounds = [_sign(rng, image, box, GAP / 2) for box in boxes]
    inks = [ink_on(rng, ground) for ground in grounds]
    for line, box, ink in zip(lines, boxes, inks, strict=True):
        stamp(image, line.made.coverage, box, inks[0] if on_one_sign else ink)
    taken.extend((b[0] - GAP, b[1] - GAP, b[2] + GAP, b[3] + GAP) for b in ([around] if on_one_sign else boxes))
    return tuple(line_at(line.text, line.font, line.made, box) for line, box in zip(lines, boxes, strict=True))


def _sign(rng: random.Random, image: Image.Image, box: NormBox, widest: float = 0.05) -> RGB:
    """A board behind a box, perhaps with a border; its colour."""
    color, pad = rng.choice(SIGNS), rng.uniform(0.6, 1.0) * widest
    border = ink_on(rng, color) if rng.random() < 0.4 else None
    side = image.width
    corners = [value * side for value in (box[1] - pad, box[0] - pad, box[3] + pad, box[2] + pad)]
    width = max(1, round(0.006 * side))
    ImageDraw.Draw(image).rounded_rectangle(
        corners, rng.choice((0.0, 0.5)) * pad * side, fill=color, outline=border, width=width
    )
    return color


def apart(a: NormBox, b: NormBox, gap: float = 0.02) -> bool:
    """Whether two boxes keep a distance."""
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]
