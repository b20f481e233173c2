"""The steps between a decoder layer's matrices, in each branch, against plain PyTorch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.model import layers
from paligemma.model.layers import AttentionMask, RMSNorm, add_and_norm, rotary_angles
from paligemma.native import build as building
from paligemma.native import decoder

BRANCHES = {"best": (), "avx2": ("-DNO_AVX512",), "portable": ("-DNO_AVX512", "-DNO_AVX2")}
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}
TYPES = st.sampled_from(list(CLOSE))


@pytest.fixture(scope="module", params=BRANCHES)
def found(request, tmp_path_factory):
    try:
        return building.build(tmp_path_factory.mktemp("native"), *BRANCHES[request.param])
    except building._NotBuilt as why:
        pytest.skip(str(why))


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def norm(width, seed, dtype):
    made = RMSNorm(width, 1e-6)
    made.weight.data = numbers(width, seed=seed, dtype=dtype)
    return made


@settings(max_examples=20)
@given(rows=st.integers(1, 5), width=st.integers(1, 300), dtype=TYPES, post=st.booleans(), after=st.booleans())
@torch.no_grad()
def test_norms(found, rows, width, dtype, post, after):
    x, change = numbers(rows, width, dtype=dtype), numbers(rows, width, seed=1, dtype=dtype)
    first, second = norm(width, 2, dtype), norm(width, 3, dtype)
    torch.testing.assert_close(decoder.rms_norm(found, x, first.weight, 1e-6), first(x), **CLOSE[dtype])
    total, normed = decoder.add_norm(
        found, x, change, (first.weight, 1e-6) if post else None, (second.weight, 1e-6) if after else None
    )
    expected = add_and_norm(x, change, first if post else None, second if after else None)
    torch.testing.assert_close(total, expected[0], **CLOSE[dtype])
    torch.testing.assert_close(normed, expected[1], **CLOSE[dtype])


@settings(max_examples=20)
@given(batch=st.integers(1, 3), heads=st.integers(1, 4), length=st.integers(1, 3), half=st.integers(1, 70), dtype=TYPES)
def test_rotation(found, batch, heads, length, half, dtype):
    x = numbers(batch, length, heads, 2 * half, dtype=dtype).transpose(1, 2)
    angles = rotary_angles(torch.arange(length).expand(batch, -1) + 5, 2 * half, 10_000.0)
    torch.testing.assert_close(decoder.rotate(found, x, *angles), layers.rotate(x, angles), **CLOSE[dtype])


@settings(max_examples=20)
@given(rows=st.integers(1, 3), count=st.integers(1, 300), cap=st.sampled_from([1.0, 30.0]), dtype=TYPES)
def test_caps(found, rows, count, cap, dtype):
    x = numbers(rows, count, dtype=dtype) * 3 * cap
    x[0, 0] = float("nan")
    expected = cap * torch.tanh(x / cap)
    torch.testing.assert_close(decoder.softcap(found, x, cap), expected, **CLOSE[dtype], equal_nan=True)


@settings(max_examples=20)
@given(rows=st.integers(1, 3), count=st.integers(1, 300), size=st.sampled_from([1.0, 30.0]), dtype=TYPES)
def test_gates(found, rows, count, size, dtype):
    gate, up = numbers(rows, count, dtype=dtype) * size, numbers(rows, count, seed=1, dtype=dtype)
    torch.testing.assert_close(decoder.geglu(found, gate, up), layers.geglu(gate, up), **CLOSE[dtype])


def has_tiles(found):
    """Whether this branch multiplies bfloat16 by itself."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return found.branch == "avx512vnni" and "avx512_bf16" in flags and "amx_bf16" not in flags


def marks(batch, length, keys, seed):
    """Steps, positions and padding as the engine has them: views of longer rows, the queries' keys last."""
    generator = torch.Generator().manual_seed(seed)
    step = torch.randint(0, 2, (batch, keys + 3), generator=generator).cumsum(-1)
    valid = torch.rand(batch, keys + 3, generator=generator) < 0.8
    valid[:, keys - length : keys] = True
    position = (valid.long().cumsum(-1) - 1).clamp(min=0)
    return AttentionMask(
        query_step=step[:, keys - length : keys], query_position=position[:, keys - length : keys],
        key_step=step[:, :keys], key_position=position[:, :keys], key_valid=valid[:, :keys],
    )  # fmt: skip


