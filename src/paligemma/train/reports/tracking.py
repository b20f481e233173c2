"""Trackers: the same figures as in `metrics.jsonl`, for the programs people look at them with.

TensorBoard writes files below the run folder. Weights & Biases writes there too and stays offline unless `WANDB_MODE`
says otherwise; trackio keeps its own data base on this machine unless `TRACKIO_SPACE_ID` is set. None of them is
needed; to add one, write a class and its line in `TRACKERS`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from paligemma.config import did_you_mean
from paligemma.errors import UnavailableError, UsageError
from paligemma.train.records import Observer, StepRecord
from paligemma.train.reports.report import finite

PROJECT = "paligemma"


class Writer(Protocol):
    """Takes numbers by name at a step."""

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Tensorboard:
    """Event files in `tensorboard/`; what a crash left there of steps that are taken again is hidden."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("tensorboard", "pip install 'paligemma[train]'") from error
        self._make: Any = lambda step: SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._writer: Any = None

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = self._make(step)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """A run of Weights & Biases, offline: `wandb sync` sends it later, if one wants."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise missing("wandb", "pip install wandb") from error
        mode = os.environ.get("WANDB_MODE") or "offline"
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=folder.name, dir=str(folder), config=dict(config), mode=mode,
        )  # fmt: skip

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, in its data base on this machine."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        try:
            import trackio
        except ImportError as error:
            raise missing("trackio", "pip install trackio") from error
        self._trackio: Any = trackio
        trackio.init(project=PROJECT, name=folder.name, config=dict(config), resume="allow")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._trackio.log(dict(figures), step=step)

    def close(self) -> None:
        self._trackio.finish()


TRACKERS: dict[str, type] = {"tensorboard": Tensorboard, "wandb": Wandb, "trackio": Trackio}


class Tracking(Observer):
    """Hands what the loop observes to trackers: `train/loss`, `train/lr`, ... and `evaluation/ap50`, ...

    Args:
        names: of `TRACKERS`.
        config: told to trackers that keep it.

    Raises:
        UsageError: an unknown name. UnavailableError: one that is not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path, config: Mapping[str, Any]):
        for name in names:
            if name not in TRACKERS:
                raise UsageError(f"unknown tracker {name!r}{did_you_mean(name, TRACKERS)}")
        self.writers: list[Writer] = [TRACKERS[name](folder, config) for name in dict.fromkeys(names)]

    def on_step(self, record: StepRecord) -> None:
        figures = {**record.losses, "lr": record.lr, "grad_norm": record.grad_norm}
        if record.seconds > 0:
            figures |= {"examples_per_second": record.examples / record.seconds}
            figures |= {"tokens_per_second": record.tokens / record.seconds}
        if record.memory_bytes:
            figures["memory_gb"] = record.memory_bytes / 1e9
        self._write(record.step, "train", figures)

    def on_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._write(step, "evaluation", figures)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def _write(self, step: int, head: str, figures: Mapping[str, float]) -> None:
        known = {f"{head}/{name}": value for name, value in finite(figures).items() if value is not None}
        for writer in self.writers:
            writer.write(step, known)


def missing(package: str, install: str) -> UnavailableError:
    return UnavailableError(f"{package} is not installed, expected it for tracking; {install}, or leave it out")
