"""Gradients -> better weights: groups, schedules, weight decay, optimizers, and an average of the weights.

    p <- p - s(t) * (rate * direction(g) + decay * p)     s(t) in [0, 1] is the schedule, rate = lr * lr_scale

Rule "big_vision" takes `decay` as configured, so that it does not grow with the rate, and only from the matrices of
SigLIP and the projector; "matrices" multiplies it by the rate and takes all matrices (decoupled AdamW). Weights and
optimizer state are float32 whatever the computation runs in. Not done here: clipping (`distributed`). Sources:
big_vision `optax.py` and `utils.create_learning_rate_schedule`; Loshchilov and Hutter 2019 (decoupled decay); Jordan
2024 (Muon), Liu et al. 2025 (its rates and AdamW's on one scale).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paligemma.errors import UnavailableError
from paligemma.train.config import OptimConfig

MUON_MOMENTUM = 0.95  # Jordan's, where the configuration says nothing


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parameters that share a rate and a decay.

    Attributes:
        names: as `objective.named_parameters()` has them.
        lr_scale: times `lr`.
        warmup: steps over which the group's rate and decay rise on their own, besides the schedule's warm-up.
        decay: share of a weight that goes each step where the schedule stands at 1.
        orthogonal: matrices that Muon changes; what else there is takes AdamW's steps beside it.
    """

    names: tuple[str, ...]
    lr_scale: float = 1.0
    warmup: int = 0
    decay: float = 0.0
    orthogonal: bool = False


def parameter_groups(parameters: Mapping[str, nn.Parameter], config: OptimConfig, steps: int) -> list[Group]:
    """The groups of a run: the vision tower apart where it has a rate of its own, matrices that decay apart from rest,
    and with Muon the blocks' matrices apart.

    Args:
        parameters: those that are trained, by name.
        steps: of the whole run.
    """
    found: dict[tuple[bool, bool, bool], list[str]] = {}
    for name, parameter in parameters.items():
        vision = ".vision_tower." in f".{name}"
        orthogonal = config.name == "muon" and parameter.ndim == 2 and ".layers." in name and "lora_" not in name
        found.setdefault((vision, decays(name, parameter, config.decay_rule), orthogonal), []).append(name)
    groups = []
    for (vision, decaying, orthogonal), names in found.items():
        scale = config.vision_lr_scale if vision else 1.0
        rate = config.lr * scale if config.decay_rule == "matrices" else 1.0
        warmup = in_steps(config.vision_warmup, steps) if vision else 0
        decay = config.weight_decay * rate if decaying else 0.0
        groups.append(Group(names=tuple(names), lr_scale=scale, warmup=warmup, decay=decay, orthogonal=orthogonal))
    return groups


def decays(name: str, parameter: Tensor, rule: str) -> bool:
    """Whether a weight decays: with "matrices" every matrix, with "big_vision" kernels of SigLIP and the projector.

    big_vision's pattern is `.*/kernel$`. Gemma's names (`w`, `gating_einsum`, `linear`, `input_embedding`) end
    otherwise, so that Gemma never decays; position tables, norms and biases do not either, nor do adapters.
    """
    if rule == "matrices":
        return parameter.ndim > 1
    pictures = ".vision_tower." in f".{name}" or ".projector." in f".{name}"
    return pictures and parameter.ndim > 1 and name.endswith(".weight") and "lora_" not in name


def in_steps(length: float, steps: int) -> int:
    """A length given as a share of the run where below 1, else in steps; at least one step unless it is 0."""
    if length >= 1:
        return round(length)
    return max(1, round(length * steps)) if length else 0