@settings(max_examples=40)
@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), kv=st.integers(1, 2), length=st.integers(1, 3),
    more=st.integers(0, 90), head_dim=st.integers(1, 150), dtype=TYPES, softcap=st.sampled_from([None, 5.0, 50.0]),
    window=st.sampled_from([None, 1, 7]), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention(found, batch, groups, kv, length, more, head_dim, dtype, softcap, window, seed):
    keys, mask = length + more, marks(batch, length, length + more, seed)
    q = numbers(batch, length, groups * kv, head_dim, seed=seed, dtype=dtype).transpose(1, 2)
    k, v = (numbers(batch, kv, keys + 3, head_dim, seed=seed + i, dtype=dtype)[:, :, :keys] for i in (1, 2))
    options = {"scale": head_dim**-0.5, "softcap": softcap, "window": window}
    expected = layers.attend(q.float(), k.float(), v.float(), mask=mask, **options)
    y = decoder.attend(found, q, k, v, **options, marks=tuple(vars(mask).values()))
    assert y.dtype == dtype
    assert y.shape == q.shape
    torch.testing.assert_close(y.float(), expected, **CLOSE[dtype])


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 2), groups=st.integers(1, 3), kv=st.integers(1, 2), length=st.integers(1, 70),
    more=st.integers(0, 90), head_dim=st.sampled_from([8, 32, 72, 256]), softcap=st.sampled_from([None, 50.0]),
    window=st.sampled_from([None, 7]), masked=st.booleans(), turned=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_attention_of_many_queries(
    found, batch, groups, kv, length, more, head_dim, softcap, window, masked, turned, seed
):
    keys, mask = length + more, marks(batch, length, length + more, seed) if masked else None
    shape = (batch, length, groups * kv, head_dim) if turned else (batch, groups * kv, length, head_dim)
    q = numbers(*shape, seed=seed, dtype=torch.bfloat16)
    q = q.transpose(1, 2) if turned else q
    k, v = (numbers(batch, kv, keys + 3, head_dim, seed=seed + i, dtype=q.dtype)[:, :, :keys] for i in (1, 2))
    options = {"scale": head_dim**-0.5, "softcap": softcap, "window": window}
    y = decoder.attend_many(found, q, k, v, **options, marks=tuple(vars(mask).values()) if mask else ())
    if y is None:
        assert not has_tiles(found)
        return
    expected = layers.attend(q.float(), k.float(), v.float(), mask=mask, **options)
    assert (y.shape, y.dtype) == (q.shape, q.dtype)
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    if masked:  # a query's bits are its own, and so are those before more keys that it cannot see
        wider = [F.pad(part, (0, 0, 0, 5)) for part in (k, v)]
        hidden = {name: F.pad(getattr(mask, name), (0, 5)) for name in ("key_step", "key_position", "key_valid")}
        alone = replace(mask, **hidden, query_step=mask.query_step[:, -1:], query_position=mask.query_position[:, -1:])
        last = decoder.attend_many(found, q[:, :, -1:], *wider, **options, marks=tuple(vars(alone).values()))
        assert torch.equal(last, y[:, :, -1:])


def test_what_is_no_number_stays_visible_among_many(found):
    q, k, v = (numbers(1, 2, 60, 32, seed=i, dtype=torch.bfloat16) for i in range(3))
    k[0, 1, 7, 3] = float("nan")
    y = decoder.attend_many(found, q, k, v, scale=1.0, softcap=50.0)
    if y is not None:
        assert y[0, 1].isnan().all()
        assert y[0, 0].isfinite().all()


def test_scores_far_apart_and_many_keys(found):
    mask = marks(1, 1, 4100, 3)
    q, k, v = numbers(1, 2, 1, 64) * 40, numbers(1, 1, 4100, 64, seed=1) * 40, numbers(1, 1, 4100, 64, seed=2)
    for softcap in (None, 50.0):
        options = {"scale": 1.0, "softcap": softcap, "window": None}
        y = decoder.attend(found, q, k, v, **options, marks=tuple(vars(mask).values()))
        torch.testing.assert_close(y, layers.attend(q, k, v, mask=mask, **options), rtol=1e-3, atol=1e-3)


def test_a_query_that_sees_nothing_gives_the_mean(found):
    mask = marks(1, 1, 9, 0)
    mask.key_valid[:] = False
    q, k, v = numbers(1, 1, 1, 16), numbers(1, 1, 9, 16, seed=1), numbers(1, 1, 9, 16, seed=2)
    y = decoder.attend(found, q, k, v, scale=1.0, softcap=None, window=None, marks=tuple(vars(mask).values()))
    torch.testing.assert_close(y[0, 0, 0], v[0, 0].mean(0))


def test_what_is_no_number_stays_visible(found):
    mask = marks(1, 1, 9, 0)
    mask.key_valid[:] = True
    mask.key_step[:] = 0
    q, k, v = numbers(1, 1, 1, 64), numbers(1, 1, 9, 64, seed=1), numbers(1, 1, 9, 64, seed=2)
    k[0, 0, 3, 5] = float("nan")
    for softcap in (None, 50.0):
        y = decoder.attend(found, q, k, v, scale=1.0, softcap=softcap, window=None, marks=tuple(vars(mask).values()))
        assert y.isnan().all()
    x = numbers(2, 64)
    x[0, 3] = float("inf")
    normed = decoder.rms_norm(found, x, torch.zeros(64), 1e-6)
    assert not normed[0].isfinite().all()
    assert normed[1].isfinite().all()
