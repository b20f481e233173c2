"""What one sees of a run: lines or a bar on stderr, and the two logs of its folder.

In: what the loop observes (`StepRecord`, figures of an evaluation, notes). Out: `metrics.jsonl`, which two runs of one
configuration write alike to the byte, and `timings.jsonl` with everything that depends on the machine and the moment.
Not done here: curves, trackers, the model card; and cutting the logs back on resume (`state`).
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from paligemma.results.files import told, writing
from paligemma.train.records import Observer, StepRecord

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"
REDRAW_S = 0.2


class Journal(Observer):
    """Appends a row per step to both logs, and each evaluation's figures to `metrics.jsonl`.

    Rows are flushed as they are written; what a crash leaves behind the last saved state is cut off on resume.

    Raises:
        ResourceError: a log cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_step(self, record: StepRecord) -> None:
        row: dict[str, Any] = {"step": record.step, **record.losses, "lr": record.lr, "grad_norm": record.grad_norm}
        row |= {"examples": record.examples, "tokens": record.tokens, "skipped": record.skipped}
        self._append(METRICS, row)
        timing = {"step": record.step, "seconds": round(record.seconds, 4), "memory_bytes": record.memory_bytes}
        self._append(TIMINGS, timing)

    def on_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._append(METRICS, {"step": step, "evaluation": dict(figures)})

    def on_note(self, text: str) -> None:
        self._append(TIMINGS, {"note": text})

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        path = self.folder / name
        with told(path), open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n")


class Terminal(Observer):
    """Tells how it goes: a bar where `stream` is a terminal, else a line every `every_s` seconds.

    Args:
        steps: of the whole run.
        quiet: tells notes only.
    """

    def __init__(self, steps: int, *, stream: TextIO | None = None, every_s: float = 10.0, quiet: bool = False):
        self.steps, self.every_s, self.quiet = steps, every_s, quiet
        self.stream = sys.stderr if stream is None else stream
        self._told_at = -math.inf
        self._since: list[StepRecord] = []  # since the last line
        self._bar = _Bar(self.stream, steps) if self.stream.isatty() and not quiet else None

    def on_step(self, record: StepRecord) -> None:
        self._since.append(record)
        now, last = time.monotonic(), record.step >= self.steps
        if now - self._told_at < (REDRAW_S if self._bar else self.every_s) and not last:
            return
        text = line(self._since, self.steps)
        if self._bar:
            self._bar.show(record.step, text)
        elif not self.quiet:
            self._print(text)
        self._told_at, self._since = now, []

    def on_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        if not self.quiet:
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self._print(f"evaluation at step {step}:  {numbers}")

    def on_note(self, text: str) -> None:
        self._print(text)

    def close(self) -> None:
        if self._bar:
            self._bar.close()

    def _print(self, text: str) -> None:
        if self._bar:
            self._bar.print(text)
        else:
            print(text, file=self.stream, flush=True)


class _Bar:
    """rich's progress bar with our numbers beside it; gone when closed."""

    def __init__(self, stream: TextIO, steps: int):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(file=stream)
        columns = (BarColumn(bar_width=20), TextColumn("{task.fields[told]}", markup=False))
        self._progress = Progress(*columns, console=self._console, transient=True, auto_refresh=False)
        self._task = self._progress.add_task("", total=steps, told="")

    def show(self, step: int, text: str) -> None:
        if not self._progress.live.is_started:
            self._progress.start()
        self._progress.update(self._task, completed=step, told=text)
        self._progress.refresh()

    def print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def line(records: list[StepRecord], steps: int) -> str:
    """`step 120/2000  loss 2.345  lr 1e-05  grad 0.83  312 examples/s  14,220 tokens/s  1.2 GB  0:03:05 left`.

    Losses and speeds are means over the records, the rest is the last one's.
    """
    last = records[-1]
    seconds = sum(record.seconds for record in records)
    words = [f"step {last.step}/{steps}"]
    for name in last.losses:
        values = [record.losses[name] for record in records if math.isfinite(record.losses.get(name, math.nan))]
        words.append(f"{name} {sum(values) / len(values):.4f}" if values else f"{name} not finite")
    words += [f"lr {last.lr:.3g}", f"grad {last.grad_norm:.3g}"]
    if seconds > 0:
        words.append(f"{_speed(sum(record.examples for record in records) / seconds)} examples/s")
        words.append(f"{_speed(sum(record.tokens for record in records) / seconds)} tokens/s")
    if last.memory_bytes:
        words.append(f"{last.memory_bytes / 1e9:.1f} GB")
    if last.eta_s is not None and math.isfinite(last.eta_s):
        words.append(f"{timedelta(seconds=round(last.eta_s))} left")
    if skipped := sum(bool(record.skipped) for record in records):
        words.append(f"{skipped} skipped")
    return "  ".join(words)


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def finite(value: Any) -> Any:
    """Plain data in which numbers that are not finite are None, which JSON can say."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `metrics.jsonl`: of steps, and of evaluations `{"step": ..., "evaluation": {...}}`.

    Of a step that was taken twice, after a crash, the later row counts; a last line that was cut is left out.
    """
    path = folder / METRICS
    steps: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(text)
        except ValueError:
            continue
        (evaluations if "evaluation" in row else steps)[row["step"]] = row
    return [steps[step] for step in sorted(steps)], [evaluations[step] for step in sorted(evaluations)]


def write_summary(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Writes `summary.json`: how the run ended and its figures.

    Raises:
        ResourceError: it cannot be written.
    """
    path = folder / "summary.json"
    with writing(path) as file:
        file.write(json.dumps(finite(summary), indent=2, ensure_ascii=False, default=str) + "\n")
    return path
