"""The pieces both towers share: norm, rotary embedding, attention and its mask.

Axis letters: B batch, T queries, S keys, D width, N query heads, K key-value heads, G = N/K, H head_dim, R rows of a
block.

`attend` is the one seam to attention kernels. It works in blocks of query rows, so that never more than one block of
scores exists at a time: 4,096 image tokens of one 896 px picture need megabytes, not gigabytes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paligemma.model.fused import attention_kernels, fusible, kernels, linear_kernels

MASKED = -2.3819763e38  # finite, so that a row that sees nothing gives a uniform distribution instead of NaN
BLOCK_BYTES = 64 * 2**20  # of float32 scores held at a time
CUDA_BLOCK_BYTES = 2 * 2**30  # there a block is a launch, and memory is not shared with the rest of the machine


class RMSNorm(nn.Module):
    """y = x * rsqrt(mean(x^2) + eps) * (1 + weight), in float32, cast back after the product."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if fast := kernels(x):
            normed: Tensor = fast.rms_norm(x, self.weight, self.eps)
            return normed
        return _rms_norm(x, self.weight, self.eps)


@fusible
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x32 = x.float()
    scaled = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (scaled * (1.0 + weight.float())).to(x.dtype)


def add_and_norm(x: Tensor, change: Tensor, post: RMSNorm | None, after: RMSNorm | None) -> tuple[Tensor, Tensor]:
    """The residual stream after a change, which `post` norms first, and what `after` makes of it (or itself again)."""
    first, second = (None if norm is None else (norm.weight, norm.eps) for norm in (post, after))
    if fast := kernels(x):
        total, normed = fast.add_norm(x, change, first, second)
        return total, normed
    return _add_and_norm(x, change, first, second)


@fusible
def _add_and_norm(
    x: Tensor, change: Tensor, post: tuple[Tensor, float] | None, after: tuple[Tensor, float] | None
) -> tuple[Tensor, Tensor]:
    x = x + (change if post is None else _rms_norm(change, *post))
    return x, x if after is None else _rms_norm(x, *after)


