"""Scenes: one seed -> one picture with the whole truth about it.

A scene is a pure function of its seed, its kind and `truth.VERSION`. Everything is planned in fractions of the side
before a pixel is painted, so that the same seed shows the same scene at every size. What is NOT done here: talking
about it (`language`).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma.errors import UsageError
from paligemma.scenes import charts, handwriting, lettering, words
from paligemma.scenes.backgrounds import Ground, base_color, draw_ground, grain, grain_level, jitter
from paligemma.scenes.catalog import COLORS, LABELS, RGB
from paligemma.scenes.drawings import figure, widest_outline
from paligemma.scenes.pen import OPAQUE, Points, Pose, extent, paint, posed
from paligemma.scenes.truth import VERSION, Line, NormBox, Scene, Thing

COUNTS = (0.24, 0.33, 0.28, 0.15)  # shares of scenes with one, two, three, four things
SIZES = ((0.22, 0.5), (0.2, 0.46), (0.19, 0.38), (0.18, 0.33))  # from and to, by number of things
GAP = 0.015  # of the side, between things and to the edge
MIN_ORDER = 0.075  # horizontal centres differ at least by this, so that the order is defined
TWIN = 0.4  # probability of one more of a kind that is there
OCCLUSION = 0.2  # probability of one thing partly in front of another, where there are two
HIDDEN = (0.06, 0.3)  # share that may be hidden by the plan; the picture's pixels differ a little
WORD = 0.3  # probability of a printed word beside things, where there is room: in a fifth of the pictures
COARSE_PX = 96  # the size at which plans are checked
TRIES = 24
SHRINK = 0.88  # for a thing that finds no room, twice at most


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A thing before it is painted: corners in fractions of the side around (0, 0), moved to `x`, `y`."""

    label: str
    color: str
    rgb: RGB
    outline: float
    corners: Points
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0

    @property
    def box(self) -> NormBox:
        return self.y, self.x, self.y + self.height, self.x + self.width

    def moved(self, x: float, y: float) -> "Planned":
        return replace(self, x=x, y=y)

    def smaller(self, factor: float) -> "Planned":
        return replace(
            self,
            corners=self.corners * factor,
            outline=self.outline * factor,
            width=self.width * factor,
            height=self.height * factor,
        )


def draw_scene(seed: int, size_px: int = 224, kind: str | None = None) -> Scene:
    """The scene of a seed.

    Args:
        seed: any whole number.
        size_px: side of the picture in pixels, 32 or more.
        kind: of `SHARES`; without it the seed says.

    Raises:
        UsageError: another kind, or a smaller size.
    """
    if size_px < 32:
        raise UsageError(f"A scene of {size_px} px was asked for; ask for 32 px or more.")
    rng = random.Random(f"scene {VERSION} {seed}")
    drawn = rng.choices(list(SHARES), list(SHARES.values()))[0]
    if kind is not None and kind not in KINDS:
        raise UsageError(f"There is no kind of scene {kind!r}; choose one of {', '.join(KINDS)}.")
    return KINDS[kind or drawn](rng, size_px)


def _objects(rng: random.Random, size_px: int) -> Scene:
    """One to four things, perhaps one partly in front of another, perhaps a printed word."""
    ground = draw_ground(rng, size_px)
    taken: list[NormBox] = []
    planned = _plan(rng, ground, taken)
    lines: tuple[Line, ...] = ()
    if rng.random() < WORD:
        lines = lettering.place_lines(rng, ground.image, ground.base, [words.draw_word(rng)], taken)
    things = paint_things(ground.image, planned)
    return Scene(image=grain(rng, ground.image, grain_level(rng)), things=things, lines=lines)


def _text(rng: random.Random, size_px: int) -> Scene:
    """One to four printed lines."""
    ground = draw_ground(rng, size_px)
    lines: tuple[Line, ...] = ()
    while not lines:
        lines = lettering.place_lines(rng, ground.image, ground.base, words.draw_texts(rng), [])
    return Scene(image=grain(rng, ground.image, grain_level(rng)), lines=lines)


