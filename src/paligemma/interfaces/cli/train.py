"""`paligemma train`: fine-tune a model, run a stage of the published recipe, or go on with a run.

Options in, exit code out. The work is `train.run.train`'s; what the options mean is said in `train_options`.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import Flag, Json, at_least
from paligemma.interfaces.cli.train_options import (
    DataOptions,
    LearningOptions,
    ModelChoices,
    WatchingOptions,
    configuration,
    values_of,
)

if TYPE_CHECKING:
    from paligemma.train.config import TrainConfig
    from paligemma.train.records import Summary

_DATA, _MODEL, _LEARNING, _WATCHING = DataOptions(), ModelChoices(), LearningOptions(), WatchingOptions()


def train(
    *,
    out: Path | None = None,
    config: Path | None = None,
    stage: int | None = None,
    set: Annotated[list[str] | None, Parameter(negative=())] = None,
    resume: Flag = False,
    dry_run: Flag = False,
    overfit: int | None = None,
    device: str | None = None,
    quiet: Annotated[Flag, Parameter(alias="-q")] = False,
    json: Json = False,
    data: DataOptions = _DATA,
    model: ModelChoices = _MODEL,
    learning: LearningOptions = _LEARNING,
    watching: WatchingOptions = _WATCHING,
) -> int:
    """Fine-tune a model on your pictures, or run a stage of the published recipe.

    Every row of the data is looked at before the first step, and so is what the model makes of the first ones: see
    --dry-run. The run folder gets config.yaml, trainable.txt, examples.html, metrics.jsonl, curves.png, pictures of
    answers beside the truth in samples/, the weights in best/ and last/ (what `--model` and `--adapter` of other
    commands take), and MODEL_CARD.md. An interrupt saves first; --resume goes on.

    Args:
        out: folder of the run; runs/run unless the configuration says otherwise.
        config: .yaml, .toml or .json with any of the settings; options change single ones.
        stage: 1 or 2 of pre-training or 3, transfer, with the published settings as defaults.
        set: any setting as KEY=VALUE, such as optim.clip_norm=0.5; may be given several times.
        resume: go on with the run in --out, as it was begun.
        dry_run: show the first rows with every token's part, check them and the model, take two steps that are undone
            again, tell time and memory, and stop.
        overfit: before the run, learn one batch by heart in so many steps that are undone again; stop if that fails.
        device: cpu, cuda; default the best there is.
        quiet: nothing on stderr but notes.
        json: one JSON object on stdout at the end and nothing else there.
    """
    at_least("--overfit", overfit, 1)
    given = values_of(data, model, learning, watching)
    chosen = configuration(given, config=config, stage=stage, out=out, resume=resume, sets=set)
    from paligemma.train.process import Stopped
    from paligemma.train.run import train as run

    try:
        summary = run(chosen, resume=resume, device=device, quiet=quiet, dry_run=dry_run, overfit=overfit)
    except Stopped as stopped:
        console.error(f"{stopped}: paligemma train --resume --out {chosen.out}")
        return stopped.exit_status
    if dry_run and not json:
        console.say(f"nothing is wrong with the first rows; {chosen.out / 'examples.html'} shows them")
    elif json:
        console.print_json({"out": str(chosen.out), **asdict(summary)})
    else:
        console.say(_text(chosen, summary))
    return 0


def _text(config: "TrainConfig", summary: "Summary") -> str:
    """How it ended and where everything is."""
    lines = [f"{summary.steps} steps, {summary.examples:,} examples in {summary.seconds:.0f} s: {config.out}"]
    for name, figures in (("best", summary.best.figures if summary.best else {}), ("last", summary.last)):
        if figures:
            at = f" (step {summary.best.step})" if name == "best" and summary.best else ""
            lines.append(f"{name}{at}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    if summary.skipped:
        lines.append(f"{summary.skipped} steps were skipped, their batches are kept in {config.out / 'bad_steps'}")
    adapter = f"--model {config.model} --adapter" if config.lora is not None else "--model"
    kept = "best" if summary.best else "last"
    lines.append(f"use it: paligemma ask 'what is it?' PICTURE {adapter} {config.out / kept}")
    return "\n".join(lines)
