"""Two steps and one evaluation before the first: what a step costs, and that all works. Nothing is changed by them.

    with untouched(trainer): ...            weights, averages, optimizer and random numbers come back bit for bit
    dry_run(trainer, evaluate) -> DryRun    seconds, memory, parameters without gradient
    overfit(trainer, steps) -> Overfit      one batch learnt by heart, on request

In: a `Trainer` that has not begun. All processes of a run must take part.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from paligemma.config import IMAGE_SLOT
from paligemma.errors import CheckFailed
from paligemma.train.loop import Trainer
from paligemma.train.objective import seed_step
from paligemma.train.optim import Optimizer
from paligemma.train.planning.activations import Shape
from paligemma.train.planning.memory import Gauge

STEPS = 2
LEARNT = 0.1  # share of its first loss that a batch learnt by heart has left
SHOWN = 3  # names in a message


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What the first steps cost and found.

    Attributes:
        losses, grad_norms: of each step. figures: of the evaluation.
        seconds: of the last step, without waiting for data; the first one also sets things up.
        data_s: to make its examples in this process, without workers. evaluation_s: of the evaluation.
        memory_bytes: most held by model, optimizer and steps at a time; None where that cannot be told.
        shape: of the largest micro-batch of this process.
        without_gradient: trained parameters that no example reached.
    """

    losses: tuple[float, ...]
    grad_norms: tuple[float, ...]
    seconds: float
    data_s: float
    memory_bytes: int | None
    shape: Shape
    without_gradient: tuple[str, ...]
    figures: dict[str, float]
    evaluation_s: float

    def warnings(self) -> list[str]:
        """What is worth a look, in sentences."""
        found = []
        if self.without_gradient:
            found.append(
                f"{len(self.without_gradient)} trained parameters got no gradient ({_some(self.without_gradient)}): "
                "no example of the first steps reaches them"
            )
        if not all(np.isfinite((*self.losses, *self.grad_norms))):
            found.append(f"the first losses are {self.losses} and gradient norms {self.grad_norms}: not finite")
        return found


@dataclass(frozen=True, kw_only=True)
class Overfit:
    """How far one batch was learnt: the loss before and after so many steps."""

    steps: int
    first: float
    last: float


def dry_run(trainer: Trainer, evaluate: Callable[[int], dict[str, float]] | None = None) -> DryRun:
    """Two steps as the run would take them and one evaluation; nothing is changed.

    Args:
        evaluate: of a few examples; default none.
    """
    with untouched(trainer), Gauge(trainer.device, _held(trainer)) as gauge:
        losses, norms, seconds, data_s = [], [], 0.0, 0.0
        reached: set[str] = set()
        shapes = []
        for step in range(min(STEPS, trainer.steps)):
            began = time.monotonic()
            batches = trainer.stream.micro_batches(step, trainer.parallel.rank, trainer.parallel.world)
            data_s, began = time.monotonic() - began, time.monotonic()
            loss, norm = _step(trainer, trainer.optimizer, batches, step, reached)
            seconds = time.monotonic() - began
            shapes += [shape_of(batch, trainer.objective.model.config.vision.num_image_tokens) for batch in batches]
            losses.append(loss)
            norms.append(norm)
        memory = gauge.peak()
        began = time.monotonic()
        figures = {} if evaluate is None else _evaluated(trainer, evaluate)
        return DryRun(
            losses=tuple(losses), grad_norms=tuple(norms), seconds=seconds, data_s=data_s, memory_bytes=memory,
            shape=max(shapes, key=lambda shape: shape.rows * shape.tokens),
            without_gradient=tuple(name for name in trainer.parameters if name not in reached),
            figures=figures, evaluation_s=time.monotonic() - began,
        )  # fmt: skip


