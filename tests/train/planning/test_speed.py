from collections.abc import Callable

import pytest
from tests.oracle import TINY, draw_model, draw_prompt
from tests.train.tiny import PROCESSOR
from torch.utils.flop_counter import FlopCounterMode

from paligemma.train.config import LossConfig, TrainConfig
from paligemma.train.loop import recompute_activations
from paligemma.train.objective import SuffixObjective
from paligemma.train.parts import prepare
from paligemma.train.planning.activations import Shape
from paligemma.train.planning.plan import METHODS
from paligemma.train.planning.speed import step_flops


def counted(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def batch():
    rows = [draw_prompt(TINY[2], 1, 4, seed=i, suffix=[5, 6, 7, 1]) for i in range(3)]
    return PROCESSOR.collate(rows, side="right")


@pytest.mark.parametrize("method", ["full", "frozen", "attention", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_torch_counts(method, checkpointing):
    config = TrainConfig(precision="fp32", checkpointing=checkpointing, **METHODS[method])
    model = draw_model(TINY[2])
    prepare(model, config)
    objective = SuffixObjective(model, LossConfig())
    if checkpointing:
        recompute_activations(objective)
    given = batch()
    real = counted(lambda: objective(given)["loss"].backward())
    shape = Shape(rows=3, tokens=given.tokens.shape[1], learnt=12, pictures=3)
    assert step_flops(TINY[2], config, shape) == pytest.approx(real, rel=0.3)
