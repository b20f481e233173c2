"""The kernels for e4m3 beside float64 and beside plain PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from tests.triton_device import DEVICES, TYPES

from paligemma.linear import cuda
from paligemma.linear.packed import PackedLinear

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture
def kernels():
    from paligemma.linear import triton_fp8

    return triton_fp8


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("out", "width"), [(5, 70), (130, 64), (33, 1100)])
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_few_rows(out, width, rows, device, kernels):
    layer = PackedLinear.pack("fp8", draw(out, width) / width**0.5, draw(out, seed=1)).to(device)
    codes, scales = layer.codes.view(torch.float8_e4m3fn), layer.scales.view(torch.float32)[:, 0]
    for dtype in TYPES[device]:
        x = draw(rows, width, seed=2).to(device, dtype)
        want = F.linear(x.double(), layer.dequantize(torch.float64))
        for bias in (None, layer.bias):
            got = kernels.few_rows(x, codes, scales, bias, outputs=out).double()
            expected = want if bias is None else want + bias.double()
            assert float((got - expected).norm() / expected.norm()) < (2e-3 if dtype == torch.float16 else 8e-3)


@pytest.mark.parametrize("width", [70, 2048, 3001])
def test_rounded_rows(width, device, kernels):
    """The interpreter rounds to e4m3 in its own way, and loses a carry into the exponent."""
    x = (draw(4, width) * torch.tensor([[1e-3], [1.0], [0.0], [30.0]])).to(device, torch.float16)
    padded = -(-width // 16) * 16
    codes, scales = kernels.rounded(x, padded)
    want, want_scales = cuda.rounded(x, padded)
    assert torch.allclose(scales, want_scales)
    assert codes.shape == want.shape
    off, step = (codes.float() - want.float()).abs(), want.float().abs() / 8 + 2**-9
    near = (off <= (step if device == "cpu" else 1e-6)).float().mean()
    assert near == 1 if device == "cuda" else near > 0.9
    assert not codes[:, width:].float().any()
    assert not codes[2].float().any()


def test_layers_take_the_kernels(device, kernels, monkeypatch):
    monkeypatch.setattr(cuda, "takes", lambda x, codes: True)
    monkeypatch.setattr(cuda, "has_fp8", lambda device: True)
    layer = PackedLinear.pack("fp8", draw(70, 130)).to(device)
    for rows, near in ((2, 2e-3), (9, 0.08 if device == "cpu" else 0.03)):
        x = draw(rows, 130, seed=2).to(device, torch.float16)
        want = F.linear(x.double(), layer.dequantize(torch.float64))
        assert float((layer(x).double() - want).norm() / want.norm()) < near
