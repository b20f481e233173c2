"""Each kernel, in each branch this processor can run, against plain PyTorch."""

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.linear.packed import METHODS, PackedLinear
from paligemma.native import build as building
from paligemma.native import coded_product, many_product, pack, plain_product, products, takes_many

CODED = [name for name, method in METHODS.items() if method.floats is None]  # those with kernels here
BRANCHES = {"best": (), "avx2": ("-DNO_AVX512",), "portable": ("-DNO_AVX512", "-DNO_AVX2")}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """name -> library; built once for all tests of this file."""
    directory = tmp_path_factory.mktemp("native")
    try:
        return {name: building.build(directory, *flags) for name, flags in BRANCHES.items()}
    except building._NotBuilt as why:
        pytest.skip(str(why))


@pytest.fixture(params=BRANCHES)
def branch(request, libraries, monkeypatch):
    """The kernels of one branch for everything in the test."""
    monkeypatch.setattr(products, "library", lambda: libraries[request.param])
    return request.param


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def off(found, expected, terms=None):
    """Distance of all numbers together, relative to `terms`, the sums without their signs (default: the sums)."""
    size = expected if terms is None else terms
    return float((found.double() - expected.double()).norm() / size.double().norm().clamp(min=1e-30))


def rounded(x, group):
    """What the kernels make of inputs: 8 bits with a scale for each group."""
    padded = F.pad(x.double(), (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    step = padded.abs().amax(-1, keepdim=True) / 127
    codes = (padded / torch.where(step == 0, 1, step)).round()
    return (codes * step).flatten(-2)[..., : x.shape[-1]]


shapes = {"rows": st.integers(1, 4), "width": st.integers(1, 700), "out": st.integers(1, 140)}
several = functools.partial(settings, max_examples=25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@several()
@given(**shapes, bias=st.booleans(), seed=st.integers(0, 9))
def test_plain_weights(libraries, dtype, rows, width, out, bias, seed):
    x, w = numbers(rows, width, seed=seed, dtype=dtype), numbers(out, width, seed=seed + 1, dtype=dtype)
    b = numbers(out, seed=seed + 2, dtype=dtype) if bias else None
    exact = F.linear(x.double(), w.double(), None if b is None else b.double())
    terms = x.double().abs() @ w.double().abs().T + (0 if b is None else b.double().abs())  # sums may be near 0
    for library in libraries.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "library", lambda one=library: one)
            y = plain_product(x, w, b)
        assert y.dtype == dtype
        assert off(y, exact, terms) < (1e-6 if dtype == torch.float32 else 6e-3)


@pytest.mark.parametrize("width", [9216, 12289])
def test_plain_weights_wider_than_the_first_cache(branch, width):
    for out in (3, 4, 9):
        x, w = numbers(2, width), numbers(out, width, seed=1)
        assert off(plain_product(x, w), x.double() @ w.double().T) < 1e-6


@several()
@given(
    rows=st.integers(1, 320), pairs=st.integers(1, 600), eights=st.integers(1, 12), bias=st.booleans(),
    step=st.sampled_from(["none", "gelu", "gated"]), seed=st.integers(0, 9),
)  # fmt: skip
def test_many_rows(libraries, rows, pairs, eights, bias, step, seed):
    width, out, half = 2 * pairs, 8 * eights, torch.bfloat16
    x, w = numbers(rows, width, seed=seed, dtype=half), numbers(out, width, seed=seed + 1, dtype=half)
    b = numbers(out, seed=seed + 2, dtype=half) if bias and step != "gated" else None
    up = numbers(out, width, seed=seed + 3, dtype=half) if step == "gated" else None
    exact = F.linear(x.float(), w.float(), None if b is None else b.float())
    exact = exact if step == "none" else F.gelu(exact, approximate="tanh")
    exact = exact * F.linear(x.float(), up.float()) if up is not None else exact
    for library in libraries.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "library", lambda one=library: one)
            y = many_product(x, w, b, up=up, gelu=step == "gelu")
            assert (y is not None) == takes_many(width, out)
            if y is not None:
                assert y.dtype == half
                assert off(y, exact) < 1.5e-2  # three roundings to 8 bits
                alone = many_product(x[-1:], w, b, up=up, gelu=step == "gelu")
                assert torch.equal(alone[0], y[-1]), "a row's bits are its own"


def test_many_rows_where_they_do_not_apply(branch):
    x, w = numbers(20, 64, dtype=torch.bfloat16), numbers(16, 64, seed=1, dtype=torch.bfloat16)
    assert many_product(x.float(), w.float()) is None
    assert many_product(x, w[:15]) is None  # outputs come in eights
    assert many_product(x[:, :63].contiguous(), w[:, :63].contiguous()) is None  # inputs in pairs
    assert many_product(x, w[:, ::2]) is None
    assert many_product(x, w, numbers(16)) is None
    with torch.inference_mode():
        x[3, 5] = float("nan")
    found = many_product(x, w)
    if found is not None:
        assert found[3].isnan().all()
        assert found[:3].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", CODED)
@several(max_examples=15)
@given(rows=st.integers(1, 40), width=st.integers(1, 500), out=st.integers(1, 140), seed=st.integers(0, 9))
def test_codes(libraries, method, dtype, rows, width, out, seed):
    x, b = numbers(rows, width, seed=seed, dtype=dtype), numbers(out, seed=seed + 2, dtype=dtype)
    layer = PackedLinear.pack(method, numbers(out, width, seed=seed + 1, dtype=dtype), b)
    inputs, weights = rounded(x.float(), layer.kind.group), layer.dequantize().double()
    exact, terms = inputs @ weights.T + b.double(), inputs.abs() @ weights.abs().T + b.double().abs()
    for library in libraries.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "library", lambda one=library: one)
            y = layer(x)
        assert y.dtype == dtype
        assert off(y, exact, terms) < (3e-3 if dtype == torch.float32 else 8e-3)  # codes at a half may fall either way


