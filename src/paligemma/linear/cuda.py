"""Products with coded weights on CUDA, where a kernel takes them; each is None where the caller goes the plain way.

In: tensors at hand. Out: the product, or None: other types than bfloat16 and float16, gradients, no Triton, or
PALIGEMMA_NATIVE is 0. Not done here: the kernels (`triton_packed.py`), the plain ways (`packed.py`).
"""

import os
from functools import cache, lru_cache
from types import ModuleType

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def packed_product(
    x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, *,
    outputs: int, group: int, levels: tuple[int, ...] | None,
) -> Tensor | None:  # fmt: skip
    """x W' + b of codes in panels; arguments as for `triton_packed.product`."""
    fast = kernels() if takes(x, codes) else None
    if fast is None:
        return None
    table = None if levels is None else levels_on(levels, codes.device)
    product: Tensor = fast.product(x, codes, scales, bias, outputs=outputs, group=group, levels=table)
    return product


def takes(x: Tensor, codes: Tensor) -> bool:
    """Whether kernels may be called with these."""
    if not x.is_cuda or codes.device != x.device or x.dtype not in HALF or x.numel() == 0:
        return False
    return not (torch.is_grad_enabled() and x.requires_grad) and not torch.compiler.is_compiling()


@cache
def kernels() -> ModuleType | None:
    """The module with the kernels; None where Triton is missing or not wanted."""
    if os.environ.get("PALIGEMMA_NATIVE") == "0":
        return None
    try:
        from paligemma.linear import triton_packed
    except ImportError:
        return None
    return triton_packed


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def levels_on(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """float32[16] there, made once: a recorded pass must not wait for a copy."""
    return torch.tensor(levels, dtype=torch.float32, device=device)
