"""Whether `triton_kernels.py` or `cpu_kernels.py` take a piece of work; each caller has plain PyTorch beside it.

In: the tensors at hand. Out: the module with the kernels, or None. Triton's take 16-bit numbers on CUDA; those of the
CPU rows times large matrices; none takes gradients. Everything else, and everything where Triton or a compiler is
missing or PALIGEMMA_NATIVE is 0, goes the plain way. Of that, `fusible` functions can be compiled by torch; training
asks for it, since a chain of element-wise steps then reads and writes its tensors once, forward and backward.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from paligemma.errors import UnavailableError
from paligemma.model import cpu_kernels, cpu_stack

HALF = (torch.bfloat16, torch.float16)
P = ParamSpec("P")
T = TypeVar("T")
_wanted = os.environ.get("PALIGEMMA_NATIVE") != "0"
VARIANTS = 64  # of one compiled function: types, what has a gradient, what is missing
_compiling = False


@contextmanager
def compiled(wanted: bool = True) -> Iterator[None]:
    """`fusible` functions are compiled inside, where gradients are computed.

    Raises:
        UnavailableError: torch cannot compile on this machine.
    """
    global _compiling
    if not wanted:
        yield
        return
    from torch._dynamo import config  # both are slow to import
    from torch._dynamo.exc import BackendCompilerFailed

    before, _compiling = _compiling, True
    try:
        with config.patch(recompile_limit=VARIANTS):
            yield
    except BackendCompilerFailed as error:
        raise UnavailableError(
            f"compile was asked for and torch cannot compile here ({str(error).splitlines()[0]}), expected a C++ "
            "compiler (Triton on CUDA); install g++ or clang, or leave compile out"
        ) from error
    finally:
        _compiling = before


def fusible(function: Callable[P, T]) -> Callable[P, T]:
    """Marks a function of tensors without matrix products, which `compiled` makes one kernel for all shapes."""

    @cache
    def fused() -> Callable[P, T]:
        return torch.compile(function, dynamic=True)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if _compiling and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return fused()(*args, **kwargs)
        return function(*args, **kwargs)

    return call


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


def attention_kernels(q: Tensor, masked: bool) -> ModuleType | None:
    """The kernels, if they attend for these queries."""
    if q.is_cuda:
        return kernels(q) if masked else None
    return cpu_kernels if _wanted and cpu_kernels.take_queries(q, masked) else None


def vocabulary_kernels(scores: Tensor) -> ModuleType | None:
    """The kernels, if they cap scores of a whole vocabulary."""
    return cpu_kernels if _wanted and not scores.is_cuda and cpu_kernels.take_scores(scores) else None


def stack_kernels(model: nn.Module, x: Tensor, cache: object) -> ModuleType | None:
    """The kernels, if they take all layers of a language model at once for these rows."""
    return cpu_stack if _wanted and not x.is_cuda and cpu_stack.take(model, x, cache) else None


def linear_kernels(x: Tensor, *linears: nn.Module) -> ModuleType | None:
    """The kernels, if these layers are plain matrices of its type and `x` has as many rows as they take.

    That is one row on CUDA, where biases are not taken either; on a CPU few, or any number where the processor
    multiplies bfloat16.
    """
    plain = [one for one in linears if type(one) is nn.Linear and not is_watched(one)]
    biases = [one.bias for one in plain if one.bias is not None]
    if len(plain) < len(linears) or any(x.is_cuda or bias.dtype != x.dtype for bias in biases):
        return None
    return product_kernels(x, *(one.weight for one in plain))


def is_watched(module: nn.Module) -> bool:
    """Whether somebody acts before or after it, who would be passed over: a split layer's exchange, say."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def product_kernels(x: Tensor, *weights: Tensor) -> ModuleType | None:
    """The same for matrices [O, D] themselves."""
    if not x.is_cuda:
        return cpu_kernels if _wanted and cpu_kernels.take_products(x, *weights) else None
    alike = x.numel() == x.shape[-1] and all(weight.dtype == x.dtype for weight in weights)
    return kernels(x) if alike else None


@cache
def _installed() -> ModuleType | None:
    try:
        from paligemma.model import triton_kernels
    except ImportError:
        return None
    return triton_kernels
