"""Pictures with answers drawn into them: boxes with labels, or a strip of text below.

In: upright RGB pictures and what was said about them. Out: new pictures; the given ones are never touched. Small
pictures are enlarged by a whole factor, so that text is readable.
"""

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from paligemma.errors import UsageError
from paligemma.results.boxes import Box

_MIN_LONG_SIDE_PX = 480  # smaller pictures are enlarged by a whole factor, so that a label has room
_MIN_SHORT_SIDE_PX = 160
_MAX_ENLARGED_PX = 1600
_MIN_STRIP_WIDTH_PX = 320
_MAX_STRIP_LINES = 24
_PAPER, _INK, _MUTED, _CASING = (250, 250, 248), (24, 24, 27), (113, 113, 122), (17, 17, 20)
# Distinct on screen and in print, none close to black or white; one per label, in order of appearance.
_COLORS = (
    (255, 99, 71), (56, 163, 255), (255, 200, 41), (70, 201, 122), (214, 122, 255),
    (255, 140, 0), (64, 224, 208), (255, 105, 180), (168, 214, 60), (150, 150, 255),
)  # fmt: skip

Rect = tuple[int, int, int, int]


def contact_sheet(images: Sequence[Image.Image]) -> Image.Image:
    """One picture as it is; several side by side in rows of at most four, each as large as the first."""
    if not images:
        raise UsageError("this answer holds no picture to draw on; keep the pictures or use to_json()")
    if len(images) == 1:
        return images[0].convert("RGB")
    gap, columns = 4, min(4, len(images))
    width, height = images[0].size
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), _PAPER)
    for i, image in enumerate(images):
        tile = image.convert("RGB").resize((width, height))
        sheet.paste(tile, ((i % columns) * (width + gap), (i // columns) * (height + gap)))
    return sheet


def enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """A copy that is large enough for readable labels, and the whole factor it was enlarged by."""
    long, short = max(image.size), min(image.size)
    for_long = math.ceil(_MIN_LONG_SIDE_PX / long)
    for_short = min(math.ceil(_MIN_SHORT_SIDE_PX / short), _MAX_ENLARGED_PX // long)
    factor = max(1, for_long, for_short)
    if factor == 1:
        return image.copy(), 1
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.BICUBIC), factor


def _font_px(size: tuple[int, int]) -> int:
    return max(14, min(96, round(0.024 * math.sqrt(size[0] * size[1]))))


# Pillow's own font holds little more than ASCII; these hold more and are looked up by name on the user's system.
_SYSTEM_FONTS = (
    "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc", "PingFang.ttc",
    "msyh.ttc", "Arial Unicode.ttf", "NotoSansArabic-Regular.ttf", "NotoSansThai-Regular.ttf",
)  # fmt: skip

_UNDRAWABLE = ("Cc", "Cs", "Co", "Cn")  # control, surrogate, private and unassigned: fonts have nothing to show


@lru_cache(maxsize=256)
def _named_font(name: str, size_px: int) -> Any:
    """Pillow's own font for the empty name; None where the system lacks the font."""
    if not name:
        return ImageFont.load_default(size_px)
    try:
        return ImageFont.truetype(name, size_px)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _glyph(name: str, character: str) -> tuple[tuple[int, int], bytes]:
    drawn = _named_font(name, 20).getmask(character)
    return drawn.size, bytes(drawn)


def _has_glyph(name: str, character: str) -> bool:
    return character.isspace() or _glyph(name, character) != _glyph(name, "\U0010fffe")  # never a character


def _readable(text: str, size_px: int) -> tuple[str, Any]:
    """The text and the font that can draw most of it; without accents where only Pillow's own font is there."""
    text = "".join(" " if c != "\n" and unicodedata.category(c) in _UNDRAWABLE else c for c in text)
    best, fewest = "", len(text) + 1
    for name in ("", *_SYSTEM_FONTS):
        if _named_font(name, size_px) is not None:
            missing = sum(not _has_glyph(name, c) for c in set(text))
            if missing < fewest:
                best, fewest = name, missing
            if not missing:
                break
    if fewest and not best:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text, _named_font(best, size_px)


def _width(text: str, font: Any) -> int:
    return math.ceil(font.getlength(text))


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Lines no wider than `width` px, broken at spaces, inside a word only where it is wider than a line."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            candidate = f"{line} {word}" if line else word
            if _width(candidate, font) <= width:
                line = candidate
                continue
            if line:
                lines.append(line)
            line = word
            while _width(line, font) > width and len(line) > 1:
                cut = next((n for n in range(len(line) - 1, 1, -1) if _width(line[:n], font) <= width), 1)
                lines.append(line[:cut])
                line = line[cut:]
        lines.append(line)
    if len(lines) > _MAX_STRIP_LINES:
        lines = [*lines[: _MAX_STRIP_LINES - 1], "..."]
    return lines


def with_strip(image: Image.Image, heading: str, text: str) -> Image.Image:
    """`image` above a light strip with a small grey heading and the text."""
    width = max(image.width, _MIN_STRIP_WIDTH_PX)
    size_px = _font_px((width, max(image.height, width // 2)))
    text, big = _readable(text, round(size_px * 1.25))
    heading, small = _readable(heading, max(12, round(size_px * 0.85)))
    margin = size_px
    rows = [(line, small, _MUTED) for line in _wrapped(heading, small, width - 2 * margin)]
    rows += [(line, big, _INK) for line in _wrapped(text, big, width - 2 * margin)]
    heights = [round(1.2 * sum(font.getmetrics())) for _, font, _ in rows]
    canvas = Image.new("RGB", (width, image.height + sum(heights) + round(1.3 * margin)), _PAPER)
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    y = image.height + round(0.65 * margin)
    for (line, font, color), height in zip(rows, heights, strict=True):
        draw.text((margin, y), line, font=font, fill=color)
        y += height
    return canvas


def draw_boxes(image: Image.Image, boxes: Sequence[Box], scale: int) -> None:
    """Outlines first, then labels on top of them all, each where it hides least."""
    draw = ImageDraw.Draw(image)
    size_px = _font_px(image.size)
    line = max(2, round(size_px / 5))
    labels = list(dict.fromkeys(box.label for box in boxes))
    colors = {label: _COLORS[i % len(_COLORS)] for i, label in enumerate(labels)}
    corners = [_pixel_corners(box, image.size, scale) for box in boxes]
    for box, rect in zip(boxes, corners, strict=True):
        _outline(draw, rect, colors[box.label], line, image.size)
    taken: list[Rect] = []
    for box, rect in zip(boxes, corners, strict=True):
        if box.label:
            taken.append(_chip(draw, box.label, rect, colors[box.label], size_px, image.size, taken))


def _pixel_corners(box: Box, size: tuple[int, int], scale: int) -> Rect:
    x1, y1, x2, y2 = (round(v * scale) for v in box.xyxy)
    return (min(x1, size[0] - 1), min(y1, size[1] - 1), min(x2, size[0]) - 1, min(y2, size[1]) - 1)


def _outline(
    draw: ImageDraw.ImageDraw, rect: Rect, color: tuple[int, int, int], line: int, size: tuple[int, int]
) -> None:
    """A coloured frame between two dark hairlines, so that it stands out on light and on dark."""
    hair = max(1, line // 3)
    x1, y1, x2, y2 = rect
    outer = (max(0, x1 - hair), max(0, y1 - hair), min(size[0] - 1, x2 + hair), min(size[1] - 1, y2 + hair))
    inset = (outer[0] + hair, outer[1] + hair, outer[2] - hair, outer[3] - hair)
    for r, fill, width in ((outer, _CASING, line + 2 * hair), (inset, color, line)):
        if r[2] >= r[0] and r[3] >= r[1]:
            draw.rectangle(r, outline=fill, width=width)


def _chip(
    draw: ImageDraw.ImageDraw, label: str, rect: Rect, color: tuple[int, int, int], size_px: int,
    size: tuple[int, int], taken: Sequence[Rect],
) -> Rect:  # fmt: skip
    """Draws one label on its colour and returns the place it took."""
    label, font = _readable(" ".join(label.split()), size_px)
    pad = max(2, size_px // 4)
    text = _shortened(label, font, size[0] - 2 * pad - 2)
    width, height = _width(text, font) + 2 * pad, round(size_px * 1.2) + pad
    chip = _free_place(rect, (width, height), size, taken)
    draw.rectangle(chip, fill=color, outline=_CASING)
    draw.text(((chip[0] + chip[2]) / 2, (chip[1] + chip[3]) / 2), text, font=font, fill=_text_color(color), anchor="mm")
    return chip


def _text_color(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Dark or light, whichever reads better on `color` (relative luminance)."""
    linear = [(c / 255) ** 2.2 for c in color]
    return _CASING if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18 else (255, 255, 255)


def _shortened(text: str, font: Any, width: int) -> str:
    if _width(text, font) <= width:
        return text
    while text and _width(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def _free_place(rect: Rect, chip: tuple[int, int], size: tuple[int, int], taken: Sequence[Rect]) -> Rect:
    """Above the box, inside its top, below it, at its right end: the first that is in the picture and free."""
    x1, y1, x2, y2 = rect
    width, height = chip
    tries = [(x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2), (x1, y2 - height)]
    places = []
    for x, y in tries:
        left, top = max(0, min(x, size[0] - width - 1)), max(0, min(y, size[1] - height - 1))
        place = (left, top, left + width, top + height)
        if top == y and not any(_overlap(place, other) for other in taken):
            return place
        places.append(place)
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(a: Rect, b: Rect) -> int:
    """Shared area in square pixels."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)