def _hand(rng: random.Random, size_px: int) -> Scene:
    """Something written by hand."""
    ground = draw_ground(rng, size_px)
    lines: tuple[Line, ...] = ()
    while not lines:
        lines = handwriting.write(rng, ground.image, ground.base, [])
    return Scene(image=grain(rng, ground.image, grain_level(rng)), lines=lines)


def _chart(rng: random.Random, size_px: int) -> Scene:
    """A bar, line or pie chart on a plain ground."""
    image, chart, lines = charts.draw_chart(rng, size_px, base_color(rng))
    return Scene(image=grain(rng, image, grain_level(rng)), chart=chart, lines=lines)


def _table(rng: random.Random, size_px: int) -> Scene:
    """A table of whole numbers on a plain ground."""
    image, table, lines = charts.draw_table(rng, size_px, base_color(rng))
    return Scene(image=grain(rng, image, grain_level(rng)), table=table, lines=lines)


KINDS: dict[str, Callable[[random.Random, int], Scene]] = {
    "objects": _objects,
    "text": _text,
    "chart": _chart,
    "table": _table,
    "hand": _hand,
}
SHARES: dict[str, float] = {"objects": 0.62, "text": 0.16, "chart": 0.07, "table": 0.05, "hand": 0.10}


def _plan(rng: random.Random, ground: Ground, taken: list[NormBox]) -> list[Planned]:
    """Things in painting order; their boxes are entered in `taken`."""
    count = rng.choices(range(1, 5), COUNTS)[0]
    occluded = count > 1 and rng.random() < OCCLUSION
    planned: list[Planned] = []
    centers: list[float] = []
    for number in range(count):
        behind = planned[0] if occluded and number == 1 else None
        thing = pose_thing(rng, ground, planned, SIZES[count - 1], apart_from=behind)
        placed = _in_front(rng, thing, behind, centers) if behind else None
        placed = placed or place_beside(rng, thing, taken, centers)
        if placed is not None:
            planned.append(placed)
            taken.append(placed.box)
            centers.append(placed.x + placed.width / 2)
    return planned


def pose_thing(
    rng: random.Random,
    ground: Ground,
    before: Sequence[Planned],
    sizes: tuple[float, float],
    *,
    apart_from: Planned | None = None,
) -> Planned:
    """A thing in some pose, not yet placed: often one more of a kind, in a colour that shows on the ground."""
    label, rgbs = rng.choice(LABELS), [ground.base, ground.other]
    if apart_from:
        rgbs.append(apart_from.rgb)
    color = _visible_color(rng, rgbs)
    if before and rng.random() < TWIN:
        twin = rng.choice(before)
        label = twin.label
        color = twin.color if rng.random() < 0.6 and not apart_from else color
    outline = min(rng.uniform(0.03, 0.06), widest_outline(label)) if rng.random() < 0.25 else 0.0
    pose = Pose(
        size=rng.uniform(*sizes),
        stretch=rng.uniform(0.8, 1.25),
        turn=rng.uniform(-25, 25) if rng.random() < 0.6 else 0.0,
        flip=rng.random() < 0.5,
    )
    shape = figure(label)
    corners = posed(shape, pose)
    width, height = extent(shape, corners)
    return Planned(
        label=label, color=color, rgb=jitter(rng, COLORS[color], 14), outline=outline * pose.size,
        corners=corners, width=width, height=height,
    )  # fmt: skip


def _visible_color(rng: random.Random, around: Sequence[RGB]) -> str:
    """One that is far from the first (the ground) and from the others; the farthest where none is."""
    least = (130, 90, 130)
    shows = [
        name
        for name, rgb in COLORS.items()
        if all(_distance(rgb, other) > far for other, far in zip(around, least, strict=False))
    ]
    return rng.choice(shows or [max(COLORS, key=lambda name: min(_distance(COLORS[name], other) for other in around))])


