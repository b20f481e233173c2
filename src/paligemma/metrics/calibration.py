"""Do scores mean what they say? Of the boxes with score 0.7, are seven in ten right?

In: scores 0..1 and whether each was right. Out: the reliability curve, its error, and a `Calibration` that mends the
scores without changing their order. Sources: Guo et al. 2017 (temperature, expected calibration error); Platt 1999
(scale and shift of the log-odds, with softened targets against overconfidence on few examples).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paligemma.config import did_you_mean
from paligemma.errors import InputError, UsageError

SMALLEST = 1e-6  # scores are kept off 0 and 1, where log-odds are infinite
MIN_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """score -> 1 / (1 + exp(-(log-odds / temperature + shift))). The default changes nothing.

    Args:
        examples: how many scored boxes it was fitted on.
    """

    temperature: float = 1.0
    shift: float = 0.0
    examples: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0 and math.isfinite(self.shift)):
            raise UsageError(
                f"found temperature {self.temperature} and shift {self.shift}, expected finite numbers and a "
                "temperature above 0; calibrate again"
            )

    def __call__(self, score: float) -> float:
        """The mended score, 0..1; order is kept."""
        return float(self.apply([score])[0])

    def apply(self, scores: ArrayLike) -> NDArray[np.float64]:
        """float64[n] of scores [n]."""
        if self.temperature == 1.0 and self.shift == 0.0:
            return np.asarray(scores, np.float64)
        mended: NDArray[np.float64] = 1 / (1 + np.exp(-(log_odds(scores) / self.temperature + self.shift)))
        return mended

    def to_dict(self) -> dict[str, float | int]:
        return {"temperature": self.temperature, "shift": self.shift, "examples": self.examples}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Calibration":
        """
        Raises:
            UsageError: unknown keys, or values that are no numbers.
        """
        known = set(cls().to_dict())
        for key in row:
            if key not in known:
                raise UsageError(f"unknown key {key!r} in a calibration{did_you_mean(key, known)}")
        for key, value in row.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"{key} of a calibration is {value!r}, expected a number; calibrate again")
        return cls(**row)


def log_odds(scores: ArrayLike) -> NDArray[np.float64]:
    """float64[n]; scores [n] are first kept `SMALLEST` off 0 and 1."""
    p = np.clip(np.asarray(scores, np.float64), SMALLEST, 1 - SMALLEST)
    odds: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return odds


def fit(scores: ArrayLike, correct: ArrayLike) -> Calibration:
    """The calibration under which `correct`, bool[n], is likeliest given scores [n] in 0..1.

    Raises:
        InputError: fewer than `MIN_EXAMPLES`, all right, or all wrong: nothing to learn from.
    """
    x, y = log_odds(scores), np.asarray(correct, bool)
    right = int(y.sum())
    if len(x) < MIN_EXAMPLES or right in (0, len(x)):
        raise InputError(
            f"found {len(x)} scored boxes, {right} of them right, expected at least {MIN_EXAMPLES} with both right and "
            "wrong ones; label more pictures, or ask for things that are not there as well"
        )
    target = np.where(y, (right + 1) / (right + 2), 1 / (len(x) - right + 2))
    slope, shift = _logistic_regression(x, target)
    if slope <= 0:  # the scores rank backwards; no temperature mends that, so only the level is set
        slope, shift = SMALLEST, math.log(right / (len(x) - right))
    return Calibration(temperature=1 / slope, shift=shift, examples=len(x))


def _logistic_regression(x: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and shift by Newton's method, steps halved while they do not help."""
    parameters = np.array([1.0, 0.0])
    design = np.stack([x, np.ones_like(x)], axis=1)

    def loss(p: NDArray[np.float64]) -> float:
        z = design @ p
        return float((np.logaddexp(0, z) - target * z).mean())

    best = loss(parameters)
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ parameters))
        gradient = design.T @ (p - target) / len(x)
        curvature = (design * (p * (1 - p))[:, None]).T @ design / len(x) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(parameters - step) > best and np.abs(step).max() > 1e-10:
            step = step / 2
        parameters = parameters - step
        best = loss(parameters)
        if np.abs(step).max() < 1e-8:
            break
    return float(parameters[0]), float(parameters[1])


class Bin(NamedTuple):
    """One point of the reliability curve: boxes whose score lies in [low, high), their mean score, the share right."""

    low: float
    high: float
    boxes: int
    score: float
    right: float


def reliability(scores: ArrayLike, correct: ArrayLike, bins: int = 10) -> list[Bin]:
    """The reliability curve over `bins` equal widths; empty bins are left out."""
    p, y = np.asarray(scores, np.float64), np.asarray(correct, bool)
    which = np.minimum((p * bins).astype(int), bins - 1)
    return [
        Bin(k / bins, (k + 1) / bins, int(mine.sum()), float(p[mine].mean()), float(y[mine].mean()))
        for k in range(bins)
        if (mine := which == k).any()
    ]


def expected_calibration_error(scores: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Mean distance between score and share right over the bins, weighted by their boxes; 0 is perfect."""
    curve = reliability(scores, correct, bins)
    total = sum(one.boxes for one in curve)
    return sum(one.boxes * abs(one.score - one.right) for one in curve) / total if total else float("nan")
