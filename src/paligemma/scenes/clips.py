"""Clips: one seed -> eight frames in which one thing moves, perhaps beside another that rests.

A clip is a pure function of its seed and `truth.VERSION`, the same at every size. To add a motion, enter it in
`catalog.MOTIONS` and in `PATHS`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from paligemma.errors import UsageError
from paligemma.scenes.backgrounds import draw_ground, grain, grain_level
from paligemma.scenes.catalog import MOTIONS
from paligemma.scenes.drawings import figure
from paligemma.scenes.pen import extent, turned
from paligemma.scenes.truth import VERSION, Clip, NormBox
from paligemma.scenes.world import GAP, Planned, paint_things, place_beside, pose_thing

FRAMES = 8
RESTING = 0.4  # probability of a second thing
SIZE = (0.24, 0.4)  # of the moving thing, as in `pen.Pose`
RESTING_SIZE = (0.18, 0.28)
LOOKS_ALIKE_TURNED = ("sun",)


@dataclass(frozen=True, kw_only=True)
class Path:
    """What happens between the first and the last frame: a shift in fractions, a factor on the size, degrees."""

    shift: tuple[float, float] = (0.0, 0.0)
    growth: float = 1.0
    turn: float = 0.0


def _travel(x: int, y: int) -> Callable[[random.Random], Path]:
    def path(rng: random.Random) -> Path:
        distance = rng.uniform(0.35, 0.55)
        return Path(shift=(x * distance, y * distance))

    return path


PATHS: dict[str, Callable[[random.Random], Path]] = {
    "left": _travel(-1, 0),
    "right": _travel(1, 0),
    "up": _travel(0, -1),
    "down": _travel(0, 1),
    "growing": lambda rng: Path(growth=rng.uniform(1.8, 2.6)),
    "shrinking": lambda rng: Path(growth=1 / rng.uniform(1.8, 2.6)),
    "turning": lambda rng: Path(turn=rng.uniform(120, 270) * rng.choice((-1, 1))),
}


def draw_clip(seed: int, size_px: int = 112) -> Clip:
    """The clip of a seed.

    Args:
        seed: any whole number.
        size_px: side of the frames in pixels, 32 or more.

    Raises:
        UsageError: a smaller size.
    """
    if size_px < 32:
        raise UsageError(f"A clip of {size_px} px was asked for; ask for 32 px or more.")
    rng = random.Random(f"clip {VERSION} {seed}")
    ground = draw_ground(rng, size_px)
    motion = rng.choice(MOTIONS)
    mover = pose_thing(rng, ground, [], SIZE)
    while motion == "turning" and mover.label in LOOKS_ALIKE_TURNED:
        mover = pose_thing(rng, ground, [], SIZE)
    steps = _placed(rng, _steps(mover, PATHS[motion](rng)))
    resting = _resting(rng, pose_thing(rng, ground, [], RESTING_SIZE), steps)
    level = grain_level(rng)
    frames = []
    for step in steps:
        frame = ground.image.copy()
        paint_things(frame, [*resting, step])
        frames.append(grain(rng, frame, level))
    return Clip(frames=tuple(frames), label=mover.label, color=mover.color, motion=motion)


def _steps(mover: Planned, path: Path) -> list[Planned]:
    """The thing in every frame, as if the picture's middle were (0, 0)."""
    shape = figure(mover.label)
    middle = mover.corners - (mover.width / 2, mover.height / 2)
    steps = []
    for done in np.linspace(-0.5, 0.5, FRAMES).tolist():
        scale = path.growth**done
        corners = turned(middle, path.turn * done) * scale
        low = corners[shape.solid].min(axis=0)
        width, height = extent(shape, corners - low)
        x, y = low + np.array(path.shift) * done
        steps.append(
            replace(mover, corners=corners - low, outline=mover.outline * scale, width=width, height=height, x=x, y=y)
        )
    return steps


def _placed(rng: random.Random, steps: list[Planned]) -> list[Planned]:
    """The whole path somewhere inside the picture, smaller where it would not fit."""
    u, v = rng.random(), rng.random()
    y0, x0, y1, x1 = _around(steps)
    scale = min(1.0, (1 - 2 * GAP) / max(y1 - y0, x1 - x0))
    x = GAP + u * (1 - 2 * GAP - scale * (x1 - x0))
    y = GAP + v * (1 - 2 * GAP - scale * (y1 - y0))
    return [step.smaller(scale).moved(x + scale * (step.x - x0), y + scale * (step.y - y0)) for step in steps]


def _resting(rng: random.Random, thing: Planned, steps: list[Planned]) -> list[Planned]:
    """Perhaps a thing of another kind beside the path."""
    wanted = rng.random() < RESTING and thing.label != steps[0].label
    placed = place_beside(rng, thing, [_around(steps)], []) if wanted else None
    return [placed] if placed else []


def _around(steps: list[Planned]) -> NormBox:
    """The box around the thing in all frames."""
    boxes = np.array([step.box for step in steps])
    y0, x0 = boxes[:, :2].min(axis=0).tolist()
    y1, x1 = boxes[:, 2:].max(axis=0).tolist()
    return y0, x0, y1, x1
