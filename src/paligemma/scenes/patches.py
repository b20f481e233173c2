"""The truth about each patch of a picture, for training a vision tower directly (stage 0).

In: a scene and the number of patches per side. Out: arrays over the patches in row-major order. A patch is said to
show what is at its centre, except printed text, which may be lower than a patch: it belongs to the row that holds the
line's middle.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paligemma.scenes.catalog import COLORS, LABELS
from paligemma.scenes.truth import Line, Scene, Thing

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.!?&"
NOTHING = len(LABELS)  # no object at this patch
BLANK = len(CHARACTERS)  # no character
UNKNOWN = -100  # not to be learnt: the colour of no object
READ_AT = (0.25, 0.75)  # places across a patch where characters are looked for

_LABEL_NUMBER = {label: number for number, label in enumerate(LABELS)}
COLOR_NUMBER = {color: number for number, color in enumerate(COLORS)}
_CHARACTER_NUMBER = {character: number for number, character in enumerate(CHARACTERS)}


@dataclass(frozen=True, kw_only=True)
class Patches:
    """N patches.

    Attributes:
        label: int64[N], index into LABELS, `NOTHING` elsewhere.
        color: int64[N], index into COLORS, `UNKNOWN` where there is no object.
        box: float32[N, 4], from the patch's centre to its object's edges (y_min, x_min, y_max, x_max), in sides.
        characters: int64[N, 2], at the left and at the right of each patch, `BLANK` where there is none.
    """

    label: NDArray[np.int64]
    color: NDArray[np.int64]
    box: NDArray[np.float32]
    characters: NDArray[np.int64]

    def window(self, row: int, column: int, grid: int) -> "Patches":
        """The `grid` x `grid` patches from `row` and `column` on, as those of a picture of their own."""
        side = round(len(self.label) ** 0.5)

        def part(array: NDArray) -> NDArray:
            shaped = array.reshape(side, side, *array.shape[1:])
            return shaped[row : row + grid, column : column + grid].reshape(-1, *array.shape[1:])

        return Patches(
            label=part(self.label),
            color=part(self.color),
            box=part(self.box) * (side / grid),
            characters=part(self.characters),
        )


def patch_truth(scene: Scene, grid: int) -> Patches:
    """What the `grid` x `grid` patches of a scene show."""
    label = np.full((grid, grid), NOTHING, np.int64)
    color = np.full((grid, grid), UNKNOWN, np.int64)
    box = np.zeros((grid, grid, 4), np.float32)
    characters = np.full((grid, grid, len(READ_AT)), BLANK, np.int64)
    for thing in scene.things:
        seen = _at_centers(thing, grid)
        label[seen], color[seen] = _LABEL_NUMBER[thing.label], COLOR_NUMBER[thing.color]
        rows, columns = np.nonzero(seen)
        center = np.stack((rows, columns, rows, columns), axis=1)
        box[seen] = np.array(thing.box) - (center + 0.5) / grid
    for line in scene.lines:
        _spell(line, grid, characters)
    return Patches(
        label=label.ravel(),
        color=color.ravel(),
        box=box.reshape(-1, 4),
        characters=characters.reshape(-1, len(READ_AT)),
    )


def _at_centers(thing: Thing, grid: int) -> NDArray[np.bool_]:
    """bool[grid, grid]: patches whose centre lies in the thing's box, unless another thing is seen there."""
    centers = (np.arange(grid) + 0.5) / grid
    y_min, x_min, y_max, x_max = thing.box
    inside = ((centers >= y_min) & (centers <= y_max))[:, None] & ((centers >= x_min) & (centers <= x_max))[None]
    if not thing.hidden:
        return inside
    side = thing.mask.shape[0]
    at = np.minimum((centers * side).astype(int), side - 1)
    return inside & thing.mask[np.ix_(at, at)]


def _spell(line: Line, grid: int, characters: NDArray[np.int64]) -> None:
    y_min, _, y_max, _ = line.box
    middle = min(grid - 1, max(0, int((y_min + y_max) / 2 * grid)))
    rows = [row for row in range(grid) if row == middle or y_min <= (row + 0.5) / grid <= y_max]
    for character, (_, x_min, _, x_max) in zip(line.text, line.char_boxes, strict=True):
        number = _CHARACTER_NUMBER.get(character)
        if number is None:  # a space
            continue
        for half, share in enumerate(READ_AT):
            first = int(np.ceil(x_min * grid - share))
            last = int(np.floor(x_max * grid - share))
            for column in range(max(first, 0), min(last, grid - 1) + 1):
                characters[rows, column, half] = number
