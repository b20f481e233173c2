"""One call that is a whole run: a configuration -> a folder with everything about it.

    config -> start -> parts -> mixture -> stream -> Trainer -> last/, best/
                                              \\-> observers: logs, terminal, curves, trackers

`runs/NAME/` holds config.yaml, trainable.txt, metrics.jsonl, timings.jsonl, curves.png, summary.json, sets/, best/ and
last/. A run that was stopped goes on with `resume=True`, with the same bits in one process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from paligemma.checkpoints import load_codec
from paligemma.checkpoints.placement import choose_device
from paligemma.data.mixture import Mixture
from paligemma.data.sources import open_source
from paligemma.errors import UsageError
from paligemma.train.config import SourceConfig, TrainConfig
from paligemma.train.config_file import FREE, differences, from_dict, to_dict, write_config
from paligemma.train.curves import Curves
from paligemma.train.distributed import Parallel
from paligemma.train.exports import gathered, write_export
from paligemma.train.loop import Trainer
from paligemma.train.objective import SuffixObjective
from paligemma.train.parts import Parts, prepare
from paligemma.train.records import Observer, Summary
from paligemma.train.report import Journal, Terminal, write_summary
from paligemma.train.sets import Restored
from paligemma.train.start import Start, begin
from paligemma.train.state import RunState
from paligemma.train.streams import ExampleStream
from paligemma.train.tracking import Tracking

Evaluate = Callable[[int], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything a run needs, before its first step.

    Attributes:
        config: as given; `steps` in it may be unknown. resolved: with steps and the time between evaluations.
        facts: config and data, kept in every set and compared on resuming.
    """

    config: TrainConfig
    resolved: TrainConfig
    start: Start
    parts: Parts
    mixture: Mixture
    stream: ExampleStream
    objective: SuffixObjective
    facts: dict[str, Any]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    device: str | None = None,
    quiet: bool = False,
    observers: Sequence[Observer] = (),
    evaluator: Callable[[Prepared], Evaluate] | None = None,
) -> Summary:
    """Trains as `config` says; returns how it ended.

    Args:
        resume: go on in `config.out` from its last set.
        device: default CUDA where there is some, else the CPU.
        quiet: nothing on the terminal but notes.
        observers: told of every step besides the run's own.
        evaluator: makes what judges the weights, for `data.validation`.

    Raises:
        UsageError: a configuration that cannot be, a folder that holds a run, other settings or data on resuming.
        UnavailableError, InputError, CheckpointError: model or data cannot be had or read.
        DivergedError, ResourceError: training stopped; the last set is kept. Stopped: a signal came.
    """
    with Parallel.start(config.parallel, _device(device)) as parallel:
        prepared = prepare_run(config, parallel)
        heard: list[Observer] = list(observers)
        state = RunState(
            config.out, config.keep, device=parallel.device, world=parallel.world,
            note=lambda text: _tell(heard, text),
        )  # fmt: skip
        if not parallel.main:
            return _trainer(prepared, parallel, state, (), evaluator).run()
        with state:
            if state.begun and not resume:
                raise UsageError(f"{config.out} holds a run already; resume it, or give another folder as out")
            write_config(config.out / "config.yaml", config)
            (config.out / "trainable.txt").write_text(prepared.parts.table() + "\n", encoding="utf-8")
            heard += own_observers(prepared, quiet=quiet)
            trainer = _trainer(prepared, parallel, state, heard, evaluator)
            summary = trainer.run()
            write_summary(config.out, asdict(summary))
            return summary


def prepare_run(config: TrainConfig, parallel: Parallel | None = None) -> Prepared:
    """Model, data and objective of a run; touches no folder.

    Raises:
        UsageError, UnavailableError, InputError, CheckpointError: see `train`.
    """
    parallel = parallel or Parallel()
    if not config.data.train:
        raise UsageError("there is nothing to train on; give data.train a file, a folder or `scenes`")
    start = begin(config, frozen_float32=parallel.kind == "fsdp2")
    parts = prepare(start.model, config)
    master_weights(start)
    mixture = open_mixture(config, config.data.train, start)
    stream = ExampleStream(
        mixture, start.processor,
        batch_size=config.batch_size, micro_batch=config.micro_batch, max_tokens=config.data.max_tokens,
    )  # fmt: skip
    objective = SuffixObjective(start.model, config.loss, first_location=start.processor.tokenizer.loc_start)
    facts = {"config": to_dict(config), "data": mixture.facts()}
    return Prepared(
        config=config, resolved=with_steps(config, mixture.epoch_length), start=start, parts=parts, mixture=mixture,
        stream=stream, objective=objective, facts=facts,
    )  # fmt: skip


