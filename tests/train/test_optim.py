import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import TINY, draw_model
from torch import nn

from paligemma.train.config import LoraConfig, OptimConfig, TrainConfig
from paligemma.train.optim import Average, Group, Optimizer, decays, in_steps, parameter_groups, schedule
from paligemma.train.parts import prepare


def named(model):
    return {f"model.{name}": parameter for name, parameter in model.named_parameters()}


def one_parameter(value=0.5, gradient=0.3):
    parameter = nn.Parameter(torch.full((2, 3), value))
    parameter.grad = torch.full((2, 3), gradient)
    return parameter


# --- schedules -------------------------------------------------------------------------------------------------------


def test_cosine_values():
    config = OptimConfig(schedule="cosine", warmup=10)
    found = [schedule(config, step, 110) for step in (0, 5, 10, 60, 109)]
    last = 0.5 * (1 + math.cos(math.pi * 99 / 100))
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.5, last])


def test_rsqrt_values_do_not_know_the_length_of_the_run():
    config = OptimConfig(schedule="rsqrt", warmup=100, timescale=1000)
    for steps in (5000, 10**9):
        found = [schedule(config, step, steps) for step in (0, 50, 100, 1100, 3100)]
        assert found == pytest.approx([0.0, 0.5, 1.0, 2**-0.5, 0.5])


def test_cooldown_falls_linearly_to_nothing():
    config = OptimConfig(schedule="constant", warmup=0, cooldown=0.2)
    found = [schedule(config, step, 100) for step in (0, 80, 90, 99, 100)]
    assert found == pytest.approx([1.0, 1.0, 0.5, 0.05, 0.0])


def test_a_warmup_is_a_share_or_steps():
    assert in_steps(0.05, 1000) == 50
    assert in_steps(200, 1000) == 200
    assert in_steps(0.0, 1000) == 0
    assert in_steps(0.0001, 100) == 1


@given(
    st.sampled_from(["cosine", "rsqrt", "constant"]), st.integers(1, 500), st.floats(0, 600), st.floats(0, 600),
    st.integers(0, 600),
)  # fmt: skip
def test_schedules_stay_between_0_and_1(name, steps, warmup, cooldown, step):
    value = schedule(OptimConfig(schedule=name, warmup=warmup, cooldown=cooldown), step, steps)
    assert 0 <= value <= 1


def test_a_run_of_one_step_learns():
    assert schedule(OptimConfig(warmup=0.05), 0, 1) == 1.0


# --- which weights decay ---------------------------------------------------------------------------------------------


def test_big_vision_never_decays_gemma_and_only_kernels_elsewhere():
    parameters = named(draw_model(TINY[2]))
    decaying = {name for name, parameter in parameters.items() if decays(name, parameter, "big_vision")}
    assert not [name for name in decaying if "language_model" in name]
    assert "model.projector.weight" in decaying
    assert "model.vision_tower.patch_embedding.weight" in decaying
    assert "model.vision_tower.layers.0.mlp.fc1.weight" in decaying
    left = {name for name in parameters if "language_model" not in name} - decaying
    assert "model.vision_tower.position_embedding" in left
    assert all(name.endswith(("bias", "position_embedding")) or "norm" in name for name in left)


def test_matrices_decay_everywhere_under_the_usual_rule():
    for name, parameter in named(draw_model(TINY[2])).items():
        assert decays(name, parameter, "matrices") == (parameter.ndim > 1)


def test_adapters_do_not_decay_by_big_visions_rule():
    model = draw_model(TINY[2])
    prepare(model, TrainConfig(lora=LoraConfig(where=("vision", "projector"))))
    trained = {name: p for name, p in named(model).items() if p.requires_grad}
    assert trained
    assert not any(decays(name, parameter, "big_vision") for name, parameter in trained.items())


def test_gemma_stays_where_nothing_but_decay_would_move_it():
    model = draw_model(TINY[2])
    parameters = named(model)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    config = OptimConfig(lr=1e-3, weight_decay=1e-3, warmup=0, schedule="constant")
    optimizer = Optimizer(parameters, parameter_groups(parameters, config, 10), config, 10)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.update(0)
    moved = {name for name, parameter in parameters.items() if not torch.equal(parameter, before[name])}
    assert moved
    assert moved == {name for name, parameter in parameters.items() if decays(name, parameter, "big_vision")}
    torch.testing.assert_close(model.projector.weight, before["model.projector.weight"] * (1 - 1e-3))


def test_what_took_no_part_in_the_loss_does_not_decay():
    parameter = one_parameter()
    parameter.grad = None
    config = OptimConfig(lr=1e-3)
    optimizer = Optimizer({"w": parameter}, [Group(names=("w",), decay=0.1)], config, 1)
    optimizer.update(0)
    assert torch.equal(parameter, torch.full((2, 3), 0.5))


# --- updates ---------------------------------------------------------------------------------------------------------


def test_three_adamw_steps_equal_the_published_formula():
    """p <- p - s(t) * (lr * m^ / (sqrt(v^) + eps) + wd * p), spec 6.4."""
    config = OptimConfig(lr=0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=1e-3, schedule="cosine", warmup=2)
    parameter = one_parameter()
    name = "model.projector.weight"
    optimizer = Optimizer({name: parameter}, parameter_groups({name: parameter}, config, 8), config, 8)
    p, m, v = 0.5, 0.0, 0.0
    for step, g in enumerate((0.3, -0.2, 0.05)):
        parameter.grad = torch.full((2, 3), g)
        optimizer.update(step)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        direction = (m / (1 - 0.9 ** (step + 1))) / (math.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-6)
        s = (0.0, 0.5, 1.0)[step]
        assert optimizer.lr(step) == pytest.approx(0.01 * s)
        p = p - s * (0.01 * direction + 1e-3 * p)
        torch.testing.assert_close(parameter.detach(), torch.full((2, 3), p), rtol=1e-6, atol=0)