@pytest.mark.parametrize("method", CODED)
def test_more_rows_than_a_block(branch, method):
    layer, x = PackedLinear.pack(method, numbers(70, 130)), numbers(1030, 130, seed=3)
    apart = torch.cat([layer(row[None]) for row in x[500:520]])
    assert torch.allclose(layer(x)[500:520], apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", CODED)
def test_branches_agree(libraries, method):
    layer, x, found = PackedLinear.pack(method, numbers(130, 300)), numbers(9, 300, seed=3), []
    for library in libraries.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "library", lambda one=library: one)
            found.append(layer(x))
    assert all(torch.allclose(found[0], other, rtol=1e-5, atol=1e-5) for other in found[1:])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", CODED)
def test_what_is_no_number_stays_visible(branch, method, bad):
    x = numbers(3, 200)
    x[1, 77] = bad
    y = PackedLinear.pack(method, numbers(70, 200))(x)
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("method", CODED)
def test_zeros_and_many_sizes(branch, method):
    layer = PackedLinear.pack(method, numbers(64, 128))
    assert not layer(torch.zeros(2, 128)).any()
    x = numbers(3, 128) * torch.tensor([[1e-20], [1.0], [1e20]])
    assert off(layer(x)[1], (x @ layer.dequantize().T)[1]) < 0.03
    assert layer(x).isfinite().all()
    assert layer(x)[0].any()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(libraries, threads):
    w, x, layer = numbers(300, 600), numbers(1, 600, seed=1), PackedLinear.pack("int4", numbers(300, 600))
    expected = plain_product(x, w), layer(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(plain_product(x, w), expected[0])
        assert torch.equal(layer(x), expected[1])
    finally:
        torch.set_num_threads(before)


def test_where_they_do_not_apply(libraries):
    x, w = numbers(2, 8), numbers(3, 8)
    assert plain_product(numbers(5, 8), w) is None  # more rows than it takes
    assert plain_product(x.half(), w.half()) is None
    assert plain_product(x, w.bfloat16()) is None
    assert plain_product(x, numbers(8, 3).T) is None  # not contiguous
    assert plain_product(x.to("meta"), w) is None
    assert plain_product(x.clone().requires_grad_(), w) is None
    layer = PackedLinear.pack("int8", w)
    codes = {"outputs": 3, "group": 128, "table": None}
    assert coded_product(x.half(), layer.codes, layer.scales, None, **codes) is None
    assert coded_product(x[:0], layer.codes, layer.scales, None, **codes) is None


@several(max_examples=15)
@given(out=st.integers(1, 140), width=st.integers(1, 300), seed=st.integers(0, 99), size=st.floats(1e-6, 1e4))
def test_codes_are_those_of_plain_torch(libraries, out, width, seed, size):
    weight = numbers(out, width, seed=seed) * size
    for method in CODED:
        layer = PackedLinear.pack(method, weight)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "library", lambda: None)
            plain = PackedLinear.pack(method, weight)
        assert torch.equal(layer.codes, plain.codes)
        assert torch.equal(layer.scales, plain.scales)
        assert layer.error == pytest.approx(plain.error, rel=1e-3, abs=1e-6)


def test_pack_needs_whole_numbers_of_bytes_only(libraries):
    assert pack(numbers(3, 8).half(), torch.empty(0), torch.empty(0), group=64, levels=None) is None