def schedule(config: OptimConfig, step: int, steps: int) -> float:
    """s(t) in [0, 1] of the update after `step` others, of `steps` in all.

        warm-up    step / warmup                                   linear, from 0
        cosine     (1 + cos(pi * (step - warmup) / (steps - warmup))) / 2
        rsqrt      1 / sqrt(1 + (step - warmup) / timescale)       "infinite": does not know `steps`
        cool-down  (steps - step) / cooldown                       linear, to 0

    Source: big_vision `utils.create_learning_rate_schedule`. A run shorter than its warm-up warms up all the time.
    """
    warmup = min(in_steps(config.warmup, steps), max(0, steps - 1))
    after = max(0, step - warmup)
    value = 1.0
    if config.schedule == "cosine":
        value = 0.5 * (1 + math.cos(math.pi * min(1.0, after / max(1, steps - warmup))))
    elif config.schedule == "rsqrt":
        value = (1 + after / config.timescale) ** -0.5
    if warmup:
        value *= min(1.0, step / warmup)
    cooldown = in_steps(config.cooldown, steps)
    if cooldown:
        value *= min(1.0, max(0, steps - step) / cooldown)
    return value


class Optimizer:
    """Changes the parameters of its groups, one update a step; its memory is that of `torch`, one of torch's own."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], groups: Iterable[Group], config: OptimConfig, steps: int
    ):
        self.parameters, self.groups, self.config, self.steps = dict(parameters), list(groups), config, steps
        self.torch = _KINDS[config.name](
            [
                {"params": [self.parameters[name] for name in group.names], "orthogonal": group.orthogonal}
                for group in self.groups
            ],
            config,
        )

    def lr(self, step: int) -> float:
        """The learning rate of an update, before any group's scale."""
        return self.config.lr * schedule(self.config, step, self.steps)

    def update(self, step: int) -> None:
        """Applies the gradients, after `step` updates before."""
        value = schedule(self.config, step, self.steps)
        for group, settings in zip(self.groups, self.torch.param_groups, strict=True):
            own = value * (min(1.0, step / group.warmup) if group.warmup else 1.0)
            settings["lr"] = own * self.config.lr * group.lr_scale
            if group.decay and own:
                with torch.no_grad():
                    for parameter in settings["params"]:
                        if parameter.grad is not None:  # what took no part in the loss stays as it is
                            parameter.mul_(1 - own * group.decay)
        self.torch.step()

    def zero_grad(self) -> None:
        self.torch.zero_grad(set_to_none=True)


def _adamw(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=0.0, fused=True)


def _adamw8bit(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    try:
        import bitsandbytes
    except ImportError:
        raise UnavailableError(
            "the optimizer adamw8bit needs bitsandbytes, which is not installed; "
            "pip install 'paligemma[quant]', or take adamw"
        ) from None
    return bitsandbytes.optim.AdamW8bit(groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=0.0)


def _sgd(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


class _Muon(torch.optim.Optimizer):
    """Muon for the groups that are `orthogonal` and AdamW for the others, with one memory and one list of groups."""

    def __init__(self, groups: list[dict[str, Any]], config: OptimConfig):
        super().__init__(groups, {"lr": config.lr})
        ours, others = self._parted()
        made: list[torch.optim.Optimizer] = []
        if ours:
            made.append(torch.optim.Muon(
                ours, lr=config.lr, momentum=config.momentum or MUON_MOMENTUM, weight_decay=0.0,
                adjust_lr_fn="match_rms_adamw",
            ))  # fmt: skip
        if others:
            made.append(_adamw(others, config))
        self.made = made

    def _parted(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        groups = self.param_groups
        return [one for one in groups if one["orthogonal"]], [one for one in groups if not one["orthogonal"]]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for optimizer, groups in zip(self.made, filter(None, self._parted()), strict=True):
            optimizer.param_groups, optimizer.state = groups, self.state
            optimizer.step()


_KINDS = {"adamw": _adamw, "adamw8bit": _adamw8bit, "muon": _Muon, "sgd": _sgd}


class Average:
    """An exponential moving average of weights, float32; it starts quickly: decay is min(decay, (1 + t) / (10 + t))."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.parameters, self.decay = dict(parameters), decay
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after an update, which was preceded by `step` others."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.parameters.items():
            self.values[name].lerp_(parameter.detach(), share)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model has the averaged weights in here, and its own again afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name].copy_(kept)