def overfit(trainer: Trainer, steps: int) -> Overfit:
    """Learns the first micro-batch by heart at the run's rate, without schedule or decay; nothing is changed.

    Raises:
        CheckFailed: the loss is still above `LEARNT` of what it was.
    """
    with untouched(trainer):
        batches = trainer.stream.micro_batches(0, trainer.parallel.rank, trainer.parallel.world)[:1]
        plain = replace(
            trainer.config.optim, schedule="constant", warmup=0.0, cooldown=0.0, vision_warmup=0.0, weight_decay=0.0
        )
        groups = [replace(group, warmup=0, decay=0.0) for group in trainer.optimizer.groups]
        optimizer = Optimizer(trainer.parameters, groups, plain, steps)
        losses = [_step(trainer, optimizer, batches, step, set())[0] for step in range(steps)]
    found = Overfit(steps=steps, first=losses[0], last=losses[-1])
    if not found.last < LEARNT * found.first:
        raise CheckFailed(
            f"one batch of {len(batches[0].tokens)} rows has a loss of {found.last:.4g} after {steps} steps on it "
            f"alone, {found.first:.4g} at first, expected below {LEARNT:g} of that; raise optim.lr, take more steps, "
            "or look for rows that ask the same and answer differently"
        )
    return found


@contextmanager
def untouched(trainer: Trainer) -> Iterator[None]:
    """Whatever is done in here, the trainer and all random numbers are afterwards as before, bit for bit.

    Copies of the trained weights are kept in main memory meanwhile.
    """
    assert not trainer.optimizer.torch.state, "only before the first step"
    weights = {name: _copy(parameter) for name, parameter in trainer.parameters.items()}
    averages = {} if trainer.average is None else {name: _copy(t) for name, t in trainer.average.values.items()}
    words, numbers, devices = random.getstate(), np.random.get_state(), _devices(trainer)
    modes = [(part, part.training) for part in trainer.objective.modules()]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(words)
        np.random.set_state(numbers)
        trainer.optimizer.zero_grad()
        trainer.optimizer.torch.state.clear()
        for part, training in modes:
            part.training = training
        with torch.no_grad():
            for name, parameter in trainer.parameters.items():
                _local(parameter).copy_(weights[name])
            for name, tensor in averages.items():
                assert trainer.average is not None
                _local(trainer.average.values[name]).copy_(tensor)


def shape_of(batch: Any, num_image_tokens: int) -> Shape:
    """What decides how much memory a micro-batch takes."""
    rows, tokens = batch.tokens.shape
    slots = int((batch.tokens == IMAGE_SLOT).sum())
    return Shape(rows=rows, tokens=tokens, learnt=int((batch.mask_loss != 0).sum()), pictures=slots // num_image_tokens)


def _step(
    trainer: Trainer, optimizer: Optimizer, batches: Sequence[Any], step: int, reached: set[str]
) -> tuple[float, float]:
    """One update; loss and norm of the gradient."""
    trainer.objective.train()
    seed_step(trainer.config.seed, step, trainer.parallel.rank)
    loss = trainer.gradient(batches)["loss"]
    norm = float(trainer.parallel.clip_grad_norm(trainer.parameters.values(), trainer.config.optim.clip_norm))
    reached |= {name for name, parameter in trainer.parameters.items() if parameter.grad is not None}
    if np.isfinite(norm):
        optimizer.update(step)
    optimizer.zero_grad()
    return loss, norm


def _evaluated(trainer: Trainer, evaluate: Callable[[int], dict[str, float]]) -> dict[str, float]:
    with trainer.as_exported(), torch.no_grad():
        return dict(evaluate(0))


def _held(trainer: Trainer) -> int:
    """Bytes of weights and averages, which are there before the first step."""
    averages = () if trainer.average is None else trainer.average.values.values()
    tensors = [*trainer.objective.parameters(), *trainer.objective.buffers(), *averages]
    return sum(_local(tensor.detach()).nbytes for tensor in tensors)


def _devices(trainer: Trainer) -> list[torch.device]:
    return [trainer.device] if trainer.device.type == "cuda" else []


def _local(tensor: Tensor) -> Tensor:
    """This process's share."""
    return cast(Any, tensor).to_local() if hasattr(tensor, "to_local") else tensor


def _copy(tensor: Tensor) -> Tensor:
    return _local(tensor.detach()).to("cpu", copy=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
