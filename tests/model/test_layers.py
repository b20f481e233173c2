import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from paligemma.model import AttentionMask, attend, layers, positions
from paligemma.model.layers import RMSNorm, rotary_angles, rotate


def naive_attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """One query head and one query at a time, straight from the formula."""
    out = torch.zeros_like(q)
    batch, heads, length, _ = q.shape
    for b, n, t in itertools.product(range(batch), range(heads), range(length)):
        kv_head = n // (heads // k.shape[1])
        logits = k[b, kv_head] @ q[b, n, t] * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if seen is not None:
            logits = logits.masked_fill(~seen[b, t], float("-inf"))
        out[b, n, t] = logits.softmax(-1) @ v[b, kv_head]
    return out


def qkv(batch: int, heads: int, kv_heads: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, heads, length, 6), (batch, kv_heads, length, 6), (batch, kv_heads, length, 6))
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q, k, v


PREFIX_LM = torch.tensor([[0, 0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("mask_ar", "picture"),
    [
        ([0, 0, 0, 0], ["1111", "1111", "1111", "1111"]),  # one block, fully visible
        ([1, 1, 1, 1], ["1000", "1100", "1110", "1111"]),  # causal
        ([0, 0, 1, 1], ["1100", "1100", "1110", "1111"]),  # prefix-LM
        ([1, 0, 1, 0], ["1100", "1100", "1111", "1111"]),  # causal between blocks of two
    ],
)
def test_mask_ar_makes_the_attention_patterns(mask_ar: list[int], picture: list[str]) -> None:
    row = torch.tensor([mask_ar])
    seen = AttentionMask.prefix_lm(row, torch.ones_like(row).bool()).rows(0, 4, None)[0, 0]
    assert ["".join(str(int(s)) for s in line) for line in seen] == picture


@given(st.integers(1, 5), st.integers(0, 6), st.integers(0, 3), st.booleans(), st.integers(1, 9))
def test_window_keeps_the_prefix_whole_and_counts_positions(
    prefix: int, suffix: int, padding: int, left: bool, window: int
) -> None:
    pads, row = [0] * padding, [0] * prefix + [1] * suffix
    mask_ar = torch.tensor([pads + row if left else row + [1] * padding])
    valid = torch.tensor([pads + [1] * len(row) if left else [1] * len(row) + pads]).bool()
    seen = AttentionMask.prefix_lm(mask_ar, valid).rows(0, len(row) + padding, window)[0, 0]
    start = padding if left else 0
    inner = seen[start : start + len(row), start : start + len(row)]
    for q, k in itertools.product(range(len(row)), repeat=2):
        both_prefix = q < prefix and k < prefix
        assert bool(inner[q, k]) == (both_prefix or (k <= q and q - k < window)), (q, k)
    real = seen[start : start + len(row)]
    assert int(real.sum()) == int(inner.sum()), "a row sees padding"


def test_positions_do_not_count_padding() -> None:
    valid = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    assert positions(valid).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2], [0, 1, 2, 3, 4]]


def test_rows_are_slices_of_the_whole_mask() -> None:
    mask_ar = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1]])
    mask = AttentionMask.prefix_lm(mask_ar, torch.tensor([[0] * 2 + [1] * 5, [1] * 7]).bool())
    for window in (None, 2):
        whole = mask.rows(0, 7, window)
        assert whole.shape == (2, 1, 7, 7)
        assert torch.equal(mask.rows(3, 6, window), whole[:, :, 3:6])


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_equals_the_formula(softcap: float | None, kv_heads: int, masked: bool) -> None:
    q, k, v = qkv(2, 4, kv_heads, 5)
    mask = AttentionMask.prefix_lm(PREFIX_LM.expand(2, 5), torch.ones(2, 5).bool()) if masked else None
    seen = None if mask is None else mask.rows(0, 5, 2)[:, 0]
    got = attend(q, k, v, scale=0.7, softcap=softcap, mask=mask, window=2)
    torch.testing.assert_close(got, naive_attention(q, k, v, seen, 0.7, softcap), atol=2e-6, rtol=0)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("rows_at_once", [1, 2, 4])
def test_blocks_give_the_same_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, rows_at_once: int
) -> None:
    mask = AttentionMask.prefix_lm(PREFIX_LM.expand(2, 5), torch.tensor([[0, 1, 1, 1, 1], [1] * 5]).bool())

    def run() -> list[Tensor]:
        leaves = [x.requires_grad_() for x in qkv(2, 4, 2, 5)]
        out = attend(*leaves, scale=0.7, softcap=softcap, mask=mask, window=2)
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        return [out, *(leaf.grad for leaf in leaves)]  # type: ignore[list-item]

    whole = run()
    monkeypatch.setattr(layers, "BLOCK_BYTES", 4 * 2 * 4 * 5 * rows_at_once)
    calls = []
    rows = AttentionMask.rows
    monkeypatch.setattr(AttentionMask, "rows", lambda self, *a: calls.append(a) or rows(self, *a))
    for got, want in zip(run(), whole, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)
    assert len({start for start, *_ in calls}) == -(-5 // rows_at_once), "not in blocks"


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_row_that_sees_nothing_is_finite(softcap: float | None) -> None:
    mask = AttentionMask.prefix_lm(torch.tensor([[0, 0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1, 1]]).bool())
    got = attend(*qkv(1, 4, 2, 5), scale=1.0, softcap=softcap, mask=mask)
    assert got.isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor any operation returned."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.nbytes = max(self.nbytes, tensor.nbytes)
        return out


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_long_pictures_never_hold_more_than_a_block_of_scores(softcap: float | None) -> None:
    length = 4200  # one 896 px picture and a prompt; its scores are 135 MiB
    q, k, v = qkv(1, 2, 1, length)
    mask_ar = torch.zeros(1, length, dtype=torch.int64)
    mask = AttentionMask.prefix_lm(mask_ar, torch.ones(1, length).bool())
    with LargestTensor() as largest:
        attend(q, k, v, scale=1.0, softcap=softcap, mask=mask, window=4096)
    assert 4 * 2 * length**2 > layers.BLOCK_BYTES >= largest.nbytes > 0


def test_rms_norm_multiplies_in_float32_before_casting_back() -> None:
    norm = RMSNorm(4, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, 0.5, -1.0, 0.003]))
    x = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    want = x / (x.square().mean() + 1e-6).sqrt() * torch.tensor([1.0, 1.5, 0.0, 1.003])
    torch.testing.assert_close(norm(x), want)
    assert torch.equal(norm(x.bfloat16()), want.bfloat16())


def test_rotation_pairs_the_halves_and_depends_on_differences_only() -> None:
    x = torch.randn(1, 1, 2, 8, generator=torch.Generator().manual_seed(0))
    angles = rotary_angles(torch.tensor([[0, 3]]), 8, 100.0)
    turned = rotate(x, angles)
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])
    angle = torch.tensor(3 / 100.0 ** (2 / 8))  # pair 1 of 4: elements 1 and 5
    want = x[0, 0, 1, 1] * angle.cos() - x[0, 0, 1, 5] * angle.sin()
    torch.testing.assert_close(turned[0, 0, 1, 1], want)
    later = rotate(x, rotary_angles(torch.tensor([[40, 43]]), 8, 100.0))
    dot = (turned[0, 0, 0] * turned[0, 0, 1]).sum()
    torch.testing.assert_close((later[0, 0, 0] * later[0, 0, 1]).sum(), dot, atol=1e-5, rtol=0)
