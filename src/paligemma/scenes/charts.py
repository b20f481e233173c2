"""Bar, line and pie charts and small tables, with every number printed in them: picture, truth, printed lines.

A bar or point carries its value, a pie's legend carries colour, name and value, so that every question about a chart
can be answered by reading. `lines` of a chart: title, then each label and each value from left to right or top to
bottom; of a table: row by row. All is drawn from fractions of the side: another size shows the same chart.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from paligemma.scenes.catalog import COLORS
from paligemma.scenes.lettering import CAP_PX, RGB, SIGNS, ink_on, line_at, luminance, shape, stamp
from paligemma.scenes.truth import Chart, Line, Table
from paligemma.scenes.words import LETTERS, MONTHS, WORDS

SUPERSAMPLING = 2
SMALL = 0.069  # height of a capital, of the side: 15 px at 224 px
TITLE = (0.075, 0.1)
LARGEST_VALUE, LARGEST_CELL = 20, 99
COUNTS = (3, 3, 4, 4, 5)
KINDS = {"bar": 0.5, "line": 0.22, "pie": 0.28}
FONTS = ("plain", "bold", "condensed", "slanted", "pixel", "pen")
MIN_DIFFERENCE = 90  # of a series' colour from the ground, summed over red, green, blue


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a chart is drawn on: coordinates are fractions, shapes first and print last."""

    image: Image.Image
    ground: RGB
    ink: RGB
    font: str

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, outline: RGB | None = None) -> None:
        side = self.image.width
        corners = (x0 * side, y0 * side, x1 * side, y1 * side)
        ImageDraw.Draw(self.image).rectangle(corners, fill=fill, outline=outline, width=self._px(0.006))

    def line(self, points: Sequence[tuple[float, float]], color: RGB, thickness: float) -> None:
        side = self.image.width
        at = [(x * side, y * side) for x, y in points]
        ImageDraw.Draw(self.image).line(at, fill=color, width=self._px(thickness), joint="curve")

    def disc(self, x: float, y: float, radius: float, color: RGB) -> None:
        side = self.image.width
        corners = [value * side for value in (x - radius, y - radius, x + radius, y + radius)]
        ImageDraw.Draw(self.image).ellipse(corners, fill=color)

    def slice(self, x: float, y: float, radius: float, start: float, end: float, color: RGB) -> None:
        side = self.image.width
        corners = [value * side for value in (x - radius, y - radius, x + radius, y + radius)]
        pen, width = ImageDraw.Draw(self.image), self._px(0.006)
        pen.pieslice(corners, start, end, fill=color, outline=self.ground, width=width)

    def _px(self, thickness: float) -> int:
        return max(1, round(thickness * self.image.width))


@dataclass(frozen=True, kw_only=True)
class Print:
    """A text to be printed when the shapes are done; `align` 0 puts its left edge, 0.5 its middle at `x`."""

    text: str
    x: float
    y: float
    height: float = SMALL
    widest: float
    align: float = 0.5
    ink: RGB
    clear: RGB | None = None  # a ground to print on where shapes may lie below

    def onto(self, image: Image.Image, font: str) -> Line:
        made = shape(self.text, font)
        if made.coverage.width / CAP_PX * self.height > self.widest:
            font, made = "condensed", shape(self.text, "condensed")
        width = min(made.coverage.width / CAP_PX * self.height, self.widest)
        height = made.coverage.height / CAP_PX * self.height
        left = min(max(self.x - self.align * width, 0.01), 0.99 - width)
        box = (self.y, left, self.y + height, left + width)
        if self.clear is not None:
            side, pad = image.width, 0.008
            corners = [value * side for value in (left - pad, self.y - pad, left + width + pad, self.y + height + pad)]
            ImageDraw.Draw(image).rectangle(corners, fill=self.clear)
        stamp(image, made.coverage, box, self.ink)
        return line_at(self.text, font, made, box)


def draw_chart(rng: random.Random, size_px: int, background: RGB) -> tuple[Image.Image, Chart, tuple[Line, ...]]:
    """A chart on a ground of one colour."""
    sheet = _sheet(rng, size_px, background)
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    count = rng.choice(COUNTS)
    labels = _names(rng, count, 3 if count > 3 or kind == "pie" else 5)
    colors = _series(rng, background, count, alike=kind == "line" or (kind == "bar" and rng.random() < 0.5))
    values = rng.sample(range(1, LARGEST_VALUE + 1), count)
    if rng.random() < 0.15:
        values[rng.randrange(count)] = rng.choice(values)
    title = rng.choice(WORDS)
    chart = Chart(kind=kind, title=title, labels=labels, values=tuple(values), colors=colors)
    head = Print(text=title, x=0.5, y=0.03, height=rng.uniform(*TITLE), widest=0.9, ink=sheet.ink)
    prints = [head, *DRAWERS[kind](rng, sheet, chart, 0.03 + head.height + 0.04)]
    image, lines = _finish(sheet, prints)
    return image, chart, lines


