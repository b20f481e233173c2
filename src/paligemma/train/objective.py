"""What a step minimises. The loop knows this protocol only, so that each stage brings its own objective.

    step's examples -> micro-batches -> objective(micro) -> sums -> divided by the step's whole weight -> gradient

Sums and weights instead of means keep one number the same however a step is cut into micro-batches and processes.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """A module that owns the model it trains (`self.model`) and perhaps heads that are thrown away afterwards."""

    model: nn.Module

    def weight(self, batch: Any) -> float:
        """How much this micro-batch counts: examples, or tokens."""
        raise NotImplementedError

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Sums over the micro-batch: `loss` is what is trained, all others are only shown."""
        raise NotImplementedError


class StepStream(Protocol):
    """What the loop eats. A pure function of the step: nothing to save, nothing to lose.

    Attributes:
        fingerprint: of the data; a run is only resumed on the data it began with.
    """

    fingerprint: str

    def micro_batches(self, step: int, rank: int, world: int) -> list[Any]:
        """This process's share of a step's examples; each has `.to(device)`. Runs in loader workers, on the CPU."""
        ...


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes torch's random numbers (dropout) a function of the step alone."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)
