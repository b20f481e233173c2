"""Few rows times large matrices on a CPU, by the C kernels of `native`; named as in `triton_kernels.py`.

In: float32 or bfloat16 without gradients. Out: the same type; sums are made in float32. PyTorch's own product of one
row reads bfloat16 at a third of the memory's pace on processors with oneDNN. Not done here: more rows, packed weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.native import library, plain_product
from paligemma.native.products import FLOATS, PLAIN_ROWS

LARGE = 2**18  # numbers of a matrix; smaller ones are not worth a compiler's seconds


def take(x: Tensor, *weights: Tensor) -> bool:
    """Whether `matvec` may be called with these."""
    if torch.is_grad_enabled() or x.dtype not in FLOATS or not 0 < x.numel() <= PLAIN_ROWS * x.shape[-1]:
        return False
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    fit = all(weight.dtype == x.dtype and weight.is_contiguous() and weight.numel() >= LARGE for weight in weights)
    return fit and library() is not None


def matvec(x: Tensor, *weights: Tensor) -> Tensor:
    """Up to four rows [..., D] times matrices [O, D]; their outputs beside each other, [..., sum of O]."""
    products = [_product(x, weight) for weight in weights]
    return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


def gated_matvec(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate x) * (up x) for rows [..., D] and matrices [O, D]."""
    return F.gelu(_product(x, gate), approximate="tanh") * _product(x, up)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    product = plain_product(x, weight)
    assert product is not None, "`take` said yes"
    return product
