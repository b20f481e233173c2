"""What a run tells while it goes and when it ends, as plain values; no torch here.

The loop makes them, observers (logs, terminal, trackers) get them, and `Progress` is what a checkpoint set keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One finished step.

    Attributes:
        step: how many are done with this one, from 1.
        losses: means over the step, by name; `loss` is what is trained.
        lr: of the update, before any group's scale.
        grad_norm: before clipping.
        examples, tokens: of this step, over all processes; tokens are those of the model's rows without padding.
        seconds: wall time; `waited_s` of it for data.
        memory_bytes: most held so far, by the device's allocator or, on a CPU, by the process.
        eta_s: seconds left at the present pace.
        skipped: loss or gradient was no number, so nothing was learnt.
    """

    step: int
    losses: dict[str, float]
    lr: float
    grad_norm: float
    examples: int
    tokens: int
    seconds: float
    memory_bytes: int
    eta_s: float
    waited_s: float = 0.0
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best evaluation so far."""

    step: int
    figures: dict[str, float]


@dataclass(kw_only=True)
class Progress:
    """What a run has come to; saved with every set. `last` are the figures of the last evaluation."""

    step: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    examples: int = 0
    tokens: int = 0
    evaluations_since_best: int = 0
    best: Best | None = None
    last: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "best": None if self.best is None else vars(self.best)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Progress":
        """The inverse of `to_dict`."""
        return cls(**{**data, "best": None if data["best"] is None else Best(**data["best"])})


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes:
        steps: done in all.
        stopped: "done", "patience" (no better for `evaluate.patience` evaluations), or "dry run".
        best, last: evaluations; None and {} without any.
        skipped: steps without learning.
        seconds: of this process, which began after step `resumed`.
        notes: what was worth saying in words.
    """

    steps: int
    stopped: str
    best: Best | None
    last: dict[str, float]
    skipped: int
    examples: int
    tokens: int
    seconds: float
    resumed: int = 0
    notes: tuple[str, ...] = ()


class Observer:
    """Is told what happens and changes nothing; a class of its own overrides what it wants to hear."""

    def on_step(self, record: StepRecord) -> None:
        """After every step, also a skipped one."""

    def on_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """After every evaluation."""

    def on_note(self, text: str) -> None:
        """Something to be read: a skipped step, a resumed run, an early end."""

    def on_end(self, summary: Summary) -> None:
        """Once, after the last step; not after an error."""

    def close(self) -> None:
        """At the very end, after an error too: lets go of screens, files and connections."""
