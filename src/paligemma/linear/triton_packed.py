"""Products with packed weights on CUDA: codes are read once and decoded in registers, or decoded once for many rows.

In: rows in bfloat16 or float16, codes and scales as `PackedLinear` keeps them. Out: W x + b in the type of the rows;
they are not rounded, sums run in float32. A few rows go by multiplications and additions, more by the tensor cores,
very many by PyTorch's product with the decoded weight. Imported only where Triton is; `cuda.py` decides. Not done here:
gradients, making codes.

    word (panel p, step s, output n) = int32 at (p * steps + s) * 64 + n; its bytes hold inputs PER*s ... PER*s + PER-1
    8 bits   PER 4: byte j is input j, plus 128                  a float32 scale for each output
    4 bits   PER 8: byte j has input j below and input 4+j above  a bfloat16 scale for each output and group
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from paligemma.linear.cuda import levels_on
from paligemma.native.products import PANEL

FEW = 4  # rows: more are worth a tensor core's tile, which has sixteen
MANY = 512  # rows: more are worth a decoded copy of the weight, which PyTorch's product then reads
WIDE = tl.constexpr(PANEL)


@triton.jit
def _numbers(words, j, table, PER: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr):
    """float32: what part j of each word stands for; levels in even steps need no table."""
    if PER == 4:
        return (((words >> (8 * j)) & 255) - 128).to(tl.float32)
    place = (words >> (8 * (j % 4) + 4 * (j // 4))) & 15
    if STEP > 0:
        return (place * STEP + FIRST).to(tl.float32)
    return tl.load(table + place)


@triton.jit
def _group_scales(scales, panel, place, s, steps, real, STEPS_A_GROUP: tl.constexpr):
    """float32[steps, outputs] of 4-bit codes."""
    at = (panel.to(tl.int64) * (steps // STEPS_A_GROUP))[None, :] + (s // STEPS_A_GROUP)[:, None]
    inside = (s < steps)[:, None] & real[None, :]
    return tl.load(scales + at * WIDE + place[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _few_kernel(
    x, codes, scales, bias, table, out, rows, width, outputs, steps,
    PER: tl.constexpr, STEPS_A_GROUP: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr, BIASED: tl.constexpr,
    ROWS: tl.constexpr, STEPS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """OUT outputs of all rows."""
    n = tl.program_id(0) * OUT + tl.arange(0, OUT)
    real = n < outputs
    panel, place = n // WIDE, n % WIDE
    r = tl.arange(0, ROWS)
    line = codes + panel.to(tl.int64) * steps * WIDE + place
    sums = tl.zeros([ROWS, STEPS, OUT], tl.float32)
    for start in range(0, steps, STEPS):
        s = start + tl.arange(0, STEPS)
        words = tl.load(line[None, :] + s[:, None] * WIDE, mask=(s < steps)[:, None] & real[None, :], other=0)
        if PER == 8:
            scale = _group_scales(scales, panel, place, s, steps, real, STEPS_A_GROUP)
        for j in tl.static_range(PER):
            numbers = _numbers(words, j, table, PER, FIRST, STEP)
            if PER == 8:
                numbers *= scale
            c = s * PER + j
            inside = (r < rows)[:, None] & (c < width)[None, :]
            values = tl.load(x + r[:, None] * width + c[None, :], mask=inside, other=0.0).to(tl.float32)
            sums += values[:, :, None] * numbers[None, :, :]
    total = tl.sum(sums, axis=1)
    if PER == 4:
        total *= tl.load(scales + n, mask=real, other=0.0)[None, :]
    if BIASED:
        total += tl.load(bias + n, mask=real, other=0.0).to(tl.float32)[None, :]
    tl.store(out + r[:, None] * outputs + n[None, :], total, mask=(r < rows)[:, None] & real[None, :])


@triton.jit
def _tile_kernel(
    x, codes, scales, bias, table, out, rows, outputs, steps,
    PER: tl.constexpr, STEPS_A_GROUP: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr, BIASED: tl.constexpr,
    ROWS: tl.constexpr, STEPS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """ROWS x OUT products; x is [PER, rows, steps], so that part j of all words meets its inputs side by side."""
    n = tl.program_id(0) * OUT + tl.arange(0, OUT)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    real, here = n < outputs, r < rows
    panel, place = n // WIDE, n % WIDE
    line = codes + panel.to(tl.int64) * steps * WIDE + place
    sums = tl.zeros([ROWS, OUT], tl.float32)
    for start in range(0, steps, STEPS):
        s = start + tl.arange(0, STEPS)
        words = tl.load(line[None, :] + s[:, None] * WIDE, mask=(s < steps)[:, None] & real[None, :], other=0)
        if PER == 8:
            scale = _group_scales(scales, panel, place, s, steps, real, STEPS_A_GROUP)
        inside = here[:, None] & (s < steps)[None, :]
        for j in tl.static_range(PER):
            values = tl.load(x + (j * rows + r)[:, None] * steps + s[None, :], mask=inside, other=0.0)
            numbers = _numbers(words, j, table, PER, FIRST, STEP)
            if PER == 8:
                numbers *= scale
            sums = tl.dot(values, numbers.to(values.dtype), sums)
    if PER == 4:
        sums *= tl.load(scales + n, mask=real, other=0.0)[None, :]
    if BIASED:
        sums += tl.load(bias + n, mask=real, other=0.0).to(tl.float32)[None, :]
    tl.store(out + r[:, None] * outputs + n[None, :], sums, mask=here[:, None] & real[None, :])


@triton.jit
def _decode_kernel(
    codes, scales, table, out, width, outputs, steps,
    PER: tl.constexpr, STEPS_A_GROUP: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr,
    INPUTS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """OUT x INPUTS numbers of the weight, [out, in]."""
    n = tl.program_id(0) * OUT + tl.arange(0, OUT)
    c = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    inside = (n < outputs)[:, None] & (c < width)[None, :]
    panel, place, s, j = (n // WIDE).to(tl.int64), n % WIDE, c // PER, c % PER
    words = tl.load(codes + ((panel * steps)[:, None] + s[None, :]) * WIDE + place[:, None], mask=inside, other=0)
    numbers = _numbers(words, j[None, :], table, PER, FIRST, STEP)
    if PER == 4:
        numbers *= tl.load(scales + n, mask=n < outputs, other=0.0)[:, None]
    else:
        at = ((panel * (steps // STEPS_A_GROUP))[:, None] + (s // STEPS_A_GROUP)[None, :]) * WIDE + place[:, None]
        numbers *= tl.load(scales + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + n.to(tl.int64)[:, None] * width + c[None, :], numbers, mask=inside)


def product(
    x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, *,
    outputs: int, group: int, levels: tuple[int, ...] | None,
) -> Tensor:  # fmt: skip
    """x W' + b.

    Args:
        x: [..., in] in bfloat16 or float16.
        codes, scales: uint8 as in `PackedLinear`, contiguous.
        bias: [outputs].
        levels: what 4-bit codes stand for, 16 numbers; None where codes are bytes.
    """
    width = x.shape[-1]
    flat = x.reshape(-1, width)
    rows = len(flat)
    if rows > MANY:
        weight = decoded(codes, scales, outputs=outputs, width=width, group=group, levels=levels, dtype=x.dtype)
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype))
    stored = _Stored.of(codes, scales, group, levels)
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    given = (stored.words, stored.scales, stored.words if bias is None else bias, stored.table, out)
    if rows <= FEW:
        most, steps = _few_block(outputs, rows * stored.per)
        _few_kernel[(triton.cdiv(outputs, most),)](
            flat.contiguous(), *given, rows, width, outputs, stored.steps, **stored.kind, BIASED=bias is not None,
            ROWS=triton.next_power_of_2(rows), STEPS=steps, OUT=most, num_warps=4,
        )  # fmt: skip
    else:
        tile = min(64, max(16, triton.next_power_of_2(rows)))
        _tile_kernel[(triton.cdiv(outputs, PANEL), triton.cdiv(rows, tile))](
            _by_part(flat, stored), *given, rows, outputs, stored.steps, **stored.kind, BIASED=bias is not None,
            ROWS=tile, STEPS=128 // stored.per, OUT=PANEL, num_warps=4, num_stages=3,
        )  # fmt: skip
    return out.view(*x.shape[:-1], outputs)


def decoded(
    codes: Tensor, scales: Tensor, *,
    outputs: int, width: int, group: int, levels: tuple[int, ...] | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The weight, [outputs, width]; computed in float32, rounded once to `dtype`."""
    stored = _Stored.of(codes, scales, group, levels)
    out = torch.empty(outputs, width, dtype=dtype, device=codes.device)
    _decode_kernel[(triton.cdiv(outputs, 32), triton.cdiv(width, 128))](
        stored.words, stored.scales, stored.table, out, width, outputs, stored.steps, **stored.kind,
        INPUTS=128, OUT=32, num_warps=4,
    )  # fmt: skip
    return out


