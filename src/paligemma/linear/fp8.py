"""Linear layers with weights in 8-bit floating point (e4m3), for cards that multiply such numbers.

In: a weight matrix. Out: layers with half the bytes of bfloat16, for prompts at up to twice its rate. Codes lie in
rows, uint8[out, in] with a float32 scale for each output, by which its largest number becomes 448. For many rows the
inputs are rounded to e4m3 too, with a scale for each row; a few rows stay as they are. Without such a card the weight
is decoded for each pass. Not done here: whether a model may be so (`checkpoints.placement`).
Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from paligemma.linear.cuda import fp8_product
from paligemma.linear.packed import METHODS, PackedEmbedding, PackedLinear
from paligemma.linear.quantized import QuantizedLinear
from paligemma.native.products import PANEL

ALIGNED = 16  # rows and columns of a matrix are a multiple of it for `torch._scaled_mm`
LARGEST = torch.finfo(torch.float8_e4m3fn).max


class Fp8Linear(PackedLinear):
    """y = W x + b with W in e4m3; see `PackedLinear`, whose panels are rows here."""

    def __init__(self, method: str, in_features: int, out_features: int, bias: Tensor | None = None):
        QuantizedLinear.__init__(self, in_features, out_features, bias)
        self.kind, self.method = METHODS[method], method  # type: ignore[misc]
        out, width = (-(-number // ALIGNED) * ALIGNED for number in (out_features, in_features))
        self.codes = nn.Parameter(torch.zeros(out, width, dtype=torch.uint8), requires_grad=False)
        self.scales = nn.Parameter(torch.zeros(out, 4, dtype=torch.uint8), requires_grad=False)
        self.squares: tuple[float, float] | None = None
        self.error: float | None = None

    @property
    def coded(self) -> None:
        """No kernel of the CPU takes it."""
        return None

    def encode(self, weight: Tensor) -> None:
        self.encode_pieces([weight])

    @torch.no_grad()
    def encode_pieces(self, parts: Iterable[Tensor]) -> None:
        off = size = 0.0
        last = 0
        for part in parts:
            first, last = last, last + len(part)
            numbers = part.float()
            self._put(first, *encode_rows(numbers))
            decoded = self.decode_rows(torch.arange(first, last, device=self.codes.device))
            off += float((numbers - decoded).square().sum(dtype=torch.float64))
            size += float(numbers.square().sum(dtype=torch.float64))
        assert last == self.out_features, "the pieces do not make up the weight"
        self.squares, self.error = (off, size), (off / size) ** 0.5 if size else 0.0

    def adopt(self, codes: Tensor, scales: Tensor) -> None:
        self.adopt_pieces([(codes, scales)])

    @torch.no_grad()
    def adopt_pieces(self, parts: Iterable[tuple[Tensor, Tensor]]) -> None:
        last = 0
        for codes, scales in parts:
            self._put(last, codes, scales)
            last += len(codes)
        assert last == self.out_features, "the pieces do not make up the weight"

    def in_rows(self) -> tuple[Tensor, Tensor]:
        codes = self.codes[: self.out_features, : self.in_features]
        return codes.contiguous(), self.scales.view(torch.float32)[: self.out_features, 0].clone()

    def _put(self, first: int, codes: Tensor, scales: Tensor) -> None:
        rows = slice(first, first + len(codes))
        self.codes[rows, : self.in_features] = codes
        self.scales[rows] = scales.contiguous().view(torch.uint8).view(-1, 4)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        codes, scales = self.codes[: self.out_features], self.scales.view(torch.float32)[: self.out_features]
        return decode_rows(codes, scales[:, 0], dtype)[:, : self.in_features]

    def decode_rows(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return decode_rows(self.codes[rows], self.scales.view(torch.float32)[rows, 0], dtype)[:, : self.in_features]

    def product(self, x: Tensor, bias: Tensor | None = None, panels: slice | None = None) -> Tensor | None:
        codes: Tensor = self.codes
        scales: Tensor = self.scales
        outputs = self.out_features
        if panels is not None:
            rows = slice(panels.start * PANEL, min(panels.stop * PANEL, len(codes)))
            codes, scales = codes[rows], scales[rows]
            outputs = min(rows.stop, outputs) - rows.start
        return fp8_product(x, codes, scales.view(torch.float32)[:, 0], bias, outputs=outputs)


class Fp8Embedding(Fp8Linear, PackedEmbedding):
    """The vocabulary's table in e4m3."""

    def __init__(self, method: str, in_features: int, out_features: int, bias: Tensor | None = None):
        super().__init__(method, in_features, out_features, bias)
        self.dtype = torch.float32


def encode_rows(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """uint8[n, in] codes and float32[n] scales of float[n, in]."""
    scales = numbers.float().abs().amax(dim=1).clamp(min=1e-38) / LARGEST
    return (numbers.float() / scales[:, None]).to(torch.float8_e4m3fn).view(torch.uint8), scales


def decode_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `encode_rows` up to rounding; computed in float32, rounded once to `dtype`."""
    return (codes.view(torch.float8_e4m3fn).float() * scales[:, None]).to(dtype)