def _distance(a: RGB, b: RGB) -> int:
    return sum(abs(p - q) for p, q in zip(a, b, strict=True))


def place_beside(
    rng: random.Random, thing: Planned, taken: Sequence[NormBox], centers: Sequence[float]
) -> Planned | None:
    """The thing, if need be a little smaller, where it overlaps nothing; None when there was no room."""
    places = [(rng.random(), rng.random()) for _ in range(TRIES)]
    for fitted in (thing, thing.smaller(SHRINK), thing.smaller(SHRINK**2)):
        for u, v in places:
            placed = fitted.moved(GAP + u * (1 - 2 * GAP - fitted.width), GAP + v * (1 - 2 * GAP - fitted.height))
            ordered = all(abs(placed.x + placed.width / 2 - center) > MIN_ORDER for center in centers)
            if ordered and all(lettering.apart(placed.box, other, GAP) for other in taken):
                return placed
    return None


def _in_front(rng: random.Random, thing: Planned, behind: Planned, centers: list[float]) -> Planned | None:
    """The thing where it hides a part of the one behind, whose visible centre is corrected in `centers`."""
    places = [(rng.uniform(-1, 1), rng.uniform(-1, 1)) for _ in range(TRIES)]
    back = _coarse(behind)
    for u, v in places:
        x = behind.x + behind.width / 2 + u * (behind.width + thing.width) / 2 - thing.width / 2
        y = behind.y + behind.height / 2 + v * (behind.height + thing.height) / 2 - thing.height / 2
        if min(x, y, 1 - x - thing.width, 1 - y - thing.height) < GAP:
            continue
        placed = thing.moved(x, y)
        seen = back & ~_coarse(placed)
        if not HIDDEN[0] <= 1 - seen.sum() / back.sum() <= HIDDEN[1]:
            continue
        _, x0, _, x1 = mask_box(seen)
        if abs(x + thing.width / 2 - (x0 + x1) / 2) > MIN_ORDER:
            centers[0] = (x0 + x1) / 2
            return placed
    return None


def _coarse(thing: Planned) -> NDArray[np.bool_]:
    image = Image.new("L", (COARSE_PX, COARSE_PX))
    return _paint(image, thing)


def paint_things(image: Image.Image, planned: Sequence[Planned]) -> tuple[Thing, ...]:
    """Paints things in their order; the truth about them, from left to right, with what can be seen of each."""
    masks = [_paint(image, thing) for thing in planned]
    things = []
    for number, (thing, mask) in enumerate(zip(planned, masks, strict=True)):
        whole = int(mask.sum())
        for front in masks[number + 1 :]:
            mask &= ~front
        hidden = 1 - int(mask.sum()) / whole
        things.append(Thing(label=thing.label, color=thing.color, box=mask_box(mask), mask=mask, hidden=hidden))
    return tuple(sorted(things, key=lambda thing: thing.center_x))


def _paint(image: Image.Image, thing: Planned) -> NDArray[np.bool_]:
    """Paints one thing; bool[side, side], its pixels."""
    side = image.width
    left, top = int(thing.x * side), int(thing.y * side)
    offset = (thing.x * side - left, thing.y * side - top)
    tile = paint(figure(thing.label), thing.corners, thing.rgb, size_px=side, offset=offset, outline=thing.outline)
    alpha = tile.getchannel("A")
    image.paste(tile.convert(image.mode), (left, top), alpha)
    mask = np.zeros((side, side), bool)
    solid = np.asarray(alpha)[: side - top, : side - left] >= OPAQUE
    mask[top : top + solid.shape[0], left : left + solid.shape[1]] = solid
    return mask


def mask_box(mask: NDArray[np.bool_]) -> NormBox:
    """The tightest box around the pixels of bool[side, side], as fractions."""
    rows, columns, side = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)), len(mask)
    return int(rows[0]) / side, int(columns[0]) / side, int(rows[-1] + 1) / side, int(columns[-1] + 1) / side
