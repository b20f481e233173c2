"""e4m3: what codes stand for, padding to what the cards want, looked-up rows; test_packed.py has what all share."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.linear import cuda
from paligemma.linear.fp8 import ALIGNED, LARGEST, Fp8Embedding, Fp8Linear, decode_rows, encode_rows
from paligemma.linear.packed import PackedEmbedding, PackedLinear


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(out=st.integers(1, 40), width=st.integers(1, 70), seed=st.integers(0, 99), size=st.floats(1e-6, 1e6))
def test_each_number_is_within_half_a_step(out, width, seed, size):
    weight = numbers(out, width, seed=seed) * size
    codes, scales = encode_rows(weight)
    decoded = decode_rows(codes, scales, torch.float32)
    step = torch.maximum(weight.abs() / 16, scales[:, None] * 2**-9)  # 3 bits behind the first, down to 2^-9
    assert bool(((decoded - weight).abs() <= step * 1.01).all())
    assert torch.allclose(weight.abs().amax(dim=1), scales * LARGEST)


def test_layers_and_tables_are_made_by_their_method():
    assert type(PackedLinear.pack("fp8", numbers(5, 7))) is Fp8Linear
    assert type(PackedEmbedding.pack("fp8", numbers(5, 7))) is Fp8Embedding
    assert type(PackedLinear.empty("int8", 7, 5)) is PackedLinear
    with pytest.raises(AssertionError):
        PackedLinear("fp8", 7, 5)


def test_sides_are_padded_and_nobody_sees_it():
    layer = PackedLinear.pack("fp8", numbers(5, 70), numbers(5, seed=1))
    assert all(side % ALIGNED == 0 for side in layer.codes.shape)
    assert layer(numbers(3, 70)).shape == (3, 5)
    assert not layer.codes[5:].any()
    assert not layer.codes[:, 70:].any()


def test_some_rows_of_a_table():
    table = PackedEmbedding.pack("fp8", numbers(150, 40))
    hidden, whole = numbers(2, 40, seed=1), table.dequantize()
    assert torch.equal(table(torch.tensor([[3, 149]])), whole[None, [3, 149]])
    assert torch.allclose(table.scores(hidden, slice(67, 140)), F.linear(hidden, whole[67:140]), atol=1e-5)
    assert torch.allclose(table.scores(hidden), F.linear(hidden, whole), atol=1e-5)


@pytest.mark.parametrize("rows", [1, cuda.FEW + 1, 33])
@pytest.mark.parametrize("dtype", cuda.HALF)
def test_the_product_of_rounded_rows(monkeypatch, rows, dtype):
    """PyTorch multiplies e4m3 on a CPU too, slowly; so the way without Triton is seen here."""
    monkeypatch.setattr(cuda, "takes", lambda x, codes: True)
    monkeypatch.setattr(cuda, "has_fp8", lambda device: True)
    monkeypatch.setattr(cuda, "fp8_kernels", lambda: None)
    layer = PackedLinear.pack("fp8", numbers(70, 130) / 130**0.5, numbers(70, seed=1))
    x = numbers(rows, 1, 130, seed=2).to(dtype)
    want = F.linear(x.double(), layer.dequantize(torch.float64), layer.bias.double())
    got = layer(x)
    assert got.dtype == dtype
    assert got.shape == want.shape
    assert float((got.double() - want).norm() / want.norm()) < 0.03
    table = PackedEmbedding.pack("fp8", numbers(150, 130))
    want = F.linear(x.double(), table.dequantize(torch.float64))[..., 67:140]
    assert float((table.scores(x, slice(67, 140)).double() - want).norm() / want.norm()) < 0.03


def test_rows_are_rounded_each_by_its_own_largest():
    x = numbers(3, 20) * torch.tensor([[1e-6], [1.0], [1e6]])
    codes, scales = cuda.rounded(x, 32)
    assert not codes[:, 20:].float().any()
    assert torch.allclose(codes[:, :20].float() * scales, x, rtol=1 / 15, atol=0.01 * float(scales.min()) * 448)
    assert cuda.rounded(torch.zeros(1, 16), 16)[0].float().isfinite().all()
