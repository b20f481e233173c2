"""Small kernels for CUDA, where a decoder layer is otherwise sixty launches of a microsecond's work each.

In: bfloat16 or float16 tensors on CUDA. Out: what `layers.py` and `gemma.py` compute in plain PyTorch, with the same
roundings between the steps; sums run in float32 in another order. Imported only where Triton is (it comes with PyTorch
for CUDA); `fused.py` decides. Not done here: gradients.
Letters: B batch, T queries, S keys, N query heads, K key-value heads, G = N/K, H head_dim.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

UNSEEN = tl.constexpr(-1.0e30)  # finite, so that a row that sees nothing gives numbers
SPLIT = 64  # keys one program reads where queries are few: several share a row, and a second kernel joins them
MAX_SPLITS = 128


# --- norms -----------------------------------------------------------------------------------------------------------


@triton.jit
def _normed(x, weight, columns, inside, width, eps):
    """float32 RMSNorm of one row, times 1 + weight."""
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    return x * tl.rsqrt(tl.sum(x * x, axis=0) / width + eps) * (1.0 + w)


@triton.jit
def _norm_kernel(x, weight, out, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    values = tl.load(x + row + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + columns, _normed(values, weight, columns, inside, width, eps), mask=inside)


@triton.jit
def _add_norm_kernel(
    x, change, post, after, total, out, width, post_eps, eps, HAS_POST: tl.constexpr, HAS_NEXT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * width
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    added = tl.load(change + row + columns, mask=inside, other=0.0)
    if HAS_POST:
        normed = _normed(added.to(tl.float32), post, columns, inside, width, post_eps)
        added = normed.to(total.dtype.element_ty)
    base = tl.load(x + row + columns, mask=inside, other=0.0)
    summed = (base.to(tl.float32) + added.to(tl.float32)).to(total.dtype.element_ty)
    tl.store(total + row + columns, summed, mask=inside)
    if HAS_NEXT:
        normed = _normed(summed.to(tl.float32), after, columns, inside, width, eps)
        tl.store(out + row + columns, normed, mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of the last axis, times 1 + weight."""
    x = x.contiguous()
    out = torch.empty_like(x)
    width = x.shape[-1]
    _norm_kernel[(x.numel() // width,)](x, weight, out, width, eps, BLOCK=triton.next_power_of_2(width), num_warps=8)
    return out


def add_norm(
    x: Tensor, change: Tensor, post: tuple[Tensor, float] | None, after: tuple[Tensor, float] | None
) -> tuple[Tensor, Tensor]:
    """x + norm(change), and the norm of that; each norm is a weight and an eps, or left out."""
    x, change = x.contiguous(), change.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x) if after else x
    width = x.shape[-1]
    post_weight, post_eps = post or (x, 0.0)
    weight, eps = after or (x, 0.0)
    _add_norm_kernel[(x.numel() // width,)](
        x, change, post_weight, weight, total, out, width, post_eps, eps,
        HAS_POST=post is not None, HAS_NEXT=after is not None, BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return total, out


# --- element-wise ----------------------------------------------------------------------------------------------------


@triton.jit
def _tanh(x):
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


@triton.jit
def _geglu_kernel(gate, up, out, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    g = _gelu(tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)).to(out.dtype.element_ty)
    u = tl.load(up + place, mask=inside, other=0.0)
    tl.store(out + place, g.to(tl.float32) * u.to(tl.float32), mask=inside)


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up, GELU by tanh."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(gate)
    _geglu_kernel[(triton.cdiv(gate.numel(), 2048),)](gate, up, out, gate.numel(), BLOCK=2048, num_warps=8)
    return out


@triton.jit
def _rotate_kernel(
    x, cos, sin, out, heads, length, half, stride_b, stride_n, stride_t, HEADS: tl.constexpr, HALF: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    b, t = row // length, row % length
    n = tl.arange(0, HEADS)[:, None]
    h = tl.arange(0, HALF)[None, :]
    inside = (n < heads) & (h < half)
    angle = row * half + h
    c = tl.load(cos + angle, mask=h < half, other=0.0)
    s = tl.load(sin + angle, mask=h < half, other=0.0)
    source = x + b * stride_b + n * stride_n + t * stride_t + h
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    target = out + ((b * heads + n) * length + t) * (2 * half) + h
    tl.store(target, first * c - second * s, mask=inside)
    tl.store(target + half, second * c + first * s, mask=inside)


def rotate(x_BNTH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the halves of each head by angles float32[B, 1, T, H/2]; any strides but that of H."""
    batch, heads, length, head_dim = x_BNTH.shape
    assert x_BNTH.stride(-1) == 1, "the numbers of a head must be neighbours"
    out = torch.empty(batch, heads, length, head_dim, dtype=x_BNTH.dtype, device=x_BNTH.device)
    _rotate_kernel[(batch * length,)](
        x_BNTH, cos.contiguous(), sin.contiguous(), out, heads, length, head_dim // 2, *x_BNTH.stride()[:3],
        HEADS=triton.next_power_of_2(heads), HALF=triton.next_power_of_2(head_dim // 2),
    )  # fmt: skip
    return out


# --- attention -------------------------------------------------------------------------------------------------------


@triton.jit
def _see_keys(
    queries, kt_at, vt_at, inside, seen, best, weight, sums, scale, softcap, CAPPED: tl.constexpr
):  # fmt: skip
    """One block of keys into the running softmax: the highest score so far, the weights' sum and the values' sum."""
    kt = tl.load(kt_at, mask=inside, other=0.0)
    scores = tl.dot(queries, tl.trans(kt)) * scale
    if CAPPED:
        scores = softcap * _tanh(scores / softcap)
    scores = tl.where(seen, scores, UNSEEN)
    higher = tl.maximum(best, tl.max(scores, axis=1))
    shrunk = tl.exp(best - higher)
    weights = tl.where(seen, tl.exp(scores - higher[:, None]), 0.0)
    vt = tl.load(vt_at, mask=inside, other=0.0)
    sums = sums * shrunk[:, None] + tl.dot(weights.to(vt.dtype), vt)
    return higher, weight * shrunk + tl.sum(weights, axis=1), sums


@triton.jit(do_not_specialize=["length", "keys", "part", "splits"])
def _attend_kernel(
    q, k, v, out, peak, total,
    query_step, query_position, key_step, key_position, key_valid,
    scale, softcap, window, length, keys, head_dim, kv_heads, part, splits,
    qb, qn, qt, kb, kk, ks, vb, vk, vs,
    GROUP: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, HEAD: tl.constexpr,
    CAPPED: tl.constexpr, WINDOWED: tl.constexpr, SPLIT_UP: tl.constexpr,
):  # fmt: skip
    """ROWS pairs of a query and one of the GROUP heads that share a key-value head, over one part of the keys."""
    b = (tl.program_id(1) // kv_heads).to(tl.int64)
    head = tl.program_id(1) % kv_heads
    split = tl.program_id(2)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    t = row // GROUP
    n = head * GROUP + row % GROUP
    h = tl.arange(0, HEAD)
    real = t < length
    here = real[:, None] & (h < head_dim)[None, :]
    queries = tl.load(q + b * qb + n[:, None] * qn + t[:, None] * qt + h[None, :], mask=here, other=0.0)
    step = tl.load(query_step + b * length + t, mask=real, other=0)
    position = tl.load(query_position + b * length + t, mask=real, other=0)
    best = tl.full([ROWS], UNSEEN, tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, HEAD], tl.float32)
    first = split * part
    for start in range(first, tl.minimum(first + part, keys), KEYS):
        s = start + tl.arange(0, KEYS)
        there = s < keys
        other = tl.load(key_step + b * keys + s, mask=there, other=0)
        valid = there & (tl.load(key_valid + b * keys + s, mask=there, other=0) != 0)
        seen = valid[None, :] & (other[None, :] <= step[:, None])
        if WINDOWED:
            distance = position[:, None] - tl.load(key_position + b * keys + s, mask=there, other=0)[None, :]
            seen = seen & ((distance < window) | (other[None, :] == step[:, None]))
        inside = there[:, None] & (h < head_dim)[None, :]
        kt_at = k + b * kb + head * kk + s[:, None] * ks + h[None, :]
        vt_at = v + b * vb + head * vk + s[:, None] * vs + h[None, :]
        if SPLIT_UP:  # few queries: their keys are read only where somebody sees one
            if tl.max(tl.max(seen.to(tl.int32), axis=1), axis=0) > 0:
                best, weight, sums = _see_keys(
                    queries, kt_at, vt_at, inside, seen, best, weight, sums, scale, softcap, CAPPED
                )
        else:
            best, weight, sums = _see_keys(
                queries, kt_at, vt_at, inside, seen, best, weight, sums, scale, softcap, CAPPED
            )
    line = (b * length + t) * kv_heads * GROUP + n
    if SPLIT_UP:
        line = line * splits + split
        tl.store(peak + line, best, mask=real)
        tl.store(total + line, weight, mask=real)
    else:
        sums = sums / tl.maximum(weight, 1.0e-30)[:, None]
    tl.store(out + line[:, None] * head_dim + h[None, :], sums, mask=here)


@triton.jit(do_not_specialize=["splits"])
def _join_kernel(parts, peak, total, out, head_dim, splits, SPLITS: tl.constexpr, HEAD: tl.constexpr):
    """One row's parts into one: each weighs by its own sum, measured from the highest score of all."""
    line = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, SPLITS)
    h = tl.arange(0, HEAD)
    real = part < splits
    peaks = tl.load(peak + line * splits + part, mask=real, other=UNSEEN)
    shares = tl.where(real, tl.exp(peaks - tl.max(peaks, axis=0)), 0.0)
    weight = tl.sum(shares * tl.load(total + line * splits + part, mask=real, other=0.0), axis=0)
    inside = real[:, None] & (h < head_dim)[None, :]
    sums = tl.load(parts + (line * splits + part)[:, None] * head_dim + h[None, :], mask=inside, other=0.0)
    joined = tl.sum(sums * shares[:, None], axis=0) / tl.maximum(weight, 1.0e-30)
    tl.store(out + line * head_dim + h, joined, mask=h < head_dim)


def attend(
    q_BNTH: Tensor, k_BKSH: Tensor, v_BKSH: Tensor, *, scale: float, softcap: float | None, window: int | None,
    query_step: Tensor, query_position: Tensor, key_step: Tensor, key_position: Tensor, key_valid: Tensor,
) -> Tensor:  # fmt: skip
    """Attention under an `AttentionMask`; [B, N, T, H], in memory T before N.

    Masks are int64[B, T or S] and bool[B, S], alike in strides among those of T and among those of S.
    """
    batch, heads, length, head_dim = q_BNTH.shape
    kv_heads, keys = k_BKSH.shape[1], k_BKSH.shape[2]
    group, device = heads // kv_heads, q_BNTH.device
    query_step, query_position = query_step.contiguous(), query_position.contiguous()
    key_step, key_position, key_valid = (mask.contiguous() for mask in (key_step, key_position, key_valid))
    few = length * group <= 16
    rows, block = (16, SPLIT) if few else (64 if head_dim > 128 else 128, 64)
    part = max(SPLIT, triton.cdiv(triton.cdiv(keys, MAX_SPLITS), SPLIT) * SPLIT) if few else keys
    splits = triton.cdiv(keys, part)
    out = torch.empty(batch, length, heads, head_dim, dtype=q_BNTH.dtype, device=device)
    parts, peak, total = out, out, out
    if splits > 1:
        parts = torch.empty(batch, length, heads, splits, head_dim, dtype=torch.float32, device=device)
        peak, total = torch.empty(2, batch, length, heads, splits, dtype=torch.float32, device=device)
    head = max(16, triton.next_power_of_2(head_dim))
    _attend_kernel[(triton.cdiv(length * group, rows), batch * kv_heads, splits)](
        q_BNTH, k_BKSH, v_BKSH, parts, peak, total,
        query_step, query_position, key_step, key_position, key_valid,
        scale, softcap or 0.0, window or 0, length, keys, head_dim, kv_heads, part, splits,
        *q_BNTH.stride()[:3], *k_BKSH.stride()[:3], *v_BKSH.stride()[:3],
        GROUP=group, ROWS=rows, KEYS=block, HEAD=head, CAPPED=softcap is not None, WINDOWED=window is not None,
        SPLIT_UP=splits > 1, num_warps=4 if few or head_dim > 128 else 8, num_stages=2,
    )  # fmt: skip
    if splits > 1:
        _join_kernel[(batch * heads * length,)](
            parts, peak, total, out, head_dim, splits, SPLITS=triton.next_power_of_2(splits), HEAD=head
        )
    return out.transpose(1, 2)


# --- one row through matrices ---------------------------------------------------------------------------------------


@triton.jit
def _dot_rows(x, weight, n, count, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """float32[ROWS]: these rows of the weight times x."""
    line = n.to(tl.int64)[:, None] * width
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, width, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        inside = (n < count)[:, None] & (c < width)[None, :]
        numbers = tl.load(x + c, mask=c < width, other=0.0).to(tl.float32)
        sums += tl.load(weight + line + c[None, :], mask=inside, other=0.0).to(tl.float32) * numbers[None, :]
    return tl.sum(sums, axis=1)


@triton.jit
def _store_rows(x, weight, out, block, count, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    n = block * ROWS + tl.arange(0, ROWS)
    tl.store(out + n, _dot_rows(x, weight, n, count, width, ROWS, COLUMNS), mask=n < count)


@triton.jit
def _matvec_kernel(
    x, first, second, third, out, width, count_1, count_2, count_3, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """ROWS outputs of one of three matrices; a program belongs to one."""
    block = tl.program_id(0)
    blocks_1 = tl.cdiv(count_1, ROWS)
    blocks_2 = blocks_1 + tl.cdiv(count_2, ROWS)
    if block < blocks_1:
        _store_rows(x, first, out, block, count_1, width, ROWS, COLUMNS)
    elif block < blocks_2:
        _store_rows(x, second, out + count_1, block - blocks_1, count_2, width, ROWS, COLUMNS)
    else:
        _store_rows(x, third, out + count_1 + count_2, block - blocks_2, count_3, width, ROWS, COLUMNS)


@triton.jit
def _gated_kernel(x, gate, up, out, count, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    g = _dot_rows(x, gate, n, count, width, ROWS, COLUMNS).to(out.dtype.element_ty).to(tl.float32)
    u = _dot_rows(x, up, n, count, width, ROWS, COLUMNS).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + n, _gelu(g).to(out.dtype.element_ty).to(tl.float32) * u, mask=n < count)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """One row [..., D] times a matrix [O, D]."""
    assert bias is None, "`linear_kernels` says no"
    return products(x, weight)[0]


def products(x: Tensor, *weights: Tensor) -> Sequence[Tensor]:
    """One row [..., D] times one to three matrices [O, D], in one launch."""
    counts = [len(weight) for weight in weights]
    out = torch.empty(*x.shape[:-1], sum(counts), dtype=x.dtype, device=x.device)
    padded, counts = (*weights, *weights[:1] * 2)[:3], [*counts, 0, 0][:3]
    rows, columns = _matvec_block(sum(counts))
    _matvec_kernel[(sum(triton.cdiv(count, rows) for count in counts),)](
        x.contiguous(), *padded, out, x.shape[-1], *counts, ROWS=rows, COLUMNS=columns, num_warps=4
    )
    return out.split([len(weight) for weight in weights], dim=-1)


def gated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate x) * (up x) for one row [..., D] and matrices [O, D]."""
    out = torch.empty(*x.shape[:-1], len(gate), dtype=x.dtype, device=x.device)
    rows, columns = _matvec_block(len(gate))
    _gated_kernel[(triton.cdiv(len(gate), rows),)](
        x.contiguous(), gate, up, out, len(gate), x.shape[-1], ROWS=rows, COLUMNS=columns, num_warps=4
    )
    return out


def _matvec_block(count: int) -> tuple[int, int]:
    """Rows and columns of one program: enough programs for every processor, enough loads in flight for each."""
    return (16, 256) if count >= 32_768 else (8, 512) if count >= 8192 else (4, 1024)
