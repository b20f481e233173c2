"""Products with weights in e4m3 on CUDA: a few rows times a matrix read once, and rows rounded to e4m3 for many.

In: rows in bfloat16 or float16, codes and scales as `Fp8Linear` keeps them. Out: products, or rows with their scales.
Imported only where Triton is; `cuda.py` decides. Not done here: products of many rows, which are PyTorch's.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST = tl.constexpr(448.0)


@triton.jit
def _few_kernel(
    x, codes, scales, bias, out, rows, width, padded, outputs,
    BIASED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """OUT outputs of all rows."""
    n = tl.program_id(0) * OUT + tl.arange(0, OUT)
    r = tl.arange(0, ROWS)
    real = n < outputs
    line = codes + n.to(tl.int64) * padded
    sums = tl.zeros([ROWS, OUT, COLUMNS], tl.float32)
    for start in range(0, width, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        inside = (r < rows)[:, None] & (c < width)[None, :]
        values = tl.load(x + r[:, None] * width + c[None, :], mask=inside, other=0.0).to(tl.float32)
        numbers = tl.load(line[:, None] + c[None, :], mask=real[:, None] & (c < width)[None, :], other=0.0)
        sums += values[:, None, :] * numbers.to(tl.float32)[None, :, :]
    total = tl.sum(sums, axis=2) * tl.load(scales + n, mask=real, other=0.0)[None, :]
    if BIASED:
        total += tl.load(bias + n, mask=real, other=0.0).to(tl.float32)[None, :]
    tl.store(out + r[:, None] * outputs + n[None, :], total, mask=(r < rows)[:, None] & real[None, :])


@triton.jit
def _round_kernel(x, codes, scales, width, padded, BLOCK: tl.constexpr):
    """One row: its largest number becomes 448; zeros behind the last."""
    row = tl.program_id(0).to(tl.int64)
    peak = tl.zeros([BLOCK], tl.float32)
    for start in range(0, width, BLOCK):
        c = start + tl.arange(0, BLOCK)
        peak = tl.maximum(peak, tl.abs(tl.load(x + row * width + c, mask=c < width, other=0.0).to(tl.float32)))
    scale = tl.maximum(tl.max(peak, axis=0), 1.0e-30) / LARGEST
    tl.store(scales + row, scale)
    for start in range(0, padded, BLOCK):
        c = start + tl.arange(0, BLOCK)
        numbers = tl.load(x + row * width + c, mask=c < width, other=0.0).to(tl.float32) / scale
        numbers = tl.minimum(tl.maximum(numbers, -LARGEST), LARGEST)
        tl.store(codes + row * padded + c, numbers.to(tl.float8e4nv), mask=c < padded)


def few_rows(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, *, outputs: int) -> Tensor:
    """x W' + b of one to four rows [rows, in]; codes e4m3[out, padded in], scales float32[out]."""
    rows, width = x.shape
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    block, columns = (16, 256) if outputs >= 32_768 else (8, 512) if outputs >= 8192 else (4, 1024)
    _few_kernel[(triton.cdiv(outputs, block),)](
        x, codes, scales, codes if bias is None else bias, out, rows, width, codes.shape[1], outputs,
        BIASED=bias is not None, ROWS=triton.next_power_of_2(rows), COLUMNS=columns // triton.next_power_of_2(rows),
        OUT=block, num_warps=4,
    )  # fmt: skip
    return out


def rounded(x: Tensor, padded: int) -> tuple[Tensor, Tensor]:
    """e4m3[rows, padded] and float32[rows, 1] scales of x [rows, in]."""
    codes = torch.empty(len(x), padded, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    _round_kernel[(len(x),)](x, codes, scales, x.shape[1], padded, BLOCK=2048, num_warps=4)
    return codes, scales
