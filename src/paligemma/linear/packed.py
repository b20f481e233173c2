"""Linear layers for answering, their weights as codes in the order our kernels read them; `METHODS` names the kinds.

In: a weight matrix, or `Int8Linear`'s codes. Out: layers with an eighth to a half of the bytes that run nearly as much
faster, for one row and for many. On a CPU their inputs are rounded too, to 8 bits in groups of 64 or 128, each with a
scale of its own. Where there are no kernels (no compiler or Triton, gradients) the weight is decoded for each pass. The
order of the codes is told in `native/kernels.c`. Files keep them in rows (`in_rows`, `adopt_pieces`), whatever the
kernels like: 8 bits as int8[out, in] and a float32 scale for each output; 4 bits as uint8[out, in / 2], the lower half
of a byte the first of two neighbouring inputs, and a bfloat16 scale for each output and group. Not done here: which
layers of a model, files.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.linear.cuda import levels_on, packed_product
from paligemma.linear.quantized import NF4, QuantizedLinear, decode_rows, encode_rows
from paligemma.linear.rows import to_panels, to_rows
from paligemma.native import Coded, coded_product, on_large_pages, pack
from paligemma.native.products import FLOATS, PANEL

AT_ONCE = 2**21  # numbers of a weight that are coded or decoded at a time
OFFSET = 128  # of a byte, so that it is never negative


@dataclass(frozen=True, kw_only=True)
class Method:
    """One kind of codes.

    Attributes:
        group: inputs that are rounded with one scale, those of the weight too if it has `levels`.
        levels: the 16 whole numbers, ascending, that 4-bit codes stand for, the largest in size at an end; None keeps
            bytes, which are their numbers, and one scale for each output.
        floats: 8-bit floating point instead, which `fp8.Fp8Linear` keeps in rows.
    """

    group: int
    levels: tuple[int, ...] | None = None
    floats: torch.dtype | None = None

    @property
    def bits(self) -> int:
        return 4 if self.levels else 8

    @property
    def stored_bits(self) -> float:
        """Bits a number of a large weight takes, scales included."""
        return self.bits + (16 / self.group if self.levels else 0)

    @cached_property
    def as_floats(self) -> Tensor | None:
        """The levels, float32[16]."""
        return None if self.levels is None else torch.tensor(self.levels, dtype=torch.float32)

    @cached_property
    def table(self) -> Tensor | None:
        """The levels as `coded_product` takes them, uint8[16]."""
        return None if self.levels is None else torch.tensor([n + OFFSET for n in self.levels], dtype=torch.uint8)

    @property
    def row_types(self) -> tuple[torch.dtype, torch.dtype]:
        """Of codes and scales in rows."""
        code = torch.uint8 if self.levels or self.floats else torch.int8
        return code, torch.bfloat16 if self.levels else torch.float32

    def row_shapes(self, out: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of codes and scales in rows, of a matrix [out, width]."""
        return ((out, -(-width // 2)), (out, -(-width // self.group))) if self.levels else ((out, width), (out,))

    def decode(self, codes: Tensor, scales: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        """[n, width] from codes and scales in rows; computed in float32, rounded once to `dtype`."""
        if self.as_floats is None:
            return decode_rows(codes if self.floats is None else codes.view(self.floats).float(), scales, dtype)
        numbers = self.as_floats[_halves(codes, width).int()]
        return (numbers * scales.float().repeat_interleave(self.group, 1)[:, :width]).to(dtype)


METHODS = {
    "int8": Method(group=128),
    "int4": Method(group=64, levels=tuple(16 * (code - 8) for code in range(16))),
    "nf4": Method(group=64, levels=tuple(round(127 * number) for number in NF4)),
    "fp8": Method(group=16, floats=torch.float8_e4m3fn),
}


class PackedLinear(QuantizedLinear):
    """y = W x + b with W in the codes of one of `METHODS`; see `QuantizedLinear` for what all kinds can do.

    Attributes:
        squares: |W - decoded|^2 and |W|^2 when the weight was coded; None where codes were adopted.
        error: of the weight, |W - decoded| / |W|; None where that is not known.
    """

    def __init__(self, method: str, in_features: int, out_features: int, bias: Tensor | None = None):
        super().__init__(in_features, out_features, bias)
        self.kind, self.method = METHODS[method], method  # type: ignore[misc]
        assert self.kind.floats is None, "`empty` knows the class of each method"
        panels, padded = -(-out_features // PANEL), -(-in_features // self.kind.group) * self.kind.group
        wide = PANEL * padded * self.kind.bits // 8
        self.codes = _frozen(on_large_pages(torch.empty(panels, wide, dtype=torch.uint8)))
        scale_bytes = PANEL * (2 * padded // self.kind.group if self.kind.levels else 4)
        self.scales = _frozen(on_large_pages(torch.empty(panels, scale_bytes, dtype=torch.uint8)).zero_())
        self.squares: tuple[float, float] | None = None
        self.error: float | None = None

    @classmethod
    def pack(cls, method: str, weight: Tensor, bias: Tensor | None = None) -> "PackedLinear":
        """The layer with `weight`, float[out, in], in codes."""
        layer = cls.empty(method, weight.shape[1], weight.shape[0], bias)
        layer.encode(weight)
        return layer

    @classmethod
    def empty(cls, method: str, in_features: int, out_features: int, bias: Tensor | None = None) -> "PackedLinear":
        """The layer before it has its codes, of the class that keeps the method's."""
        if METHODS[method].floats is None:
            return cls(method, in_features, out_features, bias)
        from paligemma.linear.fp8 import Fp8Embedding, Fp8Linear  # they are kinds of the classes here

        kind = Fp8Embedding if issubclass(cls, PackedEmbedding) else Fp8Linear
        return kind(method, in_features, out_features, bias)

    def encode(self, weight: Tensor) -> None:
        """Stores `weight`, float[out, in]."""
        self.encode_pieces(weight[first * PANEL : last * PANEL] for first, last in self._pieces())

    @torch.no_grad()
    def encode_pieces(self, parts: Iterable[Tensor]) -> None:
        """Stores a weight that comes some rows at a time, float[rows, in]: whole panels, but for the last piece."""
        off = size = 0.0
        last = 0
        for part in parts:
            first, last = last, last + -(-len(part) // PANEL)
            known = part if part.dtype in FLOATS else part.float()
            codes, scales = self.codes[first:last], self.scales[first:last]
            squares = pack(known, codes, scales, group=self.kind.group, levels=self.kind.as_floats)
            more, all_of_it = squares or self._store(first, last, known.float())
            off, size = off + more, size + all_of_it
        assert last == len(self.codes), "the pieces do not make up the weight"
        self.squares, self.error = (off, size), (off / size) ** 0.5 if size else 0.0

    def adopt(self, codes: Tensor, scales: Tensor) -> None:
        """Stores codes and scales in rows, as `in_rows` gives them."""
        slices = (slice(first * PANEL, last * PANEL) for first, last in self._pieces())
        self.adopt_pieces((codes[rows], scales[rows]) for rows in slices)

    @torch.no_grad()
    def adopt_pieces(self, parts: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Stores codes and scales that come some rows at a time: whole panels, but for the last piece."""
        last = 0
        for codes, scales in parts:
            first, last = last, last + -(-len(codes) // PANEL)
            zero = 0 if self.kind.levels is None else self.kind.levels.index(0)
            row_bytes = self._padded * self.kind.bits // 8
            self.codes[first:last] = to_panels(codes, self.kind.bits, row_bytes, zero | zero << 4)
            self._store_scales(first, last, scales)
        assert last == len(self.codes), "the pieces do not make up the weight"

    def in_rows(self) -> tuple[Tensor, Tensor]:
        """(codes, scales) in rows, as files keep them; see the top of this file."""
        row_bytes = -(-self.in_features * self.kind.bits // 8)
        codes = to_rows(self.codes, self.kind.bits, self.out_features, row_bytes)
        if self.kind.levels is None:
            return codes, self.scales.view(torch.float32).flatten()[: self.out_features].clone()
        scales = self.scales.view(torch.bfloat16).view(len(self.codes), -1, PANEL).transpose(1, 2)
        return codes, scales.reshape(len(self.codes) * PANEL, -1)[: self.out_features].clone()

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """(first, last) panels, about `AT_ONCE` numbers at a time."""
        step = max(1, AT_ONCE // (PANEL * self._padded))
        for first in range(0, len(self.codes), step):
            yield first, min(first + step, len(self.codes))

    @property
    def _padded(self) -> int:
        return -(-self.in_features // self.kind.group) * self.kind.group

    def _store(self, first: int, last: int, part: Tensor) -> tuple[float, float]:
        """Codes some panels of float32[rows, in], as `native.pack` does."""
        if self.kind.levels is None:
            codes, scales = encode_rows(part)
            self._store_bytes(first, last, codes, scales)
        else:
            self._store_levels(first, last, part)
        rows = torch.arange(first * PANEL, first * PANEL + len(part), device=part.device)
        off = (part - self.decode_rows(rows)).square().sum(dtype=torch.float64)
        return float(off), float(part.square().sum(dtype=torch.float64))

    def _store_levels(self, first: int, last: int, part: Tensor) -> None:
        levels = self.kind.as_floats
        assert levels is not None
        grouped = self._filled(part, last - first).view(-1, self._padded // self.kind.group, self.kind.group)
        scales = _scales(grouped, levels)
        share = grouped / torch.where(scales == 0, 1.0, scales.float())[..., None]
        places = torch.bucketize(share, (levels[:-1] + levels[1:]) / 2).to(torch.uint8).flatten(1)
        self.codes[first:last] = to_panels(places[:, ::2] | places[:, 1::2] << 4, 4, self._padded // 2, 0)
        self._store_scales(first, last, scales)

    def _store_bytes(self, first: int, last: int, codes: Tensor, scales: Tensor) -> None:
        self.codes[first:last] = to_panels(codes, 8, self._padded, 0)
        self._store_scales(first, last, scales)

    def _store_scales(self, first: int, last: int, scales: Tensor) -> None:
        """Scales in rows into panels; missing rows get what a row of zeros has."""
        levels, missing = self.kind.levels, (last - first) * PANEL - len(scales)
        if levels is None:
            by_panel = F.pad(scales.float(), (0, missing)).view(last - first, PANEL)
        else:
            filled = F.pad(scales, (0, 0, 0, missing), value=-0.0 if -levels[0] > levels[-1] else 0.0)
            by_panel = filled.view(last - first, PANEL, -1).transpose(1, 2).contiguous()
        self.scales[first:last] = by_panel.view(last - first, -1).view(torch.uint8)

    def _filled(self, part: Tensor, panels: int) -> Tensor:
        """`part` with its missing rows and columns as zeros, [64 * panels, padded in]."""
        return F.pad(part, (0, self._padded - part.shape[1], 0, panels * PANEL - len(part))).contiguous()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        out = torch.empty((self.out_features, self.in_features), dtype=dtype, device=self.codes.device)
        for first, last in self._pieces():
            rows = torch.arange(first * PANEL, min(last * PANEL, self.out_features), device=self.codes.device)
            out[rows[0] : rows[-1] + 1] = self.decode_rows(rows, dtype)
        return out

    def decode_rows(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """[n, in]: some rows of the weight, int64[n]; computed in float32, rounded once to `dtype`."""
        panel, place = rows // PANEL, rows % PANEL
        step = 8 if self.kind.levels else 4  # inputs whose codes are neighbours, 4 bytes
        numbers: Tensor = self.codes.view(len(self.codes), self._padded // step, PANEL, 4)[panel, :, place]
        if self.kind.levels is None:
            scales = self.scales.view(torch.float32)[panel, place, None]
            numbers = (numbers ^ OFFSET).view(torch.int8).flatten(1) * scales
        else:
            both = torch.stack((numbers & 15, numbers >> 4), dim=2).flatten(1)
            levels = levels_on(self.kind.levels, rows.device)
            scales = self.scales.view(torch.bfloat16).view(len(self.codes), -1, PANEL)[panel, :, place].float()
            numbers = (levels[both.int()].view(len(rows), -1, self.kind.group) * scales[..., None]).flatten(1)
        return numbers[:, : self.in_features].to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y = None if torch.is_autocast_enabled(x.device.type) else self.product(x, self.bias)
        return super().forward(x) if y is None else y

    @property
    def coded(self) -> Coded | None:
        """The weight, for kernels that take several layers at once."""
        return Coded(
            codes=self.codes, scales=self.scales, table=self.kind.table, inputs=self.in_features,
            outputs=self.out_features, group=self.kind.group,
        )  # fmt: skip

    def product(self, x: Tensor, bias: Tensor | None = None, panels: slice | None = None) -> Tensor | None:
        """W x by the kernels, of all or of some panels of outputs; None where they do not apply."""
        codes: Tensor = self.codes
        scales: Tensor = self.scales
        outputs = self.out_features
        if panels is not None:
            codes, scales = codes[panels], scales[panels]
            outputs = len(codes) * PANEL
        group, levels = self.kind.group, self.kind.levels
        if (fast := packed_product(x, codes, scales, bias, outputs=outputs, group=group, levels=levels)) is not None:
            return fast
        return coded_product(
            x, codes, scales, bias, outputs=outputs, group=self.kind.group, table=self.kind.table
        )  # fmt: skip


class PackedEmbedding(PackedLinear):
    """A table whose rows are looked up and which, as a matrix, scores the vocabulary; in codes, once for both.

    Args:
        dtype: of the rows that are looked up.
    """

    def __init__(self, method: str, in_features: int, out_features: int, bias: Tensor | None = None):
        super().__init__(method, in_features, out_features, bias)
        self.dtype = torch.float32

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] rows of int64[...] tokens, in `dtype`."""
        return self.decode_rows(tokens.flatten(), self.dtype).view(*tokens.shape, self.in_features)

    def scores(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """[..., V] products of hidden states with all rows, or with some neighbours."""
        if rows is None:
            return PackedLinear.forward(self, hidden)
        start, stop, _ = rows.indices(self.out_features)
        panels = slice(start // PANEL, -(-stop // PANEL))
        found = self.product(hidden, panels=panels)
        if found is not None:
            return found[..., start - panels.start * PANEL : stop - panels.start * PANEL]
        return F.linear(hidden, self.decode_rows(torch.arange(start, stop, device=hidden.device), hidden.dtype))


def _halves(codes: Tensor, width: int) -> Tensor:
    """uint8[n, width] of two codes a byte, the lower half first."""
    return torch.stack((codes & 15, codes >> 4), dim=2).flatten(1)[:, :width]


def _scales(grouped: Tensor, levels: Tensor) -> Tensor:
    """bfloat16[rows, groups]: by which each group's largest number becomes the largest level, of either sign."""
    extreme = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True))[..., 0]
    low, high = float(levels[0]), float(levels[-1])
    scale = extreme / low if -low > high else extreme.abs() / high
    return scale.bfloat16()


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
