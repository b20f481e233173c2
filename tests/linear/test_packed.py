"""Packed layers: what codes stand for, their memory, looked-up rows, and the way without kernels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from paligemma.linear.lora import Lora, LoraLinear
from paligemma.linear.packed import METHODS, PackedEmbedding, PackedLinear
from paligemma.linear.quantized import Int8Linear, encode_rows
from paligemma.native import products

NEAR = {"int8": 0.01, "int4": 0.12, "nf4": 0.11, "fp8": 0.03}  # relative error of normal weights


def weight(out=96, width=300, seed=0):
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def no_kernels(monkeypatch):
    monkeypatch.setattr(products, "library", lambda: None)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20)
@given(out=st.integers(1, 200), width=st.integers(1, 300), seed=st.integers(0, 99))
def test_decoded_numbers_are_near_in_any_shape(method, out, width, seed):
    w = weight(out, width, seed)
    layer = PackedLinear.pack(method, w)
    decoded = layer.dequantize()
    assert decoded.shape == w.shape
    error = float((decoded - w).norm() / w.norm())
    assert error < 1.5 * NEAR[method]
    assert layer.error == pytest.approx(error, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_bound_and_fits_the_kernels(method):
    kind = METHODS[method]
    assert NEAR[method]
    assert kind.group % 8 == 0
    assert kind.group <= 256
    if kind.levels:
        assert list(kind.levels) == sorted(kind.levels)
        assert len(kind.levels) == 16
        assert min(kind.levels) >= -128
        assert max(kind.levels) <= 127
        assert 0 in kind.levels


@pytest.mark.parametrize(("method", "bits"), [("int8", 8.02), ("int4", 4.25), ("nf4", 4.25)])
def test_memory(method, bits):
    assert PackedLinear.pack(method, weight(2048, 1152)).stored_bits == pytest.approx(bits, abs=0.02)
    assert METHODS[method].stored_bits == pytest.approx(bits, abs=0.03)


def test_int8_has_the_codes_of_files():
    w = weight(70, 130)
    layer = PackedLinear("int8", 130, 70)
    layer.adopt(*encode_rows(w))
    packed = PackedLinear.pack("int8", w)
    assert torch.equal(layer.codes, packed.codes)
    assert torch.equal(layer.scales, packed.scales)
    linear = nn.Linear(130, 70, bias=False)
    linear.weight = nn.Parameter(w)
    assert torch.equal(packed.dequantize(), Int8Linear.from_linear(linear).dequantize())


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20)
@given(out=st.integers(1, 200), width=st.integers(1, 300), seed=st.integers(0, 99))
def test_codes_in_rows_are_the_same_weight_and_come_back_bit_for_bit(kernels, method, out, width, seed):
    with pytest.MonkeyPatch.context() as patch:
        if not kernels:
            patch.setattr(products, "library", lambda: None)
        w = weight(out, width, seed) * (torch.arange(width) % 70 > 3)  # some groups may be all zeros
        layer, kind = PackedLinear.pack(method, w), METHODS[method]
        codes, scales = layer.in_rows()
        assert ((codes.shape, scales.shape), (codes.dtype, scales.dtype)) == (
            kind.row_shapes(out, width), kind.row_types,
        )  # fmt: skip
        assert torch.equal(kind.decode(codes, scales, width, torch.float32), layer.dequantize())
        again = PackedLinear.empty(method, width, out)
        again.adopt(codes, scales)
        assert torch.equal(again.codes, layer.codes)
        assert torch.equal(again.scales, layer.scales)


def test_two_neighbours_share_a_byte_of_a_row():
    w = torch.zeros(1, 5)
    w[0, 0], w[0, 3] = -8.0, 7.0
    codes, scales = PackedLinear.pack("int4", w).in_rows()
    assert codes.tolist() == [[0 | 8 << 4, 8 | 15 << 4, 8 | 8 << 4]]
    assert scales.tolist() == [[1 / 16]]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_kernels_the_decoded_weight_counts(method, dtype, no_kernels):
    bias, x = weight(1, 96)[0].to(dtype), weight(7, 300, 1).to(dtype)
    layer = PackedLinear.pack(method, weight().to(dtype), bias)
    assert torch.equal(layer(x), F.linear(x, layer.dequantize(dtype)) + bias)


@pytest.mark.parametrize("method", METHODS)
def test_with_kernels_inputs_are_rounded_too(method):
    x, layer = weight(7, 300, 1), PackedLinear.pack(method, weight())
    exact = F.linear(x, layer.dequantize())
    assert float((layer(x) - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_zeros_stay_zeros(method):
    layer = PackedLinear.pack(method, torch.zeros(3, 70))
    assert not layer.dequantize().any()
    assert layer.error == 0


@pytest.mark.parametrize("method", METHODS)
def test_gradients_flow_to_the_input_through_the_decoded_weight(method):
    x, layer = weight(5, 300, 1).requires_grad_(), PackedLinear.pack(method, weight())
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.dequantize().sum(0).expand(5, -1), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_sits_on_it(method):
    adapted = LoraLinear(PackedLinear.pack(method, weight()), Lora(rank=2))
    x = weight(2, 300, 1)
    with torch.no_grad():
        assert torch.equal(adapted(x), adapted.base(x))  # B is zero


@pytest.mark.parametrize("method", METHODS)
def test_a_file_and_back(method, tmp_path):
    layer = PackedLinear.pack(method, weight(), weight(1, 96)[0])
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = PackedLinear.empty(method, 300, 96, torch.zeros(96))
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    x = weight(2, 300, 1)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("method", METHODS)
def test_a_change_of_type_leaves_the_codes(method):
    layer = PackedLinear.pack(method, weight(), weight(1, 96)[0])
    before = layer.dequantize()
    assert torch.equal(layer.to(torch.bfloat16).dequantize(), before)
    assert layer.bias.dtype == torch.bfloat16


@pytest.mark.parametrize("method", METHODS)
def test_a_table_is_looked_up_and_scores(method):
    table = PackedEmbedding.pack(method, weight(200, 130))
    decoded, tokens = table.dequantize(), torch.tensor([[0, 199, 64], [63, 1, 130]])
    assert torch.equal(table(tokens), decoded[tokens])
    hidden = weight(3, 130, 2)
    assert torch.equal(table.scores(hidden), PackedLinear.pack(method, weight(200, 130))(hidden))


@pytest.mark.parametrize("kernels", [True, False])
@given(start=st.integers(0, 199), size=st.integers(1, 200), method=st.sampled_from(list(METHODS)))
def test_some_rows_score_as_all_do(kernels, start, size, method):
    with pytest.MonkeyPatch.context() as patch:
        if not kernels:
            patch.setattr(products, "library", lambda: None)
        table, hidden = PackedEmbedding.pack(method, weight(200, 130)), weight(2, 130, 2)
        stop = min(200, start + size)
        assert torch.allclose(table.scores(hidden, slice(start, stop)), table.scores(hidden)[:, start:stop], atol=1e-4)


def test_looked_up_rows_have_the_type_asked_for():
    table = PackedEmbedding.pack("int8", weight(10, 20))
    table.dtype = torch.bfloat16
    assert table(torch.tensor([3])).dtype == torch.bfloat16
