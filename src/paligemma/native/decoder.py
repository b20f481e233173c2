"""The steps between a decoder layer's matrices as functions of tensors, by `decoder.c`.

In: CPU tensors, float32 or bfloat16, all of one type, without gradients, and a library that was found. Out: new
tensors. Each does what its namesake in `model.layers` does, in one call. Not done here: asking whether it applies.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from paligemma.native.build import Library

Norm = tuple[Tensor, float]  # weight and eps
ALONE = 2**16  # numbers in all below which waking other threads costs more than it gives


def threads_for(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() > ALONE else 1


def rms_norm(found: Library, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (1 + weight) over the last axis."""
    x = x.contiguous()
    out, width = torch.empty_like(x), x.shape[-1]
    found.handle.rms_norm_shared(
        threads_for(x),
        x.numel() // width,
        width,
        int(x.dtype == torch.bfloat16),
        x.data_ptr(),
        weight.data_ptr(),
        eps,
        out.data_ptr(),
    )
    return out


def add_norm(found: Library, x: Tensor, change: Tensor, post: Norm | None, after: Norm | None) -> tuple[Tensor, Tensor]:
    """x + norm(change), and the norm of that; each norm may be left out."""
    x, change = x.contiguous(), change.contiguous()
    total, width = torch.empty_like(x), x.shape[-1]
    out = torch.empty_like(x) if after else total
    post_weight, post_eps = post or (None, 0.0)
    weight, eps = after or (None, 0.0)
    found.handle.add_norm_shared(
        threads_for(x), x.numel() // width, width, int(x.dtype == torch.bfloat16), x.data_ptr(), change.data_ptr(),
        0 if post_weight is None else post_weight.data_ptr(), post_eps, 0 if weight is None else weight.data_ptr(), eps,
        total.data_ptr(), out.data_ptr(),
    )  # fmt: skip
    return total, out


@lru_cache(maxsize=1024)
def _numbers(*values: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def rotate(found: Library, x_BNTH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The halves of each head rotated by angles float32[B, 1, T, H/2]; any strides but that of H."""
    x = x_BNTH if x_BNTH.stride(-1) == 1 else x_BNTH.contiguous()
    out, cos, sin = x.new_empty(x.shape), cos.contiguous(), sin.contiguous()
    found.handle.rotate_shared(
        threads_for(x), ctypes.addressof(_numbers(*x.shape)), ctypes.addressof(_numbers(*x.stride())),
        int(x.dtype == torch.bfloat16), x.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr(),
    )  # fmt: skip
    return out


def geglu(found: Library, gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up, GELU by tanh."""
    gate, up = gate.contiguous(), up.contiguous()
    out, bfloat16 = torch.empty_like(gate), int(gate.dtype == torch.bfloat16)
    found.handle.geglu_shared(threads_for(gate), gate.numel(), bfloat16, gate.data_ptr(), up.data_ptr(), out.data_ptr())
    return out


def softcap(found: Library, x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap)."""
    x = x.contiguous()
    out, bfloat16 = torch.empty_like(x), int(x.dtype == torch.bfloat16)
    found.handle.softcap_shared(threads_for(x), x.numel(), bfloat16, x.data_ptr(), cap, out.data_ptr())
    return out


class Attention(ctypes.Structure):
    """`attention` of steps.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "heads", "length", "head_dim", "kv_heads", "keys")),
        *((name, ctypes.c_int64 * 3) for name in ("q", "k", "v")),
        *((name, ctypes.c_int64) for name in ("of_queries", "of_keys", "window", "bfloat16", "threads")),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
    ]


