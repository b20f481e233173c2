import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from tests.train.measured_step import RETURNED_AT_ONCE

from paligemma.config import VARIANTS
from paligemma.engine.machine import usable
from paligemma.errors import UsageError
from paligemma.train.config import OptimConfig
from paligemma.train.planning.plan import METHODS, Wanted, advice, largest, plan, training

BIG = VARIANTS["paligemma2-3b-pt-224"].config
GIB = 2**30
CARD = usable(24 * GIB)


def wanted(**changes):
    return replace(Wanted(architecture=BIG), **changes)


def peak(**changes):
    return plan(wanted(**changes)).memory.peak


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "full"},
        {"method": "lora", "precision": "fp32", "generation": 1},
        {"optimizer": "adamw8bit"},
        {"optimizer": "muon"},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in (
                {"precision": "fp32"}, {"checkpointing": True}, {"method": "lora"}, {"method": "attention"},
                {"method": "frozen"}, {"method": "qlora"}, {"optimizer": "sgd", "rows": 8},
                {"method": "lora", "checkpointing": True, "rows": 8},
            )
        ),
    ],
    ids=str,
)  # fmt: skip
def test_the_plan_is_what_two_steps_really_take(settings):
    if settings.get("optimizer") == "adamw8bit":
        pytest.importorskip("bitsandbytes")
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.measured_step", json.dumps(settings)],
        env={**os.environ, **RETURNED_AT_ONCE}, capture_output=True, text=True, check=True, timeout=500,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["parameters"] > 50e6
    if found["measured"] is None:
        pytest.skip("this system does not tell")
    assert found["estimated"] == pytest.approx(found["measured"], rel=0.25)


def test_static_parts_are_simple_numbers():
    memory = plan(wanted()).memory
    count = BIG.num_parameters
    assert memory.weights == 4 * count
    assert memory.gradients == 4 * count
    assert memory.optimizer == 8 * count
    lora = plan(wanted(method="lora"))
    assert lora.memory.weights == 2 * count + 4 * lora.trained


def test_what_saves_memory_does():
    assert peak(checkpointing=True, batch_size=8) < peak(batch_size=8)
    assert peak(optimizer="adamw8bit") < peak() - 5 * BIG.num_parameters
    assert peak(optimizer="sgd") < peak(optimizer="adamw8bit")
    methods = [peak(method=method) for method in ("qlora", "lora", "attention", "frozen", "full")]
    assert methods == sorted(methods)
    assert peak(batch_size=8, micro_batch=2) < peak(batch_size=8)
    assert peak(precision="fp32", method="lora") > peak(method="lora")
    assert peak(processes=4, batch_size=4, parallel="fsdp2") < 0.5 * peak(processes=4, batch_size=4)


def test_more_of_anything_takes_more():
    for change in ({"batch_size": 2}, {"text_tokens": 256}, {"images": 2}):
        assert peak(method="lora", **change) > peak(method="lora")
    ema = replace(wanted().config(), optim=OptimConfig(ema=0.999))
    shape = wanted().shape(1, 64)
    assert training(BIG, ema, shape).peak - training(BIG, wanted().config(), shape).peak == 4 * BIG.num_parameters


def test_the_cpu_unpacks_what_adamw8bit_remembers_of_the_largest_tensor():
    """Both moments, a scaled gradient, a root and a quotient, each float32, where a card has one copy at most."""
    config = replace(wanted(method="full").config(), optim=OptimConfig(name="adamw8bit"))
    shape = wanted(checkpointing=True).shape(1, 2)  # so little to learn that the update is the peak
    memory = training(BIG, config, shape, device="cpu")
    largest_tensor = BIG.text.embedding_rows * BIG.text.width
    assert memory.peak == memory.weights + memory.optimizer + memory.gradients + 20 * largest_tensor
    assert training(BIG, config, shape).peak < memory.peak
    assert peak(optimizer="adamw8bit", device="cpu") > peak(optimizer="adamw8bit")
    assert peak() < peak(device="cpu") < 1.01 * peak()  # SigLIP's attention in float32


def test_momentum_counts():
    plain = replace(wanted().config(), optim=OptimConfig(name="sgd"))
    heavy = replace(plain, optim=OptimConfig(name="sgd", momentum=0.9))
    shape = wanted().shape(1, 64)
    assert training(BIG, heavy, shape).optimizer == 4 * BIG.num_parameters
    assert training(BIG, plain, shape).optimizer == 0


def test_the_largest_micro_batch_just_fits():
    one = wanted(method="lora")
    most = largest(one, CARD)
    assert most > 1
    assert peak(method="lora", batch_size=most) <= CARD < peak(method="lora", batch_size=most + 1)
    assert largest(wanted(), CARD) == 0


def test_advice_fits_and_says_something():
    full = wanted(batch_size=8)
    told = advice(full, CARD)
    assert {options.get("method", "full") for options in told} == set(METHODS)
    for options in told:
        assert options
        assert plan(replace(full, **options)).memory.peak <= CARD
    assert advice(wanted(architecture=VARIANTS["paligemma2-28b-pt-896"].config), GIB) == []


def test_a_batch_has_to_be_shared_evenly():
    with pytest.raises(UsageError, match="cannot be shared by 3 processes"):
        plan(wanted(batch_size=8, processes=3))