def test_usual_decay_equals_torchs_adamw():
    config = OptimConfig(lr=0.01, weight_decay=0.1, decay_rule="matrices", warmup=0, schedule="constant")
    ours, theirs = one_parameter(), one_parameter()
    optimizer = Optimizer({"w": ours}, parameter_groups({"w": ours}, config, 5), config, 5)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for step in range(5):
        ours.grad = theirs.grad = torch.full((2, 3), 0.1 * step - 0.2)
        optimizer.update(step)
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_sgd_has_no_memory_without_momentum():
    config = OptimConfig(name="sgd", lr=0.1, warmup=0, schedule="constant")
    parameter = one_parameter()
    optimizer = Optimizer({"w": parameter}, [Group(names=("w",))], config, 3)
    optimizer.update(0)
    torch.testing.assert_close(parameter.detach(), torch.full((2, 3), 0.5 - 0.1 * 0.3))
    assert not [value for state in optimizer.torch.state.values() for value in state.values() if value is not None]


def test_8_bit_adamw_goes_where_adamw_goes():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    start, gradient = torch.randn(64, 128), torch.randn(64, 128)
    ends = []
    for name in ("adamw", "adamw8bit"):
        parameter = nn.Parameter(start.clone())
        config = OptimConfig(name=name, lr=1e-2, warmup=0, schedule="constant")
        optimizer = Optimizer({"w": parameter}, [Group(names=("w",))], config, 3)
        for step in range(3):
            parameter.grad = gradient.clone()
            optimizer.update(step)
        ends.append(parameter.detach() - start)
    assert optimizer.torch.state[parameter]["state1"].dtype == torch.uint8
    assert torch.cosine_similarity(ends[0].flatten(), ends[1].flatten(), dim=0) > 0.99
    assert (ends[0].sign() == ends[1].sign()).all()


def test_muon_makes_the_step_of_a_blocks_matrix_orthogonal_and_leaves_the_rest_to_adamw():
    names = ("layers.0.w", "layers.0.norm", "embed", "layers.0.lora_a")
    torch.manual_seed(0)
    start = {"layers.0.w": torch.randn(8, 24), "layers.0.norm": torch.randn(8)}
    start |= {"embed": torch.randn(9, 8), "layers.0.lora_a": torch.randn(4, 8)}
    gradients = {name: torch.randn_like(tensor) for name, tensor in start.items()}
    ends = {}
    for kind in ("adamw", "muon"):
        parameters = {f"model.{name}": nn.Parameter(start[name].clone()) for name in names}
        config = OptimConfig(name=kind, lr=1e-2, warmup=0, schedule="constant", weight_decay=0.1, decay_rule="matrices")
        optimizer = Optimizer(parameters, parameter_groups(parameters, config, 3), config, 3)
        for step in range(2):
            for name in names:
                parameters[f"model.{name}"].grad = gradients[name].clone()
            optimizer.update(step)
        ends[kind] = {name: parameters[f"model.{name}"].detach() for name in names}
    for name in names[1:]:
        assert torch.equal(ends["adamw"][name], ends["muon"][name]), name
    decayed = 1 - 1e-2 * 0.1
    step = ends["muon"]["layers.0.w"] - start["layers.0.w"] * decayed**2
    values = torch.linalg.svdvals(step) / (1e-2 * (1 + decayed) * 0.2 * 24**0.5)  # two like steps of AdamW's size
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("only", ["layers.0.w", "embed"])
def test_muon_may_have_nothing_for_one_of_its_kinds(only):
    parameter = one_parameter()
    config = OptimConfig(name="muon", lr=1e-2, warmup=0, schedule="constant")
    parameters = {f"model.{only}": parameter}
    optimizer = Optimizer(parameters, parameter_groups(parameters, config, 3), config, 3)
    optimizer.update(0)
    assert not torch.equal(parameter.detach(), torch.full((2, 3), 0.5))


def test_the_vision_tower_has_a_rate_and_a_warmup_of_its_own():
    model = draw_model(TINY[2])
    parameters = named(model)
    config = OptimConfig(lr=1e-2, vision_lr_scale=0.1, vision_warmup=0.5, warmup=0, schedule="constant")
    groups = parameter_groups(parameters, config, 100)
    assert sorted(name for group in groups for name in group.names) == sorted(parameters)
    optimizer = Optimizer(parameters, groups, config, 100)
    for step, share in ((0, 0.0), (25, 0.5), (80, 1.0)):
        optimizer.update(step)
        for group, settings in zip(groups, optimizer.torch.param_groups, strict=True):
            vision = "vision_tower" in group.names[0]
            assert settings["lr"] == pytest.approx(1e-3 * share if vision else 1e-2)


# --- the average -----------------------------------------------------------------------------------------------------


def test_an_average_by_hand_and_swapped_in():
    parameter = nn.Parameter(torch.zeros(3))
    average = Average({"w": parameter}, 0.9)
    value = 0.0
    for step in range(100):
        with torch.no_grad():
            parameter.fill_(step + 1.0)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        value = decay * value + (1 - decay) * (step + 1.0)
    torch.testing.assert_close(average.values["w"], torch.full((3,), value))
    with average.swapped_in():
        torch.testing.assert_close(parameter.detach(), torch.full((3,), value))
    assert torch.equal(parameter.detach(), torch.full((3,), 100.0))
    torch.testing.assert_close(average.values["w"], torch.full((3,), value))
