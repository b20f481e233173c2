"""Pictures with answers drawn into them: masks, boxes and labels, or a strip of text below.

In: upright RGB pictures and what was said about them. Out: new pictures; the given ones are never touched. Small
pictures are enlarged by a whole factor, so that text is readable; sizes of lines and letters follow the picture's.
"""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from paligemma.errors import UsageError
from paligemma.results import lettering
from paligemma.results.boxes import Box
from paligemma.results.lettering import Color
from paligemma.results.mask import Mask, resized
from paligemma.results.outlines import rings

_MIN_LONG_SIDE_PX = 480  # smaller pictures are enlarged by a whole factor, so that a label has room
_MIN_SHORT_SIDE_PX = 160
_MAX_ENLARGED_PX = 1600
_MIN_STRIP_WIDTH_PX = 320
_MAX_STRIP_LINES = 24
_PAPER, _INK, _MUTED = (250, 250, 248), (24, 24, 27), (113, 113, 122)
_CASING = lettering.DARK
_FILL_ALPHA, _CASING_ALPHA = 112, 150  # of 255: the object shows through its mask
_MOST_OUTLINE_PX = 1536  # the side at which outlines of masks are followed; they are scaled from there
_SMOOTH_UNTIL_PX = 1500  # masks up to this side are drawn at twice their size and reduced, for even edges
# Distinct on screen and in print, none close to black or white; one per label, in order of appearance.
COLORS: tuple[Color, ...] = (
    (255, 99, 71), (56, 163, 255), (255, 200, 41), (70, 201, 122), (214, 122, 255),
    (255, 140, 0), (64, 224, 208), (255, 105, 180), (168, 214, 60), (150, 150, 255),
)  # fmt: skip

Rect = tuple[int, int, int, int]


def contact_sheet(images: Sequence[Image.Image]) -> Image.Image:
    """One picture as it is; several side by side in rows of at most four, each as large as the first.

    Raises:
        UsageError: there is none.
    """
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