def attention_of(
    q: tuple[int, int, int, int], q_strides: Sequence[int], k: Tensor, v: Tensor, keys: int, *, scale: float,
    softcap: float | None, window: int | None, marks: Sequence[Tensor], bfloat16: bool, threads: int,
) -> Attention:  # fmt: skip
    """The call's sizes: queries [batch, heads, length, head_dim], the first `keys` of k and v [B, K, S, H]."""
    strides = [(ctypes.c_int64 * 3)(*part[:3]) for part in (q_strides, k.stride(), v.stride())]
    of_queries, of_keys = (marks[0].stride(0), marks[2].stride(0)) if marks else (0, 0)
    return Attention(
        *q, k.shape[1], keys, *strides, of_queries, of_keys, window or 0, int(bfloat16), threads, scale, softcap or 0.0
    )  # fmt: skip


def alike(marks: Sequence[Tensor]) -> list[Tensor]:
    """Query steps and positions int64[B, T], key steps, positions and valid marks [B, S], as `marks` of steps.h lie."""
    query, key = marks[:2], marks[2:]
    found: list[Tensor] = []
    for group in (query, key):
        fit = all(one.stride() == group[0].stride() and (one.stride(-1) == 1 or one.shape[-1] == 1) for one in group)
        found += group if fit else [one.contiguous() for one in group]
    return found


def pointers(marks: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """`marks` of steps.h."""
    return (ctypes.c_void_p * len(marks))(*(mark.data_ptr() for mark in marks))


def attend(
    found: Library, q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, *, scale: float, softcap: float | None,
    window: int | None, marks: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Attention of few queries under an `AttentionMask`; [B, N, T, H], in memory T before N.

    Args:
        marks: query steps and positions int64[B, T], key steps, positions and valid marks [B, S].
    """
    batch, heads, length, head_dim = q_BNTH.shape
    keys = k_BKSH.shape[2]
    threads = torch.get_num_threads() if batch * heads * length * keys * head_dim > 2**15 else 1
    q, k, v = (part if part.stride(-1) == 1 else part.contiguous() for part in (q_BNTH, k_BKSH, v_BKSH))
    marks = alike(marks)
    asked = attention_of(
        (batch, heads, length, head_dim), q.stride(), k, v, keys, scale=scale, softcap=softcap, window=window,
        marks=marks, bfloat16=q.dtype == torch.bfloat16, threads=threads,
    )  # fmt: skip
    out, where = q.new_empty(batch, length, heads, head_dim), pointers(marks)
    scratch = torch.empty(threads, keys)
    found.handle.attend(
        ctypes.addressof(asked), q.data_ptr(), k.data_ptr(), v.data_ptr(), ctypes.addressof(where), out.data_ptr(),
        scratch.data_ptr(),
    )  # fmt: skip
    return out.transpose(1, 2)


def attend_many(
    found: Library, q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, *, scale: float, softcap: float | None,
    window: int | None = None, marks: Sequence[Tensor] = (),
) -> Tensor | None:  # fmt: skip
    """The same of bfloat16 for many queries; None where this processor has no kernel for these sizes.

    Args:
        marks: as for `attend`; none: every query sees every key.
    """
    batch, heads, length, head_dim = q_BNTH.shape
    if q_BNTH.dtype != torch.bfloat16:
        return None
    keys, threads = k_BKSH.shape[2], torch.get_num_threads()
    q, k, v = (part if part.stride(-1) == 1 else part.contiguous() for part in (q_BNTH, k_BKSH, v_BKSH))
    marks = alike(marks) if marks else ()
    asked = attention_of(
        (batch, heads, length, head_dim), q.stride(), k, v, keys, scale=scale, softcap=softcap, window=window,
        marks=marks, bfloat16=True, threads=threads,
    )  # fmt: skip
    size = found.handle.attend_many_bytes(ctypes.addressof(asked))
    if not size:
        return None
    out, where = q.new_empty(batch, length, heads, head_dim), pointers(marks)
    scratch = torch.empty(size, dtype=torch.uint8)
    found.handle.attend_many(
        ctypes.addressof(asked), q.data_ptr(), k.data_ptr(), v.data_ptr(), ctypes.addressof(where) if marks else 0,
        out.data_ptr(), scratch.data_ptr(),
    )  # fmt: skip
    return out.transpose(1, 2)
