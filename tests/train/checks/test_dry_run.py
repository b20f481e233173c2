import random

import numpy as np
import pytest
import torch
from tests.oracle import TINY, draw_model
from tests.train.tiny import Seen, Sets, Stream, equal, tiny_config, tiny_trainer, weights

from paligemma.errors import CheckFailed
from paligemma.train.checks.dry_run import dry_run, overfit, untouched
from paligemma.train.config import LoraConfig, LossConfig, OptimConfig
from paligemma.train.loop import Trainer
from paligemma.train.objective import SuffixObjective
from paligemma.train.parts import prepare

AVERAGED = tiny_config(optim=OptimConfig(lr=1e-2, ema=0.9))


def everything(trainer):
    return weights(trainer) | {f"ema {name}": value.clone() for name, value in trainer.average.values.items()}


def states():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.mark.parametrize("work", [dry_run, lambda trainer: overfit(trainer, 12)])
def test_nothing_is_changed_bit_for_bit(work):
    torch.manual_seed(4)
    trainer = tiny_trainer(AVERAGED)
    before, drawn = everything(trainer), states()
    work(trainer)
    assert equal(everything(trainer), before)
    assert not trainer.optimizer.torch.state
    assert all(parameter.grad is None for parameter in trainer.parameters.values())
    assert trainer.progress.step == 0
    for one, other in zip(states(), drawn, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon", "adamw8bit"])
def test_a_run_after_it_ends_with_the_same_bits(name):
    config = tiny_config(steps=3, optim=OptimConfig(name=name, lr=1e-2))
    plain, rehearsed = tiny_trainer(config, state=Sets()), tiny_trainer(config, state=Sets(), observers=[Seen()])
    dry_run(rehearsed, lambda step: {"loss": float(torch.rand(()))})
    plain.run()
    rehearsed.run()
    assert equal(weights(plain), weights(rehearsed))
    one, other = (trainer.state.kept[3][0] for trainer in (plain, rehearsed))
    assert equal(one, other)


def test_what_is_told_is_what_the_steps_do():
    seen = Seen()
    trainer = tiny_trainer(tiny_config(steps=2), observers=[seen])
    cost = dry_run(trainer)
    trainer.run()
    assert cost.losses == pytest.approx([record.losses["loss"] for record in seen.records], rel=1e-6)
    assert cost.grad_norms == pytest.approx([record.grad_norm for record in seen.records], rel=1e-5)
    assert cost.seconds > 0
    assert cost.data_s > 0
    assert cost.memory_bytes is None or cost.memory_bytes >= 4 * sum(p.numel() for p in trainer.parameters.values())
    assert cost.warnings() == []


def test_the_evaluation_sees_evaluation_mode_and_no_gradients():
    trainer = tiny_trainer()
    modes = []

    def evaluate(step):
        modes.append((trainer.objective.training, torch.is_grad_enabled()))
        return {"loss": 2.5}

    assert dry_run(trainer, evaluate).figures == {"loss": 2.5}
    assert modes == [(False, False)]


def test_parameters_that_nothing_reaches_are_named():
    class Texts(Stream):
        def micro_batches(self, step, rank=0, world=1):
            return [taken_texts(batch) for batch in super().micro_batches(step, rank, world)]

    (warning,) = dry_run(tiny_trainer(stream=Texts())).warnings()
    assert "vision_tower" in warning
    assert "got no gradient" in warning


def taken_texts(batch):
    """The rows without their pictures."""
    from paligemma.processor import Batch

    return Batch(
        tokens=batch.tokens[:, 4:], pixels=None, mask_ar=batch.mask_ar[:, 4:], mask_input=batch.mask_input[:, 4:],
        mask_loss=batch.mask_loss[:, 4:],
    )  # fmt: skip


def test_losses_that_are_no_numbers_are_told():
    warnings = dry_run(tiny_trainer(stream=Stream(bad=(0,)))).warnings()
    assert any("not finite" in warning for warning in warnings)


def test_a_batch_is_learnt_by_heart():
    found = overfit(tiny_trainer(), 12)
    assert found.last < 0.1 * found.first


def test_a_rate_that_is_too_small_is_told():
    with pytest.raises(CheckFailed, match=r"a loss of .* after 3 steps on it alone, .* at first, expected below 0.1"):
        overfit(tiny_trainer(tiny_config(optim=OptimConfig(lr=1e-7))), 3)


def test_the_schedule_of_the_run_does_not_hold_it_back():
    slow = OptimConfig(lr=1e-2, warmup=5000, schedule="cosine", decay_rule="matrices", weight_decay=0.9)
    overfit(tiny_trainer(tiny_config(optim=slow)), 12)


def test_adapters_are_set_back_too():
    config = tiny_config(lora=LoraConfig(rank=2, where=("lm",), dropout=0.2))
    model = draw_model(TINY[2])
    prepare(model, config)
    trainer = Trainer(SuffixObjective(model, LossConfig()), Stream(), config)
    before = weights(trainer)
    dry_run(trainer)
    assert before
    assert equal(weights(trainer), before)


def test_it_is_for_runs_that_have_not_begun():
    trainer = tiny_trainer(tiny_config(steps=1))
    trainer.run()
    with pytest.raises(AssertionError, match="only before the first step"), untouched(trainer):
        pass
