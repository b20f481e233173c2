"""The kernels for packed weights beside the decoded weight in float64, for few, some and very many rows."""

import pytest
import torch
import torch.nn.functional as F
from tests.triton_device import DEVICES, TYPES

from paligemma.linear import cuda
from paligemma.linear.packed import METHODS, PackedEmbedding, PackedLinear

pytestmark = pytest.mark.parametrize("device", DEVICES)
CODED = [name for name, method in METHODS.items() if method.floats is None]
SHAPES = [(96, 300), (5, 70), (130, 64), (64, 129)]  # outputs in one panel or three, inputs in whole groups or not


@pytest.fixture
def kernels():
    from paligemma.linear import triton_packed

    return triton_packed


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(method, out, width, device, *, bias=True):
    return PackedLinear.pack(method, draw(out, width) / width**0.5, draw(out, seed=1) if bias else None).to(device)


def parts(layer):
    return {"outputs": layer.out_features, "group": layer.kind.group, "levels": layer.kind.levels}


def error(got, want):
    return float((got.double() - want).norm() / want.norm())


@pytest.mark.parametrize("method", CODED)
@pytest.mark.parametrize("shape", SHAPES)
def test_decoded_numbers_are_the_same_bits(method, shape, device, kernels):
    layer = layer_of(method, *shape, device)
    for dtype in (torch.float32, torch.float16):
        decoded = kernels.decoded(layer.codes, layer.scales, width=shape[1], dtype=dtype, **parts(layer))
        assert torch.equal(decoded, layer.dequantize(dtype))


@pytest.mark.parametrize("method", CODED)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 3, 5, 70])
def test_products(method, shape, rows, device, kernels):
    layer = layer_of(method, *shape, device)
    for dtype in TYPES[device]:
        x = draw(rows, 1, shape[1], seed=2).to(device, dtype)
        want = F.linear(x.double(), layer.dequantize(torch.float64), layer.bias.double())
        for bias, expected in ((layer.bias, want), (None, want - layer.bias.double())):
            got = kernels.product(x, layer.codes, layer.scales, bias, **parts(layer))
            assert got.dtype == dtype
            assert got.shape == expected.shape
            assert error(got, expected) < (2e-3 if dtype == torch.float16 else 8e-3)


@pytest.mark.parametrize("method", CODED)
def test_very_many_rows(method, device, kernels):
    layer = layer_of(method, 70, 130, device)
    x = draw(kernels.MANY + 1, 130, seed=2).to(device, torch.bfloat16)
    want = F.linear(x.double(), layer.dequantize(torch.float64), layer.bias.double())
    assert error(kernels.product(x, layer.codes, layer.scales, layer.bias, **parts(layer)), want) < 8e-3


@pytest.mark.parametrize("method", CODED)
def test_layers_and_tables_take_the_kernels(method, device, kernels, monkeypatch):
    """Of a table also some rows alone, which need not begin with a panel."""
    taken, product = [], kernels.product
    monkeypatch.setattr(cuda, "takes", lambda x, codes: True)
    monkeypatch.setattr(kernels, "product", lambda *given, **more: taken.append(1) or product(*given, **more))
    table = PackedEmbedding(method, 72, 150).to(device)
    table.encode(draw(150, 72).to(device))
    x = draw(2, 72, seed=2).to(device, torch.float16)
    want = F.linear(x.double(), table.dequantize(torch.float64))
    assert error(table.scores(x), want) < 2e-3
    assert error(table.scores(x, slice(67, 140)), want[:, 67:140]) < 2e-3
    assert len(taken) == 2