def project(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer's outputs."""
    if isinstance(layer, nn.Linear) and (fast := linear_kernels(x, layer)):
        projected: Tensor = fast.product(x, layer.weight, layer.bias)
        return projected
    outputs: Tensor = layer(x)
    return outputs


def project_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """The same, and the tanh form of GELU of it."""
    if isinstance(layer, nn.Linear) and not x.is_cuda and (fast := linear_kernels(x, layer)):
        activated: Tensor = fast.product(x, layer.weight, layer.bias, gelu=True)
        return activated
    return gelu(layer(x))


def rotary_angles(position_BT: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32[B, 1, T, H/2], of position / theta^(2d/H)."""
    exponent = torch.arange(0, head_dim, 2, device=position_BT.device, dtype=torch.float32) / head_dim
    angle = position_BT[:, None, :, None].float() / theta**exponent
    return angle.cos(), angle.sin()


def rotate(x_BNTH: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the two halves of each head (not interleaved pairs) by their position's angle."""
    cos, sin = angles
    if fast := kernels(x_BNTH):
        rotated: Tensor = fast.rotate(x_BNTH, cos, sin)
        return rotated
    return _rotate(x_BNTH, cos, sin)


@fusible
def _rotate(x_BNTH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x_BNTH.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_BNTH.dtype)


@fusible
def gelu(x: Tensor) -> Tensor:
    """The tanh form, of both towers."""
    return F.gelu(x, approximate="tanh")


@fusible
def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up."""
    return gelu(gate) * up


@dataclass(frozen=True)
class AttentionMask:
    """Who sees whom, from one integer per token.

    `mask_ar` says 0 where a token belongs to the same block as the one before it and 1 where it starts a new causal
    step; `step = cumsum(mask_ar)`. Query q sees key k iff k is no padding and step[k] <= step[q]:

        image+prefix+suffix, mask_ar 0 0 0 1 1      1 1 1 0 0
                                                    1 1 1 0 0
                                                    1 1 1 0 0
                                                    1 1 1 1 0
                                                    1 1 1 1 1

    With a sliding window a key of an earlier step must also be among the newest `window` positions; the prefix, being
    one step, stays whole (Hugging Face's rule; big_vision has no window). Source: big_vision `make_attn_mask`.

    Shapes: `*_step`, `*_position` int64[B, T or S]; `key_valid` bool[B, S].
    """

    query_step: Tensor
    query_position: Tensor
    key_step: Tensor
    key_position: Tensor
    key_valid: Tensor

    @classmethod
    def prefix_lm(cls, mask_ar: Tensor, mask_input: Tensor) -> "AttentionMask":
        """The mask of one whole sequence: `mask_ar` int64[B, T], `mask_input` bool[B, T] (False where padding)."""
        step = mask_ar.cumsum(-1)
        position = positions(mask_input)
        return cls(step, position, step, position, mask_input)

    def of_queries(self, place: Tensor) -> "AttentionMask":
        """What one query of each row sees, that at `place`, int64[B]."""
        step, position = at(self.query_step, place), at(self.query_position, place)
        return AttentionMask(step, position, self.key_step, self.key_position, self.key_valid)

    def rows(self, start: int, stop: int, window: int | None) -> Tensor:
        """bool[B, 1, stop - start, S]: what these queries see."""
        query_step = self.query_step[:, start:stop, None]
        key_step = self.key_step[:, None, :]
        seen = (key_step <= query_step) & self.key_valid[:, None, :]
        if window is not None:
            distance = self.query_position[:, start:stop, None] - self.key_position[:, None, :]
            seen &= (distance < window) | (key_step == query_step)
        return seen[:, None]


def at(x: Tensor, place: Tensor) -> Tensor:
    """[B, T, ...] -> [B, 1, ...], what lies at `place`, int64[B]."""
    return x[torch.arange(len(x), device=x.device), place].unsqueeze(1)


def positions(mask_input: Tensor) -> Tensor:
    """int64[B, T]: 0-based positions that padding does not consume."""
    return (mask_input.long().cumsum(-1) - 1).clamp(min=0)


def attend(
    q_BNTH: Tensor,
    k_BKSH: Tensor,
    v_BKSH: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    mask: AttentionMask | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention with grouped heads, optional soft-cap and mask; returns [B, N, T, H]. `mask=None` sees everything."""
    if fast := attention_kernels(q_BNTH, mask is not None):
        seen_by = {} if mask is None else vars(mask)
        attended: Tensor = fast.attend(q_BNTH, k_BKSH, v_BKSH, scale=scale, softcap=softcap, window=window, **seen_by)
        return attended
    batch, num_heads, length, _ = q_BNTH.shape
    row_bytes = 4 * batch * num_heads * k_BKSH.shape[2]
    held = CUDA_BLOCK_BYTES if q_BNTH.is_cuda else BLOCK_BYTES
    block = max(1, min(length, held // row_bytes))
    if q_BNTH.is_cuda and mask is not None and softcap is None:  # its kernel that takes masks does not group heads
        group = num_heads // k_BKSH.shape[1]
        k_BKSH, v_BKSH = k_BKSH.repeat_interleave(group, dim=1), v_BKSH.repeat_interleave(group, dim=1)

    def one_block(start: int) -> Tensor:
        q = q_BNTH[:, :, start : start + block]
        seen = None if mask is None else mask.rows(start, start + q.shape[2], window)
        if softcap is None:
            return _attend(q, k_BKSH, v_BKSH, seen, scale)
        return _attend_softcapped(q, k_BKSH, v_BKSH, seen, scale, softcap)

    starts = range(0, length, block)
    if len(starts) == 1:
        return one_block(0)
    if torch.is_grad_enabled() and q_BNTH.requires_grad:  # keep the promise in the backward pass too
        return torch.cat([checkpoint(one_block, start, use_reentrant=False) for start in starts], dim=2)
    return torch.cat([one_block(start) for start in starts], dim=2)


def _attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """torch's kernel. To be trained on a CPU it runs in float32: its backward in bfloat16 takes three times as long."""
    grouped = q.shape[1] != k.shape[1]
    wanted = [part.dtype for part in (q, k, v)] == [torch.bfloat16] * 3 and q.device.type == "cpu" and q.requires_grad
    if not wanted or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=grouped)
    with torch.autocast("cpu", enabled=False):
        attended = F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), seen, scale=scale, enable_gqa=grouped
        )
    return attended.to(q.dtype)


def _attend_softcapped(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float, softcap: float) -> Tensor:
    """cap * tanh(logits / cap) before the mask, softmax in float32. q [B,N,R,H], k and v [B,K,S,H]."""
    batch, num_heads, rows, head_dim = q.shape
    num_kv_heads, keys = k.shape[1], k.shape[2]
    grouped = (q * scale).reshape(batch, num_kv_heads, -1, head_dim)  # N = K*G: heads of one group are neighbours
    scores = torch.matmul(grouped, k.transpose(-1, -2)).float()
    scores = torch.tanh(scores / softcap) * softcap
    if seen is not None:
        shaped = scores.view(batch, num_heads, rows, keys)
        scores = torch.where(seen, shaped, MASKED).view_as(scores)
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    return torch.matmul(weights, v).reshape(batch, num_heads, rows, head_dim)
