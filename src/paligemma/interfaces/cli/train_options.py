"""The options of `paligemma train`, and the configuration they make.

    stage's published numbers  <  --config FILE  <  options  <  --set KEY=VALUE

Every option is one key of `TrainConfig` (`KEYS`); what has no option of its own is reached by `--set`. An option that
was not given changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from paligemma.errors import UsageError
from paligemma.interfaces.cli.options import Flag

if TYPE_CHECKING:
    from paligemma.train.config import TrainConfig

Paths = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]
Words = str | None  # several, with commas between


@Parameter(name="*", group=Group("Data", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What it learns from."""

    data: Paths = None
    """Examples to learn: .jsonl, folders, shards, COCO and other formats, scenes, hub:NAME; several in equal parts."""
    val: Paths = None
    """Examples to judge it on, in the same forms."""
    prefix: str | None = None
    """Prompt of every example, for data that has none; captions need `caption en`."""
    max_tokens: int | None = None
    """Longest text of an example in tokens, 128, of scenes 256; a longer one is an error."""
    skip_bad: Flag = False
    """Leave bad rows out, and list them, instead of stopping."""
    flip: float | None = None
    """Share of pictures mirrored; boxes, masks and the words left and right go along."""
    crop: float | None = None
    """Share of pictures cropped, with their boxes and masks."""
    workers: int | None = None
    """Processes that read and resize pictures."""


