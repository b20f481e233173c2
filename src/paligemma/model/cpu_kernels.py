"""What a layer does for few rows on a CPU, by the C kernels of `native`; named as in `triton_kernels.py`.

In: float32 or bfloat16 without gradients. Out: the same type; sums are made in float32. PyTorch's own product of one
row reads bfloat16 at a third of the memory's pace on processors with oneDNN. Not done here: many rows, packed weights.
"""

from typing import Any

import torch
from torch import Tensor

from paligemma.native import Library, decoder, library, plain_product
from paligemma.native.products import FLOATS, PLAIN_ROWS

LARGE = 2**18  # numbers of a matrix; smaller ones are not worth a compiler's seconds
WIDE = 256  # numbers of a row; narrower models are fast anyway
VOCABULARY = 2**14  # scores of a row; of fewer PyTorch makes as short work
FEW = 2**16  # numbers in all: more are left to PyTorch's kernels, whose threads then pay


def take(x: Tensor, most: int = FEW) -> bool:
    """Whether the steps between matrices may be called with this: few rows, as wide as those of a real model."""
    if torch.is_grad_enabled() or x.dtype not in FLOATS or not WIDE <= x.numel() <= most or x.shape[-1] < WIDE:
        return False
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    return library() is not None


def take_scores(x: Tensor) -> bool:
    """Whether `softcap` may be called with this."""
    return x.shape[-1] >= VOCABULARY and take(x, x.numel())


def take_rows(x: Tensor, *weights: Tensor) -> bool:
    """Whether `matvec` may be called with these."""
    if x.numel() > PLAIN_ROWS * x.shape[-1]:
        return False
    fit = all(weight.dtype == x.dtype and weight.is_contiguous() and weight.numel() >= LARGE for weight in weights)
    return fit and take(x)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of the last axis, times 1 + weight."""
    return decoder.rms_norm(_library(), x, weight.to(x.dtype), eps)


def add_norm(x: Tensor, change: Tensor, post: decoder.Norm | None, after: decoder.Norm | None) -> tuple[Tensor, Tensor]:
    """x + norm(change), and the norm of that; each norm is a weight and an eps, or left out."""
    typed = [norm and (norm[0].to(x.dtype), norm[1]) for norm in (post, after)]
    return decoder.add_norm(_library(), x, change, *typed)


def rotate(x_BNTH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the halves of each head by angles float32[B, 1, T, H/2]."""
    return decoder.rotate(_library(), x_BNTH, cos, sin)


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up, GELU by tanh."""
    return decoder.geglu(_library(), gate, up)


def softcap(scores: Tensor, cap: float) -> Tensor:
    """cap * tanh(scores / cap)."""
    return decoder.softcap(_library(), scores, cap)


def attend(q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, **mask: Any) -> Tensor:
    """Attention of few queries under an `AttentionMask`; [B, N, T, H], in memory T before N."""
    return decoder.attend(_library(), q_BNTH, k_BKSH, v_BKSH, **mask)


def _library() -> Library:
    found = library()
    assert found is not None, "`take` said yes"
    return found


def matvec(x: Tensor, *weights: Tensor) -> Tensor:
    """Up to four rows [..., D] times matrices [O, D]; their outputs beside each other, [..., sum of O]."""
    products = [_product(x, weight) for weight in weights]
    return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


def gated_matvec(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate x) * (up x) for rows [..., D] and matrices [O, D]."""
    return geglu(_product(x, gate), _product(x, up))


def _product(x: Tensor, weight: Tensor) -> Tensor:
    product = plain_product(x, weight)
    assert product is not None, "`take` said yes"
    return product
