"""What the things a question names are in its picture, for training a model to look for them.

In: a scene and what was named. Out: arrays over `SLOTS` places for names. `language` says which names a question has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paligemma.scenes.patches import COLOR_NUMBER, UNKNOWN
from paligemma.scenes.truth import Scene, Thing

SLOTS = 2  # names of a question that are looked up
MANY = 4  # this number stands for all above, too


class Named(NamedTuple):
    """A kind of thing, a colour, or both, as a question names them; None stands for any."""

    label: str | None = None
    color: str | None = None


@dataclass(frozen=True, kw_only=True)
class Mentions:
    """What `SLOTS` names are in one picture.

    Attributes:
        number: int64[SLOTS], how many there are, up to `MANY`; `UNKNOWN` where nothing is named.
        color: int64[SLOTS], index into COLORS; `UNKNOWN` unless all that is named has that one.
        box: float32[SLOTS, 4], y_min, x_min, y_max, x_max, of the only one; else 0.
    """

    number: NDArray[np.int64]
    color: NDArray[np.int64]
    box: NDArray[np.float32]


def is_named(thing: Thing, name: Named) -> bool:
    """Whether a thing is meant by a name."""
    return name.label in (None, thing.label) and name.color in (None, thing.color)


def mentions(scene: Scene, names: Sequence[Named]) -> Mentions:
    """The truth about the first `SLOTS` names."""
    number = np.full(SLOTS, UNKNOWN, np.int64)
    color = np.full(SLOTS, UNKNOWN, np.int64)
    box = np.zeros((SLOTS, 4), np.float32)
    for slot, name in enumerate(names[:SLOTS]):
        found = [thing for thing in scene.things if is_named(thing, name)]
        number[slot] = min(len(found), MANY)
        if len({thing.color for thing in found}) == 1:
            color[slot] = COLOR_NUMBER[found[0].color]
        if len(found) == 1:
            box[slot] = found[0].box
    return Mentions(number=number, color=color, box=box)
