"""Low-rank adapters: y = W x + s B A x with a frozen W, which may be quantised (QLoRA); optionally DoRA.

In: a linear layer. Out: a layer of the same shape whose parameters `lora_A` [r, in], `lora_B` [out, r] (and
`magnitude` [out]) are trained. The factors are float32 whatever the type of W. Merging into a quantised W would round
the adapter away, so it is refused. Not done here: which layers, files.
Source: Hu et al. 2021 (LoRA); Kalajdzievski 2023 (rank-stabilised); Liu et al. 2024 (DoRA); initial values as in PEFT.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.errors import UsageError
from paligemma.linear.quantized import QuantizedLinear


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Shape and strength of an adapter.

    Attributes:
        alpha: strength; the product of the factors is scaled by alpha / rank, or alpha / sqrt(rank) if `rslora`.
        dropout: probability that an input number of the adapter is dropped while training.
        dora: train direction and length of each row of W apart.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"an adapter of rank {self.rank} was asked for; give a rank of at least 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"a dropout of {self.dropout} was given; give a number from 0 to below 1")

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter; at first it computes what the layer alone does, since B is zero.

    Args:
        base: `nn.Linear` or a quantised layer; its parameters are frozen here.
        generator: what A is drawn with, on the CPU, so that it is the same on every device.

    Raises:
        UsageError: DoRA over a quantised layer, whose rows' lengths would be those of the rounded weights.
    """

    def __init__(self, base: nn.Linear | QuantizedLinear, lora: Lora, generator: torch.Generator | None = None):
        super().__init__()
        if lora.dora and isinstance(base, QuantizedLinear):
            raise UsageError("DoRA was asked for over a quantised base, expected plain weights; leave one of them out")
        self.base, self.lora = base.requires_grad_(False), lora
        self.in_features, self.out_features = base.in_features, base.out_features
        device = next(base.parameters()).device
        first = torch.empty(lora.rank, base.in_features)
        if device.type != "meta":  # there is nothing to draw for
            bound = base.in_features**-0.5
            first.uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first.to(device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, lora.rank, device=device))
        self.magnitude = nn.Parameter(base.weight.detach().float().norm(dim=1)) if lora.dora else None
        self._length_of: tuple[object, Tensor] = (None, torch.empty(0))  # state of the factors, rows' lengths then

    @property
    def weight(self) -> Tensor:
        """The frozen weight without the adapter, [out, in]."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def delta(self) -> Tensor:
        """What the adapter adds to W before DoRA: float32[out, in]."""
        return self.lora.scale * (self.lora_B.float() @ self.lora_A.float())

    def forward(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, self.lora.dropout, self.training)
        low_rank = F.linear(F.linear(dropped.to(self.lora_A.dtype), self.lora_A), self.lora_B) * self.lora.scale
        base = self.base(x)
        if self.magnitude is None:
            return base + low_rank.to(base.dtype)
        stretch = self._stretch()
        straight = base if self.bias is None else base - self.bias
        if self.training and self.lora.dropout:
            straight = F.linear(dropped, self.weight)
        return base + ((stretch - 1) * straight.to(stretch.dtype) + stretch * low_rank).to(base.dtype)

    def _stretch(self) -> Tensor:
        """float32[out]: wanted over present length of each row. The present one counts as a constant (DoRA, 4.3)."""
        assert self.magnitude is not None
        factors = (self.lora_A, self.lora_B)
        state = None if self.training else tuple((f.data_ptr(), f._version) for f in factors)
        if state is None or state != self._length_of[0]:  # as costly as many tokens, so answering computes it once
            with torch.no_grad():
                self._length_of = (state, (self.weight.float() + self.delta()).norm(dim=1))
        return self.magnitude / self._length_of[1]

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that computes the same; the sum is made in float32 and rounded once to the type of W.

        Raises:
            UsageError: the base is quantised.
        """
        if isinstance(self.base, QuantizedLinear):
            raise UsageError(
                "an adapter cannot be merged into a quantised layer, whose rounding would swallow it; "
                "load the unquantised base, merge there, and quantise the result"
            )
        weight = self.weight.float() + self.delta()
        if self.magnitude is not None:
            weight = self._stretch()[:, None] * weight
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(weight.to(self.weight.dtype), requires_grad=False)
        linear.bias = self.base.bias
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.lora}"