class _Stored(NamedTuple):
    """A weight as the kernels take it: int32[panels, steps * 64] words, scales as numbers, levels (or anything)."""

    words: Tensor
    scales: Tensor
    table: Tensor
    per: int  # inputs in a word
    kind: dict[str, int]

    @property
    def steps(self) -> int:
        return self.words.shape[1] // PANEL

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor, group: int, levels: tuple[int, ...] | None) -> "_Stored":
        words = codes.view(torch.int32)
        if levels is None:
            kind = {"PER": 4, "STEPS_A_GROUP": group // 4, "FIRST": 0, "STEP": 0}
            return cls(words, scales.view(torch.float32), words, 4, kind)
        step = levels[1] - levels[0]
        even = levels == tuple(range(levels[0], levels[0] + 16 * step, step))
        kind = {"PER": 8, "STEPS_A_GROUP": group // 8, "FIRST": levels[0], "STEP": step if even else 0}
        return cls(words, scales.view(torch.bfloat16), levels_on(levels, codes.device), 8, kind)


def _by_part(x: Tensor, stored: _Stored) -> Tensor:
    """[rows, in] as [per, rows, steps], zeros behind the last input."""
    padded = F.pad(x, (0, stored.per * stored.steps - x.shape[1]))
    return padded.view(len(x), stored.steps, stored.per).permute(2, 0, 1).contiguous()


def _few_block(outputs: int, sums: int) -> tuple[int, int]:
    """Outputs and words of one program: enough programs for every processor, loads in flight, registers for them.

    Args:
        sums: that each word goes into.
    """
    words = 2048 if sums <= 4 else 1024 if sums <= 16 else 512
    most = 64 if outputs >= 32_768 else 32 if outputs >= 8192 else 16
    return most, words // most
