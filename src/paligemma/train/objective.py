"""What a step minimises. The loop knows `Objective` only, so that each stage brings its own.

    step's examples -> micro-batches -> objective(micro) -> sums -> divided by the step's whole weight -> gradient

Sums and weights instead of means keep one number the same however a step is cut into micro-batches and processes.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paligemma.model import PaliGemmaModel, Targets, suffix_sum
from paligemma.model.loss import batch_weight, token_weights
from paligemma.processor import Batch
from paligemma.train.config import LossConfig


class Objective(nn.Module):
    """A module that owns the model it trains and perhaps heads that are thrown away afterwards."""

    model: PaliGemmaModel

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


class SuffixObjective(Objective):
    """The suffix loss of stages 1 to 3 on `Batch`es: prefix-LM attention, loss on suffix and eos alone.

    `first_location` is the id of `<loc0000>`; needed where the config treats location or mask tokens apart.
    """

    def __init__(self, model: PaliGemmaModel, config: LossConfig, *, first_location: int = -1):
        super().__init__()
        self.model, self.config = model, config
        self.targets = Targets(
            label_smoothing=config.label_smoothing,
            location_spread=config.location_spread,
            mask_token_weight=config.mask_token_weight,
            first_location=first_location,
        )

    def weight(self, batch: Batch) -> float:
        """Examples of the micro-batch, its suffix tokens, or the sum of the roots of these."""
        return self.weight_of(batch.tokens, batch.mask_loss)

    def weight_of(self, tokens: Tensor, mask_loss: Tensor) -> float:
        """The same of rows int64[B, T]."""
        return float(batch_weight(example_weights(tokens, mask_loss, self.targets), self.config.per))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of the suffix losses: `weight` says of how many."""
        hidden = self.model.hidden(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)
        return {"loss": self.suffix(hidden, batch.tokens, batch.mask_loss)}

    def suffix(self, hidden: Tensor, tokens: Tensor, mask_loss: Tensor) -> Tensor:
        """The sum for hidden states that were computed elsewhere."""
        config = self.config
        return suffix_sum(
            self.model, hidden, tokens, mask_loss,
            per=config.per, targets=self.targets, softcap=config.softcap, chunk=config.chunk,
        )[0]  # fmt: skip


def example_weights(tokens: Tensor, mask_loss: Tensor, targets: Targets) -> Tensor:
    """float32[B]: the weights of each example's suffix tokens; both int64[B, T]."""
    return (token_weights(tokens[:, 1:], targets) * (mask_loss[:, 1:] != 0)).sum(dim=1)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes torch's random numbers (dropout) a function of the step alone."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)
