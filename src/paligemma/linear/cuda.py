"""Products with coded weights on CUDA, where a kernel takes them; each is None where the caller goes the plain way.

In: tensors at hand. Out: the product, or None: other types than bfloat16 and float16, gradients, no Triton, or
PALIGEMMA_NATIVE is 0. Not done here: the kernels (`triton_packed.py`, `triton_fp8.py`), the plain ways (`packed.py`).
"""

import importlib
import os
from functools import cache, lru_cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
FP8_FROM = (8, 9)  # compute capability of the first cards that multiply e4m3
FEW = 4  # rows that are not rounded: reading the weight is what takes the time
LARGEST = torch.finfo(torch.float8_e4m3fn).max


def packed_product(
    x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, *,
    outputs: int, group: int, levels: tuple[int, ...] | None,
) -> Tensor | None:  # fmt: skip
    """x W' + b of codes in panels; arguments as for `triton_packed.product`."""
    fast = kernels() if takes(x, codes) else None
    if fast is None:
        return None
    product: Tensor = fast.product(x, codes, scales, bias, outputs=outputs, group=group, levels=levels)
    return product


def fp8_product(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, *, outputs: int) -> Tensor | None:
    """x W' + b of a weight in e4m3.

    Args:
        x: [..., in]. codes: uint8[out, padded in], both a multiple of 16. scales: float32[out].
        outputs: how many of the rows are no padding.
    """
    if not takes(x, codes) or not has_fp8(codes.device):
        return None
    width, padded = x.shape[-1], codes.shape[1]
    flat, weight = x.reshape(-1, width).contiguous(), codes.view(torch.float8_e4m3fn)
    fast = fp8_kernels()
    if fast is not None and len(flat) <= FEW:
        product: Tensor = fast.few_rows(flat, weight, scales, bias, outputs=outputs)
        return product.view(*x.shape[:-1], outputs)
    rows, row_scales = fast.rounded(flat, padded) if fast is not None else rounded(flat, padded)
    product = torch._scaled_mm(
        rows, weight.t(), scale_a=row_scales, scale_b=scales[None].contiguous(), out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )[:, :outputs].to(x.dtype)  # fmt: skip
    return (product if bias is None else product + bias.to(x.dtype)).view(*x.shape[:-1], outputs)


def rounded(x: Tensor, padded: int) -> tuple[Tensor, Tensor]:
    """e4m3[rows, padded] and float32[rows, 1] scales of x [rows, in]: a row's largest number becomes 448."""
    scales = x.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / LARGEST
    return F.pad(x.float() / scales, (0, padded - x.shape[1])).to(torch.float8_e4m3fn), scales


def has_fp8(device: torch.device) -> bool:
    """Whether the card multiplies e4m3."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_FROM


def takes(x: Tensor, codes: Tensor) -> bool:
    """Whether kernels may be called with these."""
    if not x.is_cuda or codes.device != x.device or x.dtype not in HALF or x.numel() == 0:
        return False
    return not (torch.is_grad_enabled() and x.requires_grad) and not torch.compiler.is_compiling()


def kernels() -> ModuleType | None:
    """The module with the kernels for packed weights; None where Triton is missing or not wanted."""
    return _module("triton_packed")


def fp8_kernels() -> ModuleType | None:
    """The same for e4m3."""
    return _module("triton_fp8")


@cache
def _module(name: str) -> ModuleType | None:
    if os.environ.get("PALIGEMMA_NATIVE") == "0":
        return None
    try:
        return importlib.import_module(f"paligemma.linear.{name}")
    except ImportError:
        return None


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def levels_on(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """float32[16] there, made once: a recorded pass must not wait for a copy."""
    return torch.tensor(levels, dtype=torch.float32, device=device)
