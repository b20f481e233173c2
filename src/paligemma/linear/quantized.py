"""Linear layers whose frozen weight is kept in 4 or 8 bits; `METHODS` names them.

In: an `nn.Linear`. Out: a layer of the same shape, for a base that is run, or trained through (QLoRA). The weight is
decoded for each pass, forward and backward, and never kept: only codes and scales take memory. Everything is stored in
frozen uint8 parameters, scales as their bytes, so that sharding works and no change of the model's type touches them.
Not done here: fast kernels. Source: Dettmers et al. 2023, NF4 in blocks of 64 of the flattened weight, with the codes
of bitsandbytes bit for bit.
"""

from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
BLOCK = 64  # numbers of the flattened weight that share a scale
SCALE_BLOCK = 256  # scales that share a scale, where they are quantised too
PIECE = 2**22  # numbers decoded at a time, a multiple of BLOCK: what is needed beside the decoded weight


class QuantizedLinear(nn.Module):
    """y = W x + b with a coded W; each kind says how it encodes and decodes.

    Attributes:
        method: its name in `METHODS`.
    """

    method: ClassVar[str]

    def __init__(self, in_features: int, out_features: int, bias: Tensor | None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @classmethod
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear) -> Self:
        """The layer with the weight of `linear` in codes, on the same device."""
        layer = cls(linear.in_features, linear.out_features, linear.bias)
        layer.encode(linear.weight.detach())
        return layer.train(linear.training)

    def encode(self, weight: Tensor) -> None:
        """Stores `weight`, float[out, in]."""
        raise NotImplementedError

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that the codes stand for, [out, in]; computed in float32, rounded once to `dtype`."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The decoded weight, float32[out, in]; made anew each time."""
        return self.dequantize()

    @property
    def stored_bits(self) -> float:
        """Bits per number of the weight, scales included."""
        stored = sum(p.numel() * p.itemsize for name, p in self.named_parameters() if name != "bias")
        return 8 * stored / (self.in_features * self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        y: Tensor = _FrozenProduct.apply(x.to(dtype), self)
        return y if self.bias is None else y + self.bias.to(dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.stored_bits:.3g}"


class _FrozenProduct(torch.autograd.Function):
    """W x whose backward pass decodes W again instead of keeping it, and asks no gradient of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantize(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.layer.dequantize(grad.dtype), None


class Nf4Linear(QuantizedLinear):
    """NormalFloat4: two codes a byte, a float32 scale for 64 numbers; 4.5 bits a number."""

    method = "nf4"

    def encode(self, weight: Tensor) -> None:
        flat = F.pad(weight.float().flatten(), (0, -weight.numel() % BLOCK))  # a short last block keeps its maximum
        blocks = flat.view(-1, BLOCK)
        absmax = blocks.abs().amax(dim=1)
        scaled = (blocks * (1.0 / absmax.clamp(min=1e-38))[:, None]).clamp(-1, 1)
        table = torch.tensor(NF4, device=weight.device)
        codes = torch.bucketize(scaled, (table[:-1] + table[1:]) / 2).to(torch.uint8).flatten()
        self.codes = _frozen(codes[::2] << 4 | codes[1::2])
        self.store_scales(absmax)

    def store_scales(self, absmax: Tensor) -> None:
        """Keeps the largest absolute number of each block, float32[blocks]."""
        self.scales = _frozen(_as_bytes(absmax))

    def load_scales(self) -> Tensor:
        """The inverse of `store_scales`."""
        return _as_floats(self.scales)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        scales = self.load_scales()
        out = torch.empty(len(scales) * BLOCK, dtype=dtype, device=self.codes.device)
        pairs = _pairs(self.codes.device)
        for start in range(0, len(out), PIECE):
            stop = min(start + PIECE, len(out))
            numbers = F.embedding(self.codes[start // 2 : stop // 2].int(), pairs).view(-1, BLOCK)
            out[start:stop] = (numbers * scales[start // BLOCK : stop // BLOCK, None]).flatten()
        return out[: self.out_features * self.in_features].view(self.out_features, self.in_features)


class Nf4DoubleLinear(Nf4Linear):
    """NF4 whose scales are 8-bit numbers themselves, around their mean, in blocks of 256; 4.13 bits a number."""

    method = "nf4-double"

    def store_scales(self, absmax: Tensor) -> None:
        mean = absmax.mean()
        blocks = F.pad(absmax - mean, (0, -len(absmax) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
        step = blocks.abs().amax(dim=1).clamp(min=1e-38) / 127
        self.scales = _frozen(
            (blocks / step[:, None]).round().to(torch.int8).flatten()[: len(absmax)].view(torch.uint8)
        )
        self.steps = _frozen(_as_bytes(torch.cat([mean[None], step])))

    def load_scales(self) -> Tensor:
        mean, step = _as_floats(self.steps).split([1, len(self.steps) // 4 - 1])
        return self.scales.view(torch.int8).float() * step.repeat_interleave(SCALE_BLOCK)[: len(self.scales)] + mean


class Int8Linear(QuantizedLinear):
    """Whole numbers from -127 to 127 with one float32 scale for each output; 8 bits a number."""

    method = "int8"

    def encode(self, weight: Tensor) -> None:
        codes, scales = encode_rows(weight)
        self.codes, self.scales = _frozen(codes.view(torch.uint8)), _frozen(_as_bytes(scales))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return decode_rows(self.codes.view(torch.int8), _as_floats(self.scales), dtype)


def encode_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8[out, in] codes and float32[out] scales of float[out, in]: each row's largest number becomes 127 or -127."""
    scales = weight.float().abs().amax(dim=1).clamp(min=1e-38) / 127
    return (weight.float() / scales[:, None]).round().to(torch.int8), scales


def decode_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The inverse of `encode_rows` up to half a scale; computed in float32, rounded once to `dtype`."""
    return (codes * scales[:, None]).to(dtype)


METHODS: dict[str, type[QuantizedLinear]] = {kind.method: kind for kind in (Nf4Linear, Nf4DoubleLinear, Int8Linear)}


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.contiguous(), requires_grad=False)


def _as_bytes(numbers: Tensor) -> Tensor:
    return numbers.float().contiguous().view(torch.uint8)


def _as_floats(stored: Tensor) -> Tensor:
    return stored.view(torch.float32)


@lru_cache(maxsize=8)
def _pairs(device: torch.device) -> Tensor:
    """float32[256, 2]: the two numbers each byte stands for."""
    table, byte = torch.tensor(NF4, device=device), torch.arange(256, device=device)
    return torch.stack([table[byte >> 4], table[byte & 15]], dim=1)
