"""Whether `triton_kernels.py` or `cpu_kernels.py` take a piece of work; each caller has plain PyTorch beside it.

In: the tensors at hand. Out: the module with the kernels, or None. Triton's take 16-bit numbers on CUDA; those of the
CPU a few rows times large matrices; none takes gradients. Everything else, and everything where Triton or a compiler is
missing or PALIGEMMA_NATIVE is 0, goes the plain way.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn

from paligemma.model import cpu_kernels

HALF = (torch.bfloat16, torch.float16)
_wanted = os.environ.get("PALIGEMMA_NATIVE") != "0"


@contextmanager
def plain() -> Iterator[None]:
    """Without the kernels inside; passes recorded before keep theirs."""
    global _wanted
    before, _wanted = _wanted, False
    try:
        yield
    finally:
        _wanted = before


def kernels(x: Tensor) -> ModuleType | None:
    """The kernels, if they take `x` and what goes with it."""
    if not x.is_cuda:
        return cpu_kernels if _wanted and cpu_kernels.take(x) else None
    if not _wanted or x.dtype not in HALF or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    return _installed()


def matvec_kernels(x: Tensor, *linears: nn.Module) -> ModuleType | None:
    """The kernels, if `x` is one row (or few, on a CPU) and these layers are plain matrices of its type."""
    if not all(type(one) is nn.Linear and one.bias is None for one in linears):
        return None
    return row_kernels(x, *(one.weight for one in linears if isinstance(one, nn.Linear)))


def row_kernels(x: Tensor, *weights: Tensor) -> ModuleType | None:
    """The same for matrices [O, D] themselves."""
    if not x.is_cuda:
        return cpu_kernels if _wanted and cpu_kernels.take_rows(x, *weights) else None
    alike = x.numel() == x.shape[-1] and all(weight.dtype == x.dtype for weight in weights)
    return kernels(x) if alike else None


@cache
def _installed() -> ModuleType | None:
    try:
        from paligemma.model import triton_kernels
    except ImportError:
        return None
    return triton_kernels