def master_weights(start: Start) -> None:
    """Makes every parameter that is trained float32; frozen ones keep their type."""
    for parameter in start.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def open_mixture(
    config: TrainConfig, sources: Sequence[SourceConfig], start: Start, *, augment: bool = True
) -> Mixture:
    """The examples of several sources by position, changed as `data.augment` says."""
    codec = None if start.codec_path is None else load_codec(start.codec_path)
    side = start.processor.image_size_px
    parts = [
        (
            open_source(one.path, split=one.split, prefix=one.prefix, name=one.name, image_size_px=side, codec=codec),
            one.weight,
        )
        for one in sources
    ]
    changes = config.data.augment
    changed = augment and any((changes.flip, changes.crop, changes.scale, changes.color))
    return Mixture(parts, seed=config.seed, augment=changes if changed else None, codec=codec)


def with_steps(config: TrainConfig, epoch_length: int | None) -> TrainConfig:
    """The same with `steps` and `evaluate.every` as numbers; epochs are rounded up to whole steps.

    Raises:
        UsageError: no length is given, or epochs of data that have no end.
    """
    steps, every = config.steps, config.evaluate.every
    if steps is None:
        if config.epochs is None:
            raise UsageError("neither steps nor epochs is given; say how long to train")
        if epoch_length is None:
            raise UsageError(f"epochs is {config.epochs:g}, but these data never repeat; give steps")
        steps = max(1, math.ceil(config.epochs * epoch_length / config.batch_size))
    if not every and epoch_length is not None:
        every = min(steps, math.ceil(epoch_length / config.batch_size))
    return replace(config, steps=steps, epochs=None, evaluate=replace(config.evaluate, every=every or steps))


def check_same_run(restored: Restored, prepared: Prepared) -> None:
    """
    Raises:
        UsageError: a set of other settings (but for `config_file.FREE`) or of other data, with what differs.
    """
    before = from_dict(restored.facts["config"])
    changed = [
        f"{key} was {was!r} and is {now!r}"
        for key, (was, now) in differences(before, prepared.config).items()
        if key not in FREE
    ]
    if restored.facts["data"] != prepared.facts["data"]:
        pairs = zip(restored.facts["data"], prepared.facts["data"], strict=False)
        names = [was["name"] for was, now in pairs if was != now] or ["the list of sources"]
        changed.append(f"the data are others ({', '.join(names)})")
    if changed:
        raise UsageError(
            f"this is not the run in {prepared.config.out}: {'; '.join(changed)}; resume it as it was begun "
            "(config.yaml), or give another folder as out"
        )


def own_observers(prepared: Prepared, *, quiet: bool = False) -> list[Observer]:
    """What every run is watched by: its logs, the terminal, curves, and the trackers it names."""
    config, steps = prepared.config, prepared.resolved.steps
    assert steps is not None
    terminal = Terminal(steps, quiet=quiet)
    observers: list[Observer] = [Journal(config.out), terminal, Curves(config.out, terminal.on_note)]
    if config.track:
        observers.append(Tracking(config.track, config.out, to_dict(config)))
    return observers


def _trainer(
    prepared: Prepared, parallel: Parallel, state: RunState, observers: Sequence[Observer],
    evaluator: Callable[[Prepared], Evaluate] | None,
) -> Trainer:  # fmt: skip
    config = prepared.config

    def export(name: str) -> None:
        weights = gathered(parallel, prepared.start.model)

        def write(folder: Path) -> None:
            write_export(folder, weights, config=config, start=prepared.start, parts=prepared.parts)

        parallel.on_main(lambda: str(state.export(name, write)))

    def accept(restored: Restored) -> None:
        check_same_run(restored, prepared)

    return Trainer(
        prepared.objective, prepared.stream, prepared.resolved,
        observers=observers, state=state, export=export, facts=prepared.facts, accept=accept, parallel=parallel,
        evaluate=None if evaluator is None or not config.data.validation else evaluator(prepared),
        bad_steps=config.out / "bad_steps",
    )  # fmt: skip


def _device(wanted: str | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return choose_device(wanted)


def _tell(observers: Sequence[Observer], text: str) -> None:
    for observer in observers:
        observer.on_note(text)
