"""What a layer does on a CPU, by the C kernels of `native`; named as in `triton_kernels.py`.

In: float32 or bfloat16 without gradients. Out: the same type; sums are made in float32. PyTorch's own product of one
row reads bfloat16 at a third of the memory's pace on processors with oneDNN. Not done here: packed weights.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.native import Library, decoder, library, many_product, plain_product, takes_many
from paligemma.native.products import FLOATS, PLAIN_ROWS

LARGE = 2**18  # numbers of a matrix; smaller ones are not worth a compiler's seconds
WIDE = 256  # numbers of a row; narrower models are fast anyway
VOCABULARY = 2**14  # scores of a row; of fewer PyTorch makes as short work
FEW = 2**16  # numbers of queries that are taken one by one
MARKS = ("query_step", "query_position", "key_step", "key_position", "key_valid")  # of a mask


def take(x: Tensor) -> bool:
    """Whether the steps between matrices may be called with this: rows as wide as those of a real model."""
    return x.shape[-1] >= WIDE and x.numel() > 0 and x.dtype in FLOATS and _possible(x)


def take_queries(q_BNTH: Tensor, masked: bool) -> bool:
    """Whether `attend` may be called with these: few under a mask, or many where the processor multiplies bfloat16."""
    if q_BNTH.numel() <= FEW:
        return masked and take(q_BNTH)
    return q_BNTH.dtype == torch.bfloat16 and _possible(q_BNTH) and takes_many(2, q_BNTH.shape[-1])


def _possible(x: Tensor) -> bool:
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling() and library() is not None


def take_scores(x: Tensor) -> bool:
    """Whether `softcap` may be called with this."""
    return x.shape[-1] >= VOCABULARY and take(x)


def take_products(x: Tensor, *weights: Tensor) -> bool:
    """Whether `product`, `products` and `gated` may be called with these."""
    many = x.numel() > PLAIN_ROWS * x.shape[-1]
    if many and not (x.dtype == torch.bfloat16 and all(takes_many(w.shape[1], w.shape[0]) for w in weights)):
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


def attend(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, *,
    scale: float, softcap: float | None, window: int | None = None, **mask: Tensor,
) -> Tensor:  # fmt: skip
    """Attention under the parts of an `AttentionMask`, or without one; [B, N, T, H], in memory T before N."""
    kernel = decoder.attend if q_BNTH.numel() <= FEW else decoder.attend_many
    marks = tuple(mask[name] for name in MARKS if mask)
    return _there(kernel(_library(), q_BNTH, k_BKSH, v_BKSH, scale=scale, softcap=softcap, window=window, marks=marks))


def _library() -> Library:
    found = library()
    assert found is not None, "`take` said yes"
    return found


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Rows [..., D] times a matrix [O, D], plus a bias [O]; perhaps the tanh form of GELU of that."""
    if x.numel() > PLAIN_ROWS * x.shape[-1]:
        return _there(many_product(x, weight, bias, gelu=gelu))
    few = _there(plain_product(x, weight, bias))
    return F.gelu(few, approximate="tanh") if gelu else few


def products(x: Tensor, *weights: Tensor) -> Sequence[Tensor]:
    """Rows times several matrices."""
    return [product(x, weight) for weight in weights]


def gated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate x) * (up x) for rows [..., D] and matrices [O, D]."""
    if x.numel() > PLAIN_ROWS * x.shape[-1]:
        return _there(many_product(x, gate, up=up))
    return geglu(product(x, gate), product(x, up))


def _there(found: Tensor | None) -> Tensor:
    assert found is not None, "`take_products` said yes"
    return found
