"""Who is measured: each side opens the weights, warms up, and does one repetition at a time, in a process of its own.

`Run` is what a side is told, `Side` what it must do, `Repetition` what it tells. `pixels` and `rows_of` are the same
pictures and token ids for all.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Protocol

BOS, NEWLINE = 2, 108


@dataclass(frozen=True, kw_only=True)
class Run:
    """A setup as a side sees it; `options` are the side's own."""

    path: str
    image_size_px: int
    prompts: list[int]
    answers: list[int]
    options: dict[str, Any] = field(default_factory=dict)


class Side(Protocol):
    """Opening the weights is the constructor's work, so that it can be timed; `libraries` are imported before."""

    libraries: tuple[str, ...]

    def __init__(self, run: Run): ...

    def warm(self) -> None:
        """Touches all weights and lets kernels be chosen, by a short prompt without a picture; `touch` helps."""
        ...

    def once(self) -> dict[str, Any]:
        """One repetition, as `repetition` tells it."""
        ...


class NotYet(Exception):
    """The side cannot do this; says why."""


def repetition(began: float, times: list[float], ended: float, answers: list[list[int]]) -> dict[str, Any]:
    """What one repetition showed; `times` are those of the steps, whatever the number of rows."""
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return {
        "ttft_s": times[0] - began, "step_s": median(gaps) if gaps else None, "seconds": ended - began,
        "answers": answers,
    }  # fmt: skip


def touch(model: Any) -> None:
    """Reads something of every page of the weights, so that mapped files count before the first repetition."""
    for parameter in model.parameters():
        parameter.detach().flatten()[::1024].float().sum()


def rows_of(run: Run) -> list[list[int]]:
    """Token ids of each row without its image tokens: bos, words, newline."""
    import random

    draw = random.Random(0)
    return [[BOS, *(draw.randrange(1000, 200_000) for _ in range(length - 2)), NEWLINE] for length in run.prompts]


def pixels(run: Run) -> Any:
    """float32[rows, 3, S, S] in [-1, 1]."""
    import torch

    side = run.image_size_px
    return torch.rand(len(run.prompts), 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