@Parameter(name="*", group=Group("Model", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class ModelChoices:
    """Where it starts, and what moves."""

    model: str | None = None
    """Start: nano, a directory, a hub name in the local cache, or scratch:NAME for random weights."""
    train: Words = None
    """Parts whose weights move: all, or some of lm,vision,projector,attention."""
    lora: Flag = False
    """Train low-rank adapters instead of the weights."""
    rank: int | None = None
    """Of the adapters; 8."""
    alpha: float | None = None
    """Of the adapters; 16."""
    dropout: float | None = None
    """Of the adapters' input."""
    where: Words = None
    """What gets adapters: lm, vision, projector, lm-attention, lm-mlp, vision-attention, all-linear, q_proj, ..."""
    dora: Flag = False
    """Adapters with a magnitude of their own (DoRA)."""
    quantize: Literal["nf4", "int8"] | None = None
    """Keep the frozen base in few bits, with adapters (QLoRA)."""
    image_size: int | None = None
    """Another resolution than the start's, in pixels."""


@Parameter(name="*", group=Group("Training", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How long and how fast."""

    steps: int | None = None
    """Updates; or give --epochs."""
    epochs: float | None = None
    """Times through the data."""
    batch_size: int | None = None
    """Examples of an update, over all processes; 32."""
    micro_batch: int | None = None
    """Examples at a time; less memory, the same result."""
    lr: float | None = None
    """Highest learning rate; 1e-5, adapters want 1e-4 or so."""
    optimizer: Literal["adamw", "adamw8bit", "muon", "sgd"] | None = None
    """adamw unless given."""
    schedule: Literal["cosine", "rsqrt", "constant"] | None = None
    """Of the learning rate, after the warm-up; cosine."""
    warmup: float | None = None
    """Share of the steps, or from 1 on steps."""
    weight_decay: float | None = None
    """By the reference's rule; --set optim.decay_rule=matrices takes the usual one."""
    ema: float | None = None
    """Save an average of the weights with this decay, such as 0.999."""
    precision: Literal["bf16", "fp32"] | None = None
    """Of the computation; weights that move are float32 either way."""
    checkpointing: Flag = False
    """Compute activations again instead of keeping them; less memory, a third slower."""
    compile: Flag = False
    """Fuse what lies between matrix products by torch.compile; steps are faster after the first minute."""
    seed: int | None = None
    """Of order, augmentation, dropout and new weights."""
    threads: int | None = None
    """Of the CPU."""
    parallel: Literal["auto", "ddp", "fsdp2"] | None = None
    """With torchrun: whole weights in each process (ddp) or shared ones (fsdp2)."""


@Parameter(name="*", group=Group("Watching", sort_key=4))
@dataclass(frozen=True, kw_only=True)
class WatchingOptions:
    """What is measured, kept and told."""

    eval_every: int | None = None
    """Steps between evaluations; default once an epoch."""
    eval_limit: int | None = None
    """Examples of an evaluation; default all."""
    metric: str | None = None
    """What the best weights are best at: loss, caption_exact, question_accuracy, ap50, miou, ..."""
    patience: int | None = None
    """End after so many evaluations without a better one."""
    save_every: int | None = None
    """Steps between saved states; 500, and every five minutes."""
    track: Words = None
    """Trackers: tensorboard, wandb (offline), trackio."""


# Option -> key of the configuration; `_of` below says how a value is read.
KEYS: dict[str, str] = {
    "max_tokens": "data.max_tokens", "skip_bad": "data.skip_bad", "flip": "data.augment.flip",
    "crop": "data.augment.crop", "workers": "data.workers",
    "model": "model", "train": "train", "rank": "lora.rank", "alpha": "lora.alpha", "dropout": "lora.dropout",
    "where": "lora.where", "dora": "lora.dora", "quantize": "quantize", "image_size": "image_size_px",
    "steps": "steps", "epochs": "epochs", "batch_size": "batch_size", "micro_batch": "micro_batch", "lr": "optim.lr",
    "optimizer": "optim.name", "schedule": "optim.schedule", "warmup": "optim.warmup",
    "weight_decay": "optim.weight_decay", "ema": "optim.ema", "precision": "precision",
    "checkpointing": "checkpointing", "compile": "compile", "seed": "seed", "threads": "threads",
    "parallel": "parallel",
    "eval_every": "evaluate.every", "eval_limit": "evaluate.limit", "metric": "evaluate.metric",
    "patience": "evaluate.patience", "save_every": "save_every", "track": "track",
}  # fmt: skip
LISTS = ("train", "where", "track")
OF_LORA = ("rank", "alpha", "dropout", "where", "dora")
OTHER_LENGTH = {"steps": "epochs", "epochs": "steps"}


def configuration(
    given: Mapping[str, Any], *, config: Path | None = None, stage: int | None = None, out: Path | None = None,
    resume: bool = False, sets: list[str] | None = None,
) -> "TrainConfig":  # fmt: skip
    """The configuration that the options of a command make; see the module.

    Args:
        given: values of the option groups by name; None and False were not given.
        resume: without `config`, what the run in `out` was told.

    Raises:
        UsageError: contradictions, unknown keys, numbers out of range.
    """
    from paligemma.train.config import TrainConfig
    from paligemma.train.config_file import from_dict, read_config, with_overrides
    from paligemma.train.stages import stage_config

    if resume and config is None:
        if out is None:
            raise UsageError("--resume needs to know which run; give its folder as --out, or its --config")
        config = out / "config.yaml"
    base = TrainConfig()
    if stage is not None:
        named = given.get("model") or (read_config(config).model if config is not None else base.model)
        base = stage_config(stage, str(named), given.get("image_size"))
    if config is not None:
        base = read_config(config, base)
    chosen = from_dict(_nested(_of(given, base, out)), base)
    return with_overrides(chosen, _pairs(sets)) if sets else chosen


def _of(given: Mapping[str, Any], base: "TrainConfig", out: Path | None) -> dict[str, Any]:
    """What was given, by dotted key."""
    values = {KEYS[name]: _value(name, value) for name, value in given.items() if name in KEYS and _is_given(value)}
    of_lora = [name for name in OF_LORA if _is_given(given.get(name))]
    if of_lora and not given.get("lora") and base.lora is None:
        raise UsageError(f"--{of_lora[0]} belongs to adapters; give --lora as well")
    if given.get("lora") and not of_lora and base.lora is None:
        values["lora"] = {}
    for name, other in OTHER_LENGTH.items():
        if name in values and other not in values:
            values[other] = None
    for name, key in (("data", "data.train"), ("val", "data.validation")):
        if given.get(name):
            values[key] = [_source(path, given.get("prefix")) for path in given[name]]
    if given.get("prefix") is not None and not given.get("data"):
        raise UsageError("--prefix is the prompt of the examples of --data and --val; give --data as well")
    return values | ({} if out is None else {"out": str(out)})


def _is_given(value: Any) -> bool:
    return value is not None and value is not False


def _value(name: str, value: Any) -> Any:
    return [word.strip() for word in value.split(",") if word.strip()] if name in LISTS else value


def _source(path: str, prefix: str | None) -> dict[str, Any]:
    return {"path": path, **({} if prefix is None else {"prefix": prefix})}


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"optim.lr": 1}` -> `{"optim": {"lr": 1}}`."""
    found: dict[str, Any] = {}
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return found


def _pairs(sets: list[str]) -> dict[str, str]:
    """`optim.lr=3e-5` -> key and text.

    Raises:
        UsageError: no equals sign.
    """
    pairs = {}
    for word in sets:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {word} cannot be read; write KEY=VALUE such as optim.lr=3e-5")
        pairs[key.strip()] = value
    return pairs


def values_of(*groups: Any) -> dict[str, Any]:
    """The values of option groups by name."""
    return {field.name: getattr(group, field.name) for group in groups for field in fields(group)}
