"""Adapters against PEFT's, over plain and quantised layers, and what merging does."""

import pytest
import torch
from torch import nn

from paligemma.errors import UsageError
from paligemma.linear.lora import Lora, LoraLinear
from paligemma.linear.quantized import Int8Linear, Nf4Linear

SHAPES = [Lora(rank=3, alpha=5.0), Lora(rank=3, rslora=True), Lora(rank=2, dora=True), Lora(rank=2, alpha=1, dora=True)]


def linear(bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(10, 7, bias=bias).to(dtype)


def drawn(base, lora, seed=0):
    """An adapter whose B, and magnitude, are as after training."""
    layer = LoraLinear(base, lora, torch.Generator().manual_seed(seed)).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        layer.lora_B.copy_(torch.randn(layer.lora_B.shape, generator=generator) * 0.2)
        if layer.magnitude is not None:
            layer.magnitude.mul_(1 + 0.3 * torch.rand(layer.magnitude.shape, generator=generator))
    return layer


def theirs(ours):
    """PEFT's layer of the same numbers around the same base."""
    peft = pytest.importorskip("peft")
    lora = ours.lora
    base = nn.Linear(ours.in_features, ours.out_features, bias=ours.bias is not None, dtype=ours.weight.dtype)
    base.load_state_dict(ours.base.state_dict())
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, use_rslora=lora.rslora, use_dora=lora.dora,
        target_modules=["base"],
    )  # fmt: skip
    model = peft.inject_adapter_in_model(config, nn.ModuleDict({"base": base}))
    layer = model["base"]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(ours.lora_A)
        layer.lora_B["default"].weight.copy_(ours.lora_B)
        if lora.dora:
            layer.lora_magnitude_vector["default"].weight.copy_(ours.magnitude)
    return layer.train(ours.training)


@pytest.mark.parametrize("lora", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_peft(lora, bias):
    ours = drawn(linear(bias), lora)
    other = theirs(ours)
    x = torch.randn(4, 10)
    torch.testing.assert_close(ours(x), other(x))
    weights = torch.randn(4, 7)
    (ours(x) * weights).sum().backward()
    (other(x) * weights).sum().backward()
    torch.testing.assert_close(ours.lora_A.grad, other.lora_A["default"].weight.grad)
    torch.testing.assert_close(ours.lora_B.grad, other.lora_B["default"].weight.grad)
    if lora.dora:
        torch.testing.assert_close(ours.magnitude.grad, other.lora_magnitude_vector["default"].weight.grad)
    assert ours.weight.grad is None


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_drops_what_peft_drops(dora):
    ours = drawn(linear(), Lora(rank=3, dropout=0.5, dora=dora)).train()
    other = theirs(ours)
    x = torch.randn(4, 10)
    torch.manual_seed(3)
    found = ours(x)
    torch.manual_seed(3)
    torch.testing.assert_close(found, other(x))
    assert not torch.equal(found, ours(x))
    torch.testing.assert_close(ours.eval()(x), other.eval()(x))


@pytest.mark.parametrize("lora", SHAPES)
def test_a_new_adapter_changes_nothing(lora):
    base = linear()
    x = torch.randn(2, 10)
    torch.testing.assert_close(LoraLinear(base, lora)(x), base(x))


def test_initial_values_are_kaiming_and_repeatable():
    base = nn.Linear(400, 3)
    layers = [LoraLinear(base, Lora(rank=50), torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(layers[0].lora_A, layers[1].lora_A)
    assert layers[0].lora_A.abs().max() <= 400**-0.5
    assert layers[0].lora_A.std().item() == pytest.approx(400**-0.5 / 3**0.5, rel=0.03)
    assert not layers[0].lora_B.any()


def test_factors_stay_float32_over_a_bfloat16_base():
    layer = LoraLinear(linear(dtype=torch.bfloat16), Lora(rank=2))
    y = layer(torch.randn(1, 10, dtype=torch.bfloat16))
    assert (layer.lora_A.dtype, y.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("lora", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_merged_computes_the_same(lora, bias):
    layer = drawn(linear(bias), lora)
    x = torch.randn(5, 10)
    merged = layer.merged()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), layer(x))
    half = drawn(linear(bias, torch.bfloat16), lora).merged()
    assert half.weight.dtype == torch.bfloat16
    assert not half.weight.requires_grad


def test_merging_rounds_once():
    layer = drawn(linear(dtype=torch.bfloat16), Lora(rank=2))
    exact = layer.weight.double() + layer.lora.scale * layer.lora_B.double() @ layer.lora_A.double()
    assert torch.equal(layer.merged().weight, exact.to(torch.bfloat16))


@pytest.mark.parametrize("kind", [Nf4Linear, Int8Linear])
def test_a_quantised_base_is_trained_through_but_never_merged_into(kind):
    quantized = kind.from_linear(linear())
    layer = drawn(quantized, Lora(rank=2))
    x = torch.randn(3, 10)
    torch.testing.assert_close(layer(x), quantized(x) + x @ layer.delta().T)
    with pytest.raises(UsageError, match="unquantised base"):
        layer.merged()
    with pytest.raises(UsageError, match="DoRA"):
        LoraLinear(quantized, Lora(dora=True))


@pytest.mark.parametrize("kind", [Nf4Linear, Int8Linear])
def test_the_gradient_over_a_quantised_base_is_that_over_its_decoded_weight(kind):
    quantized = kind.from_linear(linear())
    plain = nn.Linear(10, 7)
    plain.load_state_dict({"weight": quantized.dequantize(), "bias": quantized.bias})
    gradients = []
    for base in (quantized, plain):
        layer = drawn(base.double() if base is plain else base, Lora(rank=2)).double()
        x = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5), requires_grad=True)
        layer(x).square().sum().backward()
        gradients.append([x.grad, layer.lora_A.grad, layer.lora_B.grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_lengths_of_rows_follow_the_factors_also_when_answering():
    layer = drawn(linear(), Lora(rank=2, dora=True))
    x = torch.randn(1, 10)
    before = layer(x)
    with torch.no_grad():
        layer.lora_B.mul_(3)
    torch.testing.assert_close(layer(x), layer.merged()(x))
    layer.lora_B.data = layer.lora_B.data * 0
    torch.testing.assert_close(layer(x), layer.merged()(x))
    assert not torch.equal(layer(x), before)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_adapters(wrong):
    with pytest.raises(UsageError):
        Lora(**wrong)


def test_it_says_what_it_is():
    assert "rank=2" in repr(LoraLinear(linear(), Lora(rank=2)))
