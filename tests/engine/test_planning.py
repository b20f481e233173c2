from dataclasses import replace

import pytest
import torch
from tests.oracle import TINY, draw_model, draw_prompt
from torch.utils.flop_counter import FlopCounterMode

from paligemma.checkpoints import save
from paligemma.checkpoints.load import open_checkpoint
from paligemma.checkpoints.packing import build_packed
from paligemma.checkpoints.parts import methods_of
from paligemma.config import VARIANTS, Config, TextConfig, VisionConfig
from paligemma.engine.machine import TYPES, Rates
from paligemma.engine.planning import (
    PRECISIONS,
    Load,
    activation_bytes,
    answer_plan,
    cache_bytes,
    forward_flops,
    layer_bytes,
    layers_that_wait,
    weight_bytes,
)  # fmt: skip

BIG = VARIANTS["paligemma2-3b-pt-224"].config
RATES = Rates(read=4e10, matrix={"bf16": 3.6e11, "fp32": 1.5e11, "int8": 7e11, "fp8": 1.5e15})


@pytest.mark.parametrize("name", ["bf16", "fp32"])
@pytest.mark.parametrize("generation", list(TINY))
def test_weights_are_those_of_the_model(name, generation):
    model = draw_model(TINY[generation]).to(TYPES[name])
    real = sum(one.numel() * one.itemsize for one in model.parameters())
    assert weight_bytes(TINY[generation], PRECISIONS[name]) == real


def test_fewer_bits_take_less():
    sizes = {name: weight_bytes(BIG, precision) for name, precision in PRECISIONS.items()}
    assert sizes["int4"] < sizes["int8"] < sizes["bf16"] < sizes["fp32"]
    assert sizes["int4"] == sizes["nf4"] == pytest.approx(1.81e9, rel=0.005)  # as packed: docs/quantisation.md
    assert sizes["int8"] == pytest.approx(3.04e9, rel=0.005)


@pytest.mark.parametrize("method", ["int8", "int4", "nf4", "fp8"])
def test_packed_weights_are_those_of_the_plan(method, tmp_path):
    vision = VisionConfig(image_size_px=28, patch_size_px=14, width=256, depth=1, mlp_dim=512, num_heads=2)
    text = TextConfig(width=256, depth=2, mlp_dim=512, num_heads=2, num_kv_heads=1, head_dim=128, vocab_size=1024)
    config = Config(vision=vision, text=text)
    save(draw_model(config), tmp_path, dtype="bfloat16")
    model, _ = build_packed(open_checkpoint(tmp_path), torch.bfloat16, methods_of(method))
    real = sum(one.numel() * one.itemsize for one in model.parameters())
    assert weight_bytes(model.config, PRECISIONS[method]) == pytest.approx(real, rel=0.02)  # int8 scales: 4 bytes a row


def test_a_cache_is_as_long_as_the_answers():
    load = Load(rows=3, text_tokens=20, new_tokens=12)
    slots = 3 * (256 + 20 + 12)
    assert cache_bytes(BIG, load, PRECISIONS["bf16"]) == slots * BIG.text.cache_bytes_per_token
    assert cache_bytes(BIG, load, PRECISIONS["int4"]) == slots * BIG.text.cache_bytes_per_token
    assert cache_bytes(BIG, load, PRECISIONS["fp32"]) == 2 * slots * BIG.text.cache_bytes_per_token


def test_activations_grow_with_the_picture_and_no_faster():
    sizes = [activation_bytes(BIG.at_resolution(px), Load(), PRECISIONS["bf16"]) for px in (224, 448, 896)]
    assert sizes[0] <= sizes[1] < sizes[2] < 17 * sizes[0]
    one, sixteen, more = (activation_bytes(BIG, Load(rows=rows), PRECISIONS["bf16"]) for rows in (1, 16, 32))
    assert one < sixteen < more


def test_operations_are_those_torch_counts():
    model = draw_model(TINY[2])
    prompt = draw_prompt(TINY[2], 1, 4, seed=0)
    tokens = prompt.tokens[None]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.hidden(tokens, prompt.pixels)
    told = sum(forward_flops(TINY[2], rows=1, tokens=tokens.shape[1], pictures=1))
    assert told == pytest.approx(counter.get_total_flops(), rel=0.15)


@pytest.mark.parametrize("name", list(PRECISIONS))
def test_a_plan_stays_below_the_limits(name):
    load = Load()
    plan = answer_plan(BIG, name, load, RATES)
    assert plan.peak == plan.weights + plan.cache + plan.activations
    if PRECISIONS[name].reached is None:
        assert plan.first_token_s is plan.step_s is plan.tokens_per_s(load) is None
        return
    assert plan.first_token_s > plan.limit_first_token_s
    assert plan.step_s > plan.limit_step_s
    assert plan.tokens_per_s(load) == 1 / plan.step_s


def test_a_step_of_one_row_is_bound_by_reading_and_of_many_by_products():
    one, many = (answer_plan(BIG, "bf16", Load(rows=rows), RATES).limit_step_s for rows in (1, 512))
    assert one == pytest.approx((2 * BIG.text.num_parameters + cache_bytes(BIG, Load(), PRECISIONS["bf16"])) / 4e10)
    assert many == pytest.approx(2 * BIG.text.num_parameters * 512 / 3.6e11)
    faster = answer_plan(BIG, "bf16", Load(), replace(RATES, read=8e10)).limit_step_s
    assert faster == pytest.approx(one / 2)


def test_a_layer_is_as_large_as_planned():
    model = draw_model(TINY[2])
    real = sum(one.numel() * one.itemsize for one in model.language_model.layers[0].parameters())
    assert layer_bytes(TINY[2], PRECISIONS["fp32"]) == pytest.approx(real, rel=0.02)  # the last norm counts as theirs


@pytest.mark.parametrize(
    ("room", "waiting"), [(100, 0), (99, 3), (90, 3), (89, 4), (50, 7), (20, 10), (19, None), (-5, None)]
)
def test_as_many_layers_wait_as_do_not_fit_and_two_have_places(room, waiting):
    assert layers_that_wait(100, 10, 10, room) == waiting