def draw_table(rng: random.Random, size_px: int, background: RGB) -> tuple[Image.Image, Table, tuple[Line, ...]]:
    """A table on a ground of one colour."""
    sheet = _sheet(rng, size_px, background)
    rows, columns = rng.randint(2, 4), rng.randint(2, 3)
    names = _names(rng, rows + columns, 4 if columns == 2 else 3, months=rng.random() < 0.2)
    cells = tuple(tuple(rng.randint(0, LARGEST_CELL) for _ in range(columns)) for _ in range(rows))
    table = Table(columns=names[:columns], rows=names[columns:], cells=cells)
    image, lines = _finish(sheet, _grid(rng, sheet, table))
    return image, table, lines


def _finish(sheet: Sheet, prints: Sequence[Print]) -> tuple[Image.Image, tuple[Line, ...]]:
    image = sheet.image.reduce(SUPERSAMPLING)
    return image, tuple(text.onto(image, sheet.font) for text in prints)


def _sheet(rng: random.Random, size_px: int, ground: RGB) -> Sheet:
    side = SUPERSAMPLING * size_px
    return Sheet(
        image=Image.new("RGB", (side, side), ground), ground=ground, ink=ink_on(rng, ground), font=rng.choice(FONTS)
    )


def _names(rng: random.Random, count: int, longest: int, months: bool | None = None) -> tuple[str, ...]:
    """Different names: months in a row, words, letters, or strings of letters."""
    if rng.random() < 0.25 if months is None else months:
        first = rng.randrange(len(MONTHS))
        return tuple(MONTHS[(first + k) % len(MONTHS)] for k in range(count))
    if rng.random() < 0.6:
        return tuple(rng.sample([word for word in dict.fromkeys(WORDS) if len(word) <= longest], count))
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choices(LETTERS, k=rng.randint(1, longest)))] = None
    return tuple(names)


def _series(rng: random.Random, ground: RGB, count: int, *, alike: bool) -> tuple[str, ...]:
    visible = [
        name
        for name, rgb in COLORS.items()
        if sum(abs(a - b) for a, b in zip(rgb, ground, strict=True)) >= MIN_DIFFERENCE
    ]
    return (rng.choice(visible),) * count if alike else tuple(rng.sample(visible, count))


def _ticks(count: int) -> list[float]:
    """The middles of `count` slots between the left and right end of the plot."""
    return [0.06 + (k + 0.5) * 0.9 / count for k in range(count)]


BASE = 0.87  # where bars stand, labels hang below


def _heights(chart: Chart, top: float) -> list[float]:
    """The y of each value."""
    room = BASE - (top + SMALL + 0.03)
    return [BASE - room * value / max(chart.values) for value in chart.values]


def _axes(rng: random.Random, sheet: Sheet, top: float) -> None:
    if rng.random() < 0.4:
        faint = _between(sheet.ground, sheet.ink, 0.2)
        for k in range(1, 4):
            y = BASE - (BASE - top) * k / 4
            sheet.line([(0.05, y), (0.97, y)], faint, 0.004)
    sheet.line([(0.05, BASE), (0.97, BASE)], sheet.ink, 0.008)
    if rng.random() < 0.7:
        sheet.line([(0.05, top), (0.05, BASE)], sheet.ink, 0.008)


