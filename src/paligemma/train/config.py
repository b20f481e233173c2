"""Everything a training run is told, as nested frozen values; what a stage or a recipe is, is one of these.

A `TrainConfig` is written beside every run and read back to resume it (`config_file`). No torch here. Unknown words,
numbers out of range, and numbers that would have no effect are errors with a suggestion.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from paligemma.config import did_you_mean
from paligemma.errors import UsageError

PARTS = ("lm", "vision", "projector", "attention", "all")  # what `train` may name; "attention" is that of the lm


TINY, MANY = sys.float_info.min, 2.0**53  # smallest number above 0, largest that counts exactly
LARGEST_FIXED_DECAY = 1e-3  # of a weight in each step; big_vision's own values are 1e-6 and below


def _check(config: Any, **limits: tuple[float, float]) -> None:
    """Words among those of their type, numbers (if given) within their limits, both included.

    Raises:
        UsageError: names the first that is not.
    """
    for name, kind in get_type_hints(type(config)).items():
        words = [word for part in (kind, *get_args(kind)) if get_origin(part) is Literal for word in get_args(part)]
        value = getattr(config, name)
        if words and value is not None and value not in words:
            raise UsageError(f"{name} is {value!r}, which is none of its words{did_you_mean(str(value), words)}")
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not (_is_number(number) and low <= number <= high):
                raise UsageError(f"{name} is {value!r}, expected {_told(low, high)}; give another number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _told(low: float, high: float) -> str:
    above = "a number above 0" if low == TINY else f"at least {low:g}"
    return above if high == MANY else f"{above} and at most {high:g}"


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of examples: a file, a folder, a shard pattern, `scenes`, or `hub:NAME`; `weight` in the mixture."""

    path: str
    weight: float = 1.0
    split: str | None = None  # where the data has several; default train, of validation data validation
    prefix: str | None = None  # prompt of every example, for data that has none
    name: str | None = None  # in figures; default from the path

    def __post_init__(self) -> None:
        _check(self, weight=(TINY, MANY))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Box-aware changes of a picture; probabilities and the largest extent of each. All 0: none."""

    flip: float = 0.0  # mirrored left to right, with `left` and `right` in the texts exchanged
    crop: float = 0.0
    min_crop: float = 0.6  # side of the smallest crop, as a share
    scale: float = 0.0  # the picture shrunk onto a larger ground
    color: float = 0.0  # brightness, contrast and saturation, each up to this share

    def __post_init__(self) -> None:
        _check(self, flip=(0, 1), crop=(0, 1), min_crop=(0.1, 1), scale=(0, 1), color=(0, 1))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    train: tuple[SourceConfig, ...] = ()
    validation: tuple[SourceConfig, ...] = ()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    # Text tokens of a row: bos, prefix, newline, suffix, eos; longer is an error, never cut. Default 128, as published,
    # and 256 where scenes are drawn.
    max_tokens: int | None = None
    skip_bad: bool = False  # leave bad rows out (rejects.jsonl) instead of stopping before the first step
    check: int | None = None  # rows of each source that are looked at before it; default all
    workers: int = 1

    def __post_init__(self) -> None:
        _check(self, max_tokens=(4, MANY), check=(1, MANY), workers=(0, 1024))


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters. `where` names parts: lm, vision, projector, or lm-attention, lm-mlp, vision-attention, ..."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    where: tuple[str, ...] = ("lm",)
    rslora: bool = False  # scaled by alpha / sqrt(rank)
    dora: bool = False

    def __post_init__(self) -> None:
        _check(self, rank=(1, MANY), alpha=(TINY, MANY), dropout=(0, 0.99))


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """`per="example"` and softcap False are big_vision's loss; `per="token"` and softcap True Hugging Face's.

    `per="root"`, between the two, lets an example weigh the root of its tokens (InternVL 2.5);
    `location_spread` turns the target of a location token into a bell of that many bins (0: the one bin);
    `mask_token_weight` weighs `<seg>` tokens, of which each object has sixteen.
    """

    per: Literal["example", "token", "root"] = "example"
    label_smoothing: float = 0.0
    softcap: bool = True
    chunk: int = 512  # rows of logits that exist at one time
    location_spread: float = 0.0
    mask_token_weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self, label_smoothing=(0, 0.99), chunk=(1, MANY), location_spread=(0, 1024), mask_token_weight=(0, MANY))


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    name: Literal["adamw", "adamw8bit", "muon", "sgd"] = "adamw"
    lr: float = 1e-5
    vision_lr_scale: float = 1.0
    vision_warmup: float = 0.0  # share of the steps over which the tower's rate rises on its own (stage 1)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0  # big_vision's rule: not times lr, SigLIP matrices and projector only
    decay_rule: Literal["big_vision", "matrices"] = "big_vision"  # "matrices": every matrix, times lr (usual AdamW)
    momentum: float = 0.0
    clip_norm: float = 1.0
    schedule: Literal["cosine", "rsqrt", "constant"] = "cosine"
    warmup: float = 0.05  # share of the steps where below 1, else steps
    timescale: float = 10_000  # of rsqrt, in steps
    cooldown: float = 0.0  # share of the steps at the end that fall linearly to 0 (rsqrt, constant)
    ema: float | None = None  # decay per step of an average of the weights, which is then what is saved as the model

    def __post_init__(self) -> None:
        _check(
            self, lr=(TINY, MANY), vision_lr_scale=(TINY, MANY), vision_warmup=(0, MANY), betas=(0, 0.999999),
            eps=(TINY, 1), weight_decay=(0, 1), momentum=(0, 0.999999), clip_norm=(0, MANY), warmup=(0, MANY),
            timescale=(TINY, MANY), cooldown=(0, MANY), ema=(0, 0.9999999),
        )  # fmt: skip
        if self.momentum and self.name not in ("sgd", "muon"):
            raise UsageError(
                f"momentum is {self.momentum}, but {self.name} does not use it; set betas, or take sgd or muon"
            )
        if self.decay_rule == "big_vision" and self.weight_decay > LARGEST_FIXED_DECAY:
            raise UsageError(
                f"weight_decay {self.weight_decay} by big_vision's rule takes that share of a weight in each step, "
                f"expected at most {LARGEST_FIXED_DECAY:g}; for the usual kind, times lr, set decay_rule to matrices"
            )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    every: int = 0  # steps; 0: at the end of each epoch, or at the end
    limit: int | None = None  # examples; default all
    metric: str = "loss"  # what the best checkpoint is best at
    patience: int = 0  # evaluations without improvement before training stops; 0: never
    pictures: int = 8  # predicted against true

    def __post_init__(self) -> None:
        _check(self, every=(0, MANY), limit=(1, MANY), patience=(0, MANY), pictures=(0, 1024))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run.

    Attributes:
        model: where to start: a name or directory; `scratch:NAME` random weights of a variant.
        out: the run's folder.
        train: which parameters move, names of `PARTS`; with `lora` only its adapters and what `train` names do.
        batch_size: examples of one step over all processes; `micro_batch` of them at a time in one process.
        steps, epochs: how long; one of them.
        precision: of the computation; master weights and optimizer state are float32 either way.
        parallel: "auto" is one process, or DDP under `torchrun`.
        packed: several questions about one picture share its tokens (pre-training of nano only; docs/decisions).
    """

    model: str = "nano"
    out: Path = Path("runs/run")
    data: DataConfig = field(default_factory=DataConfig)
    train: tuple[str, ...] = ("all",)
    lora: LoraConfig | None = None
    quantize: Literal["nf4", "int8"] | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluate: EvalConfig = field(default_factory=EvalConfig)
    stage: int | None = None
    batch_size: int = 32
    micro_batch: int | None = None
    steps: int | None = None
    epochs: float | None = None
    image_size_px: int | None = None  # another resolution than the start's: its position table is resampled
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpointing: bool = False  # recompute activations in the backward pass
    compile: bool = False  # steps between matrix products, by torch.compile
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    save_every: int = 500  # steps
    save_minutes: float = 5.0
    keep: int = 2  # checkpoint sets: the newest, and one or more to fall back on
    seed: int = 0
    threads: int | None = None
    track: tuple[str, ...] = ()  # tensorboard, wandb, trackio

    def __post_init__(self) -> None:
        _check(
            self, stage=(0, 3), batch_size=(1, MANY), micro_batch=(1, MANY), steps=(1, MANY), epochs=(TINY, MANY),
            image_size_px=(1, 8192), save_every=(0, MANY), save_minutes=(0, MANY), keep=(2, MANY), seed=(0, 2**31),
            threads=(1, 4096),
        )  # fmt: skip
        for part in self.train:
            if part not in PARTS:
                raise UsageError(f"train names {part!r}, which is no part{did_you_mean(part, list(PARTS))}")
        if self.steps is not None and self.epochs is not None:
            raise UsageError(
                f"found steps {self.steps} and epochs {self.epochs:g}, expected one of them; leave one out"
            )
        if self.parallel == "fsdp2" and self.optim.name in ("adamw8bit", "muon"):
            raise UsageError(
                f"{self.optim.name} cannot read the split weights of parallel fsdp2; take adamw, or parallel ddp"
            )
        watched = bool(self.data.validation)
        if not watched and (self.evaluate.patience or self.evaluate.metric != "loss"):
            raise UsageError(
                f"evaluate has metric {self.evaluate.metric!r} and patience {self.evaluate.patience}, but there are no "
                "data to evaluate on; give data.validation"
            )
