"""One call that is a whole run: a configuration -> a folder with everything about it.

    config -> prepare_run (start, parts, examples, objective) -> trainer_of -> Trainer.run -> last/, best/
                                                                     \\-> observers: logs, terminal, curves, trackers

`runs/NAME/` holds config.yaml, trainable.txt, data_report.txt, examples.html, metrics.jsonl, timings.jsonl, curves.png,
samples/, sets/, best/, last/, summary.json and MODEL_CARD.md. A run that was stopped goes on with `resume=True`, with
the same bits in one process.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from paligemma.checkpoints.placement import choose_device
from paligemma.errors import UsageError
from paligemma.train.checks.preflight import Preflight
from paligemma.train.config import TrainConfig
from paligemma.train.config_file import FREE, differences, from_dict, to_dict, write_config
from paligemma.train.distributed import Parallel
from paligemma.train.examples import Examples, open_examples, remarks, write_data_report
from paligemma.train.judging.evaluate import Evaluation
from paligemma.train.loop import Trainer
from paligemma.train.objective import SuffixObjective
from paligemma.train.parts import Parts, prepare
from paligemma.train.records import Observer, Summary
from paligemma.train.reports.card import write_card
from paligemma.train.reports.curves import Curves
from paligemma.train.reports.report import Journal, Terminal, write_summary
from paligemma.train.reports.tracking import Tracking
from paligemma.train.saving.exports import gathered, write_export
from paligemma.train.saving.sets import Restored
from paligemma.train.saving.state import RunState
from paligemma.train.start import Start, begin
from paligemma.train.streams import ExampleStream


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything a run needs before its first step; no folder was touched.

    Attributes:
        given: the configuration as it was given. config: the same with `steps`, `evaluate.every` and
            `data.max_tokens` as numbers.
        evaluate: figures of the weights as they are; None without validation data.
        facts: kept in every set and compared on resuming.
    """

    given: TrainConfig
    config: TrainConfig
    start: Start
    parts: Parts
    examples: Examples
    stream: ExampleStream
    objective: SuffixObjective
    evaluate: Callable[[int], dict[str, float]] | None
    parallel: Parallel
    facts: dict[str, Any]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    device: str | None = None,
    quiet: bool = False,
    observers: Sequence[Observer] = (),
    preflight: bool = True,
    dry_run: bool = False,
    overfit: int | None = None,
) -> Summary:
    """Trains as `config` says; returns how it ended.

    A new run is checked before its first step: its first rows, the model on them, two steps and a short evaluation,
    which change nothing. One that is resumed was checked when it began.

    Args:
        resume: go on in `config.out` from its last set.
        device: default CUDA where there is some, else the CPU.
        quiet: nothing on the terminal but notes.
        observers: told of every step besides the run's own.
        preflight: False leaves these checks out.
        dry_run: end after them, with the first rows on stderr.
        overfit: also learn one batch by heart in so many steps, to see that it can be learnt.

    Raises:
        CheckFailed: the model leaks answers or sees padding, or the batch was not learnt.
        UsageError: a configuration that cannot be, a folder that holds a run, other settings or data on resuming.
        UnavailableError, InputError, CheckpointError: model or data cannot be had or read.
        DivergedError, ResourceError: training stopped; the last set is kept. Stopped: a signal came.
    """
    with Parallel.start(config.parallel, _device(device)) as parallel:
        heard: list[Observer] = list(observers)
        state = RunState(
            config.out, config.keep, device=parallel.device, world=parallel.world,
            note=lambda text: _tell(heard, text),
        )  # fmt: skip
        parallel.on_main(lambda: _refuse_another(state, resume))
        prepared = prepare_run(config, parallel)
        checks = None
        if (preflight or dry_run) and not parallel.broadcast(state.begun):
            checks = _checks(prepared, observers, show=dry_run)
        with state if parallel.main else nullcontext():
            if parallel.main:
                _describe(prepared)
            if checks is not None:
                checks.inspect()
            if parallel.main:
                heard += own_observers(prepared, quiet=quiet)
            trainer = trainer_of(prepared, state, heard)
            if checks is not None:
                checks.rehearse(trainer, prepared.evaluate, overfit)
            if dry_run:
                return _NOT_BEGUN
            if parallel.main:
                _tell(heard, *remarks(prepared.examples.findings))
            summary = _watched(trainer, heard)
            if parallel.main:
                _conclude(prepared, summary)
            return summary


def prepare_run(config: TrainConfig, parallel: Parallel | None = None) -> Prepared:
    """Model, data and objective of a run.

    Raises:
        UsageError, UnavailableError, InputError, CheckpointError: see `train`.
    """
    parallel = parallel or Parallel()
    start = begin(config, frozen_float32=parallel.kind == "fsdp2")
    parts = prepare(start.model, config)
    master_weights(start)
    examples = open_examples(config, start, parallel)
    mixture = examples.mixture
    known = with_steps(config, mixture.epoch_length)
    known = replace(known, data=replace(config.data, max_tokens=examples.max_tokens))
    stream = ExampleStream(
        mixture, start.processor,
        batch_size=config.batch_size, micro_batch=config.micro_batch, max_tokens=examples.max_tokens,
    )  # fmt: skip
    objective = SuffixObjective(start.model, config.loss, first_location=start.processor.tokenizer.loc_start)
    evaluation = Evaluation(
        objective, start.processor, examples.validation, known, codec_path=start.codec_path, parallel=parallel
    )
    return Prepared(
        given=config, config=known, start=start, parts=parts, examples=examples, stream=stream, objective=objective,
        evaluate=evaluation if examples.validation else None, parallel=parallel,
        facts={"config": to_dict(config), "data": mixture.facts(), "start": parts.base_sha256},
    )  # fmt: skip