def _between(a: RGB, b: RGB, share: float) -> RGB:
    red, green, blue = (round(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return red, green, blue


def _marks(sheet: Sheet, chart: Chart, ys: Sequence[float]) -> list[Print]:
    """For each value its label below the base line and its number above the bar or point."""
    slot = 0.9 / len(chart.labels)
    prints = []
    for x, y, label, value in zip(_ticks(len(ys)), ys, chart.labels, chart.values, strict=True):
        prints.append(Print(text=label, x=x, y=BASE + 0.03, widest=slot * 0.9, ink=sheet.ink))
        prints.append(
            Print(text=str(value), x=x, y=y - 0.028 - SMALL, widest=slot * 0.9, ink=sheet.ink, clear=sheet.ground)
        )
    return prints


def _bars(rng: random.Random, sheet: Sheet, chart: Chart, top: float) -> list[Print]:
    _axes(rng, sheet, top)
    ys, slot = _heights(chart, top), 0.9 / len(chart.labels)
    half = slot * rng.uniform(0.25, 0.42)
    outline = sheet.ink if rng.random() < 0.4 else None
    for x, y, color in zip(_ticks(len(ys)), ys, chart.colors, strict=True):
        sheet.box(x - half, y, x + half, BASE, COLORS[color], outline)
    return _marks(sheet, chart, ys)


def _curve(rng: random.Random, sheet: Sheet, chart: Chart, top: float) -> list[Print]:
    _axes(rng, sheet, top)
    ys = _heights(chart, top)
    points = list(zip(_ticks(len(ys)), ys, strict=True))
    color = COLORS[chart.colors[0]]
    sheet.line(points, color, rng.uniform(0.01, 0.02))
    for x, y in points:
        sheet.disc(x, y, 0.018, color)
    return _marks(sheet, chart, ys)


def _pie(rng: random.Random, sheet: Sheet, chart: Chart, top: float) -> list[Print]:
    """The pie at the left, clockwise from the top; the legend at the right."""
    radius, total = rng.uniform(0.19, 0.23), sum(chart.values)
    start = -90.0
    for value, color in zip(chart.values, chart.colors, strict=True):
        end = start + 360 * value / total
        sheet.slice(0.26, (top + 0.95) / 2, radius, start, end, COLORS[color])
        start = end
    prints, count = [], len(chart.labels)
    step = min(0.15, (0.95 - top) / count)
    y = (top + 0.95) / 2 - step * count / 2
    for label, value, color in zip(chart.labels, chart.values, chart.colors, strict=True):
        sheet.box(0.52, y + 0.01, 0.52 + SMALL, y + 0.01 + SMALL, COLORS[color], sheet.ink)
        prints.append(Print(text=label, x=0.62, y=y + 0.01, widest=0.2, align=0, ink=sheet.ink))
        prints.append(Print(text=str(value), x=0.97, y=y + 0.01, widest=0.12, align=1, ink=sheet.ink))
        y += step
    return prints


def _grid(rng: random.Random, sheet: Sheet, table: Table) -> list[Print]:
    """Cells between lines, the first row and column with names, perhaps shaded."""
    rows, columns = len(table.rows) + 1, len(table.columns) + 1
    left, width = rng.uniform(0.02, 0.08), rng.uniform(0.84, 0.9)
    high = min(0.19, rng.uniform(0.75, 0.92) / rows)
    top = rng.uniform(0.03, 0.97 - high * rows)
    head = rng.choice(SIGNS) if rng.random() < 0.5 else sheet.ground
    head_ink = ink_on(rng, head)
    if head != sheet.ground:
        sheet.box(left, top, left + width, top + high, head)
    if rng.random() < 0.3:
        stripe = _between(sheet.ground, (0, 0, 0) if luminance(sheet.ground) > 128 else (255, 255, 255), 0.1)
        for row in range(1, rows, 2):
            sheet.box(left, top + row * high, left + width, top + (row + 1) * high, stripe)
    upright = rng.random() < 0.6
    for row in range(rows + 1):
        sheet.line([(left, top + row * high), (left + width, top + row * high)], sheet.ink, 0.006)
    for column in range(columns + 1) if upright else ():
        x = left + column * width / columns
        sheet.line([(x, top), (x, top + rows * high)], sheet.ink, 0.006)
    texts = [["", *table.columns]] + [
        [name, *map(str, cells)] for name, cells in zip(table.rows, table.cells, strict=True)
    ]
    cap = rng.uniform(SMALL, min(0.09, high * 0.6))
    return [
        Print(
            text=text,
            x=left + (column + 0.5) * width / columns,
            y=top + row * high + (high - cap) / 2,
            height=cap,
            widest=width / columns * 0.85,
            ink=sheet.ink if row else head_ink,
        )
        for row, texts_of_row in enumerate(texts)
        for column, text in enumerate(texts_of_row)
        if text
    ]


DRAWERS: dict[str, Callable[[random.Random, Sheet, Chart, float], list[Print]]] = {
    "bar": _bars,
    "line": _curve,
    "pie": _pie,
}