def with_strip(image: Image.Image, heading: str, text: str) -> Image.Image:
    """`image` above a light strip with a small grey heading and the text."""
    width = max(image.width, _MIN_STRIP_WIDTH_PX)
    size_px = _font_px((width, max(image.height, width // 2)))
    text, big = lettering.readable(text, round(size_px * 1.25))
    heading, small = lettering.readable(heading, max(12, round(size_px * 0.85)))
    margin = size_px
    room = width - 2 * margin
    rows = [(line, small, _MUTED) for line in lettering.wrapped(heading, small, room, _MAX_STRIP_LINES)]
    rows += [(line, big, _INK) for line in lettering.wrapped(text, big, room, _MAX_STRIP_LINES)]
    heights = [round(1.2 * sum(font.getmetrics())) for _, font, _ in rows]
    canvas = Image.new("RGB", (width, image.height + sum(heights) + round(1.3 * margin)), _PAPER)
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    y = image.height + round(0.65 * margin)
    for (line, font, color), height in zip(rows, heights, strict=True):
        draw.text((margin, y), line, font=font, fill=color)
        y += height
    return canvas


def draw_boxes(
    image: Image.Image, boxes: Sequence[Box], scale: int, *, outlines: bool = True, masks: bool = True,
    labels: bool = True, scores: bool = True,
) -> None:  # fmt: skip
    """Draws into `image`: masks, then outlines, the large before the small, then labels, each where it hides least."""
    colors = _colors(boxes, masks)
    size_px = _font_px(image.size)
    line = max(2, round(size_px / 7))
    places = [_pixel_corners(box, image.size, scale) for box in boxes]
    order = sorted(range(len(boxes)), key=lambda i: -boxes[i].xywh[2] * boxes[i].xywh[3])
    if masks:
        for i in order:
            mask = boxes[i].mask
            if mask is not None:
                _draw_mask(image, mask, colors[i], scale, line)
    if outlines:
        for i in order:
            _outline(image, places[i], colors[i], line)
    if labels:
        texts = [_chip_text(box, i, scores) for i, box in enumerate(boxes, start=1)]
        _draw_chips(ImageDraw.Draw(image), texts, places, colors, size_px, image.size)


def _colors(boxes: Sequence[Box], masks: bool) -> list[Color]:
    """One for each label; of masks that all have one label, one for each."""
    labels = list(dict.fromkeys(box.label for box in boxes))
    if masks and len(labels) == 1 and any(box.mask is not None for box in boxes):
        return [COLORS[i % len(COLORS)] for i in range(len(boxes))]
    return [COLORS[labels.index(box.label) % len(COLORS)] for box in boxes]


def _font_px(size: tuple[int, int]) -> int:
    return max(14, min(128, round(0.024 * math.sqrt(size[0] * size[1]))))


def _pixel_corners(box: Box, size: tuple[int, int], scale: int) -> Rect:
    x1, y1, x2, y2 = (round(v * scale) for v in box.xyxy)
    return (min(x1, size[0] - 1), min(y1, size[1] - 1), min(x2, size[0]) - 1, min(y2, size[1]) - 1)


# --- masks -----------------------------------------------------------------------------------------------------------


def _draw_mask(image: Image.Image, mask: Mask, color: Color, scale: int, line: int) -> None:
    """A translucent surface with an even edge of its colour, cased in dark so that it stands out on any ground."""
    crop, left_top = mask.crop()
    height, width = crop.shape[0] * scale, crop.shape[1] * scale
    if not height or not width:
        return
    smooth = 2 if max(height, width) <= _SMOOTH_UNTIL_PX else 1
    size = (width * smooth, height * smooth)
    follow = min(1.0, _MOST_OUTLINE_PX / max(size))
    at = (max(1, round(size[0] * follow)), max(1, round(size[1] * follow)))
    borders = [
        [(x * size[0] / at[0], y * size[1] / at[1]) for x, y in ring]
        for ring in rings(resized(mask.values, at) > 0, tolerance_px=0.75)
    ]
    room = 2 * line  # the edge reaches over the box
    canvas = ((width + 2 * room) * smooth, (height + 2 * room) * smooth)
    borders = [[(x + room * smooth, y + room * smooth) for x, y in ring] for ring in borders]
    place = (left_top[0] * scale - room, left_top[1] * scale - room)
    hair = max(1, line // 3)
    for alpha, stroke, ink in ((_FILL_ALPHA, 0, color), (_CASING_ALPHA, line + 2 * hair, _CASING), (255, line, color)):
        layer = Image.new("L", canvas, 0)
        pen = ImageDraw.Draw(layer)
        for ring in borders:
            if stroke:
                pen.line([*ring, ring[0], ring[1]], fill=alpha, width=stroke * smooth, joint="curve")
        if not stroke:
            _fill(layer, borders, alpha)
        if smooth > 1:
            layer = layer.reduce(smooth)
        image.paste(ink, place, layer)


def _fill(layer: Image.Image, borders: Sequence[list[tuple[float, float]]], alpha: int) -> None:
    """Fills the rings by the even-odd rule: parts are filled, their holes emptied, islands in those filled again."""
    pen = ImageDraw.Draw(layer)
    for ring in sorted(borders, key=_extent, reverse=True):
        pen.polygon(ring, fill=alpha if _clockwise(ring) else 0)


def _extent(ring: list[tuple[float, float]]) -> float:
    x, y = zip(*ring, strict=True)
    return (max(x) - min(x)) * (max(y) - min(y))


def _clockwise(ring: list[tuple[float, float]]) -> bool:
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True)) > 0


# --- boxes and labels ------------------------------------------------------------------------------------------------


def _outline(image: Image.Image, rect: Rect, color: Color, line: int) -> None:
    """A coloured frame between two translucent dark hairlines, so that it stands out on light and on dark."""
    hair = max(1, line // 3)
    x1, y1, x2, y2 = rect
    outer = (
        max(0, x1 - hair), max(0, y1 - hair), min(image.width - 1, x2 + hair), min(image.height - 1, y2 + hair),
    )  # fmt: skip
    inset = (outer[0] + hair, outer[1] + hair, outer[2] - hair, outer[3] - hair)
    for side in _sides(outer, line + 2 * hair):
        part = image.crop(side)
        image.paste(Image.blend(part, Image.new("RGB", part.size, _CASING), _CASING_ALPHA / 255), side)
    if inset[2] >= inset[0] and inset[3] >= inset[1]:
        ImageDraw.Draw(image).rectangle(inset, outline=color, width=line)


def _sides(rect: Rect, width: int) -> list[Rect]:
    """The four sides of a frame as areas that share no pixel, right and bottom edges outside."""
    x1, y1, x2, y2 = rect[0], rect[1], rect[2] + 1, rect[3] + 1
    if x2 - x1 <= 2 * width or y2 - y1 <= 2 * width:
        return [(x1, y1, x2, y2)]
    return [
        (x1, y1, x2, y1 + width), (x1, y2 - width, x2, y2),
        (x1, y1 + width, x1 + width, y2 - width), (x2 - width, y1 + width, x2, y2 - width),
    ]  # fmt: skip


def _chip_text(box: Box, number: int, scores: bool) -> str:
    """Label and score; a number in place of a label that no font here can draw."""
    label = " ".join(box.label.split())
    if label and not lettering.drawable(label):
        label = f"#{number}"
    score = "" if box.score is None or not scores else f"{box.score:.2f}"
    return f"{label} {score}".strip()


def _draw_chips(
    draw: ImageDraw.ImageDraw, texts: Sequence[str], places: Sequence[Rect], colors: Sequence[Color], size_px: int,
    size: tuple[int, int],
) -> None:  # fmt: skip
    """Labels on their colours; where they would cover much of the picture, smaller."""
    covered = sum(len(text) * 0.55 + 0.6 for text in texts) * 1.45 * size_px**2 / (size[0] * size[1])
    if covered > 0.15:
        size_px = max(11, round(size_px * max(0.6, math.sqrt(0.15 / covered))))
    pad = max(2, size_px // 4)
    taken: list[Rect] = []
    for text, rect, color in zip(texts, places, colors, strict=True):
        if text:
            text, font = lettering.readable(text, size_px)
            text = lettering.shortened(text, font, size[0] - 2 * pad - 2)
            chip = (lettering.width(text, font) + 2 * pad, round(size_px * 1.2) + pad)
            x1, y1, x2, y2 = place = _free_place(rect, chip, size, taken)
            taken.append(place)
            draw.rectangle(place, fill=color, outline=_CASING)
            middle = ((x1 + x2) / 2, (y1 + y2) / 2)
            draw.text(middle, text, font=font, fill=lettering.text_color(color), anchor="mm")


def _free_place(rect: Rect, chip: tuple[int, int], size: tuple[int, int], taken: Sequence[Rect]) -> Rect:
    """Above the box, inside its top, below it, at its right end: the first that is in the picture and free."""
    x1, y1, x2, y2 = rect
    width, height = chip
    above, inside, below = (x1, y1 - height), (x1, y1), (x1, y2)
    small = y2 - y1 < 3 * height  # inside, it would hide the object
    tries = [above, below, inside] if small else [above, inside, below]
    tries += [(x2 - width, y1 - height), (x2 - width, y2), (x1, y2 - height), (x2, y1), (x1 - width, y1)]
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