def master_weights(start: Start) -> None:
    """Makes every parameter that is trained float32; frozen ones keep their type."""
    for parameter in start.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


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


def own_observers(prepared: Prepared, *, quiet: bool = False) -> list[Observer]:
    """What every run is watched by: its logs, the terminal, curves, and the trackers it names."""
    config = prepared.config
    assert config.steps is not None
    terminal = Terminal(config.steps, quiet=quiet)
    if not quiet:
        terminal.on_note(f"{prepared.parts.table(every=False)}\n\nto {config.out}")
    observers: list[Observer] = [Journal(config.out), terminal, Curves(config.out, terminal.on_note)]
    if config.track:
        observers.append(Tracking(config.track, config.out, to_dict(prepared.given)))
    return observers


def _watched(trainer: Trainer, observers: Sequence[Observer]) -> Summary:
    """The run; whatever ends it, its observers let go of what they hold."""
    try:
        return trainer.run()
    finally:
        for observer in observers:
            observer.close()


def trainer_of(prepared: Prepared, state: RunState, observers: Sequence[Observer] = ()) -> Trainer:
    """The trainer of a prepared run, which keeps its sets and exports in `state`."""
    start, parts, parallel = prepared.start, prepared.parts, prepared.parallel

    def export(name: str) -> None:
        weights = gathered(parallel, start.model)

        def write(folder: Path) -> None:
            write_export(folder, weights, config=prepared.given, start=start, parts=parts)

        parallel.on_main(lambda: str(state.export(name, write)))

    def accept(restored: Restored) -> None:
        check_same_run(restored, prepared)

    return Trainer(
        prepared.objective, prepared.stream, prepared.config,
        observers=observers, evaluate=prepared.evaluate, state=state, export=export, facts=prepared.facts,
        accept=accept, parallel=parallel, bad_steps=prepared.config.out / "bad_steps",
    )  # fmt: skip


def check_same_run(restored: Restored, prepared: Prepared) -> None:
    """
    Raises:
        UsageError: a set of other settings (but for `config_file.FREE`), data or starting weights, with what differs.
    """
    before = from_dict(restored.facts["config"])
    changed = [
        f"{key} was {was!r} and is {now!r}"
        for key, (was, now) in differences(before, prepared.given).items()
        if key not in FREE
    ]
    data = restored.facts["data"], prepared.facts["data"]
    if data[0] != data[1]:
        names = [was["name"] for was, now in zip(*data, strict=False) if was != now]
        changed.append(f"the data are others ({', '.join(names) or 'another number of sources'})")
    if restored.facts["start"] != prepared.facts["start"]:
        changed.append(f"the weights of {prepared.given.model} are others")
    if changed:
        raise UsageError(
            f"this is not the run in {prepared.given.out}: {'; '.join(changed)}; resume it as it was begun "
            "(config.yaml), or give another folder as out"
        )


def _checks(prepared: Prepared, observers: Sequence[Observer], show: bool) -> Preflight:
    """What happens before the first step. Its notes go to the terminal: a line of a log would say the run has begun."""
    terminal = Terminal(prepared.config.steps or 0)

    def say(text: str) -> None:
        _tell([terminal, *observers], text)

    return Preflight(
        objective=prepared.objective, stream=prepared.stream, processor=prepared.start.processor,
        config=prepared.config, parallel=prepared.parallel, say=say, show=terminal.stream if show else None,
    )  # fmt: skip


def _refuse_another(state: RunState, resume: bool) -> None:
    if state.begun and not resume:
        raise UsageError(f"{state.out} holds a run already; resume it, or give another folder as out")


def _describe(prepared: Prepared) -> None:
    """What can be said before the first step."""
    out = prepared.given.out
    write_config(out / "config.yaml", prepared.given)
    (out / "trainable.txt").write_text(prepared.parts.table() + "\n", encoding="utf-8")
    write_data_report(out, prepared.examples.findings)


def _conclude(prepared: Prepared, summary: Summary) -> None:
    """What can be said after the last step."""
    out, told = prepared.given.out, asdict(summary)
    write_summary(out, told)
    figures = {name: told[name] for name in ("best", "last", "steps", "examples", "seconds", "skipped") if told[name]}
    sources = zip(prepared.given.data.train, prepared.facts["data"], strict=True)
    counts = {one.name or one.path: fact["rows"] for one, fact in sources if fact["rows"]}
    write_card(out, prepared.given, figures, counts=counts, trained=prepared.parts.table(every=False))


_NOT_BEGUN = Summary(steps=0, stopped="dry run", best=None, last={}, skipped=0, examples=0, tokens=0, seconds=0.0)


def _device(wanted: str | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return choose_device(wanted)


def _tell(observers: Sequence[Observer], *texts: str) -> None:
    for text in texts:
        for observer in observers:
            observer.on_note(text)
