"""NF4 and int8 layers: their numbers against bitsandbytes, their memory, and gradients through them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from paligemma.linear.quantized import METHODS, Int8Linear, Nf4DoubleLinear, Nf4Linear

SHAPES = [(48, 128), (24, 16), (7, 5), (4304, 12), (12, 4304), (1, 3), (64, 1)]


def linear(out_features=24, in_features=16, *, bias=True, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Linear(in_features, out_features, bias=bias).to(dtype)


def theirs(weight):
    """Codes, scales and decoded numbers of bitsandbytes, decoded as one row: see the test of 4304 below.

    It would compile its own decoder, once for each shape, where there is a compiler of C++.
    """
    functional = pytest.importorskip("bitsandbytes.functional")
    with torch.compiler.set_stance("force_eager"):
        codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        state.shape = torch.Size([weight.numel()])
        return codes.flatten(), state.absmax, functional.dequantize_4bit(codes, state).view_as(weight)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nf4_is_that_of_bitsandbytes_bit_for_bit(shape, dtype):
    layer = linear(*shape, seed=sum(shape), dtype=dtype)
    codes, absmax, decoded = theirs(layer.weight.detach())
    ours = Nf4Linear.from_linear(layer)
    assert torch.equal(ours.codes[: len(codes) - 1], codes[:-1])
    assert ours.codes[len(codes) - 1] >> 4 == codes[-1] >> 4  # the last half byte may be padding
    assert torch.equal(ours.load_scales(), absmax)
    assert torch.equal(ours.dequantize(dtype), decoded)


def test_rows_of_4304_numbers_decode_with_their_own_scales():
    """SigLIP's width is no multiple of 64; a decoder that takes rows for whole blocks mixes the scales up."""
    layer = linear(8, 4304)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(0, -3, 8)[:, None])
    error = Nf4Linear.from_linear(layer).dequantize() - layer.weight
    assert (error.norm(dim=1) <= 0.12 * layer.weight.norm(dim=1)).sum() >= 7  # a shared block costs a row at most
    assert (error[0].norm() / layer.weight[0].norm()) < 0.1


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_decoded_numbers_are_near(rows, columns, size, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    layer = nn.Linear(columns, rows, bias=False)
    layer.weight = nn.Parameter(weight)
    largest = weight.abs().max()
    for method, share in (("nf4", 0.16), ("nf4-double", 0.18), ("int8", 0.004)):
        decoded = METHODS[method].from_linear(layer).dequantize()
        assert decoded.shape == weight.shape
        assert (decoded - weight).abs().max() <= share * largest


def test_int8_rounds_to_the_nearest_step_of_each_row():
    layer = linear(3, 50)
    ours = Int8Linear.from_linear(layer)
    step = layer.weight.abs().amax(1, keepdim=True) / 127
    assert ((ours.dequantize() - layer.weight).abs() <= step * 0.5001).all()
    assert torch.equal(ours.dequantize().abs().amax(1), layer.weight.abs().amax(1))


def test_zeros_stay_zeros():
    layer = nn.Linear(70, 3)
    nn.init.zeros_(layer.weight)
    for kind in METHODS.values():
        assert not kind.from_linear(layer).dequantize().any()


@pytest.mark.parametrize(("method", "bits"), [("nf4", 4.5), ("nf4-double", 4.13), ("int8", 8.02)])
def test_memory(method, bits):
    layer = METHODS[method].from_linear(linear(2048, 1152))
    assert layer.stored_bits == pytest.approx(bits, abs=0.02)
    assert sum(p.numel() * p.itemsize for p in layer.parameters()) == pytest.approx(
        2048 * 1152 * bits / 8 + 2048 * 4, rel=0.01
    )
    assert not any(p.requires_grad for p in layer.parameters())
    assert not list(layer.buffers())  # parameters, which sharding knows


@pytest.mark.parametrize("kind", METHODS.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_forward_and_gradient_are_those_of_the_decoded_weight(kind, dtype):
    layer = kind.from_linear(linear(5, 70).to(dtype))
    x = torch.randn(2, 3, 70, dtype=dtype, requires_grad=True)
    expected_x = x.detach().clone().requires_grad_()
    y = layer(x)
    expected = F.linear(expected_x, layer.dequantize(dtype)) + layer.bias
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, expected_x.grad)


def test_no_decoded_weight_is_kept_for_the_backward_pass():
    layer, kept = Nf4Linear.from_linear(linear(64, 64)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(torch.randn(1, 64, requires_grad=True))
    assert sum(kept) < 64 * 64


def test_it_decodes_in_pieces_as_in_one(monkeypatch):
    layer = Nf4Linear.from_linear(linear(24, 37))
    whole = layer.dequantize(torch.bfloat16)
    monkeypatch.setattr("paligemma.linear.quantized.PIECE", 128)
    assert torch.equal(layer.dequantize(torch.bfloat16), whole)


def test_autocast_decides_the_type_of_the_product():
    layer = Nf4Linear.from_linear(linear())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 16)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", METHODS.values())
def test_through_a_file_and_a_change_of_type(kind, tmp_path):
    layer = kind.from_linear(linear(7, 70))
    decoded = layer.dequantize()
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other = kind.from_linear(linear(7, 70, seed=1))
    assert not torch.equal(other.dequantize(), decoded)
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(other.dequantize(), decoded)
    assert torch.equal(other.to(torch.bfloat16).dequantize(), decoded)  # scales keep their float32


def test_the_table_of_methods():
    assert {"nf4": Nf4Linear, "nf4-double": Nf4DoubleLinear, "int8": Int8Linear} == METHODS
    assert "bits=4.5" in repr(Nf4Linear.from_linear(linear(64, 64)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine")
@pytest.mark.parametrize("kind", METHODS.values())
def test_codes_and_numbers_are_the_same_on_an_accelerator(kind):
    layer = linear(48, 4304)
    here, there = kind.from_linear(layer), kind.from_linear(layer.cuda())
    assert torch.equal(here.codes, there.codes.cpu())
    torch.testing.assert_close(here.dequantize(), there.dequantize().cpu())
    x = torch.randn(2, 4304, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    there(x).sum().backward()
    torch.testing.assert_close(x.grad[0], there.dequantize(torch.bfloat16).sum(0), rtol=2e-2, atol=2e-2)
