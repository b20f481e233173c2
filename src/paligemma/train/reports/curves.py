"""`curves.png`: the run's losses, scores, learning rate and gradient norm over its steps.

In: `metrics.jsonl`. Out: one picture, drawn anew after each evaluation and at the end. matplotlib is needed for this
alone; without it the run goes on and says so once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paligemma.errors import UnavailableError
from paligemma.results.files import told
from paligemma.train.records import Observer, StepRecord, Summary
from paligemma.train.reports.report import read_log

NAME = "curves.png"
SMOOTHED = 40  # windows of the smooth line that a run is long
_PALE, _BOLD = 0.25, 1.0


class Curves(Observer):
    """Draws the curves when there is something new to see.

    Args:
        tell: told once if matplotlib is missing.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]):
        self.folder, self.tell = folder, tell
        self._missing, self._drawn = False, False

    def on_step(self, record: StepRecord) -> None:
        self._drawn = False

    def on_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        self._draw()

    def on_end(self, summary: Summary) -> None:
        self._draw()

    def _draw(self) -> None:
        if self._missing or self._drawn:
            return
        self._drawn = True
        try:
            draw_curves(self.folder)
        except UnavailableError as error:
            self._missing = True
            self.tell(str(error))


def draw_curves(folder: Path) -> Path:
    """Draws the run's `metrics.jsonl` into its `curves.png`.

    Raises:
        UnavailableError: matplotlib is not installed. ResourceError: the picture cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError(
            "matplotlib is not installed, expected it for curves.png; pip install 'paligemma[train]'"
        ) from error
    steps, evaluations = read_log(folder)
    losses = [name for name in (steps[0] if steps else {}) if name not in _NO_LOSSES]
    scores = sorted({name for row in evaluations for name, value in row["evaluation"].items() if is_score(name)})
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    scored = [{"step": row["step"], **row["evaluation"]} for row in evaluations]
    for name in losses:
        _line(axes[0, 0], steps, name, name, smooth=True)
    _line(axes[0, 0], scored, "loss", "validation loss")
    for name in scores:
        _line(axes[0, 1], scored, name, name)
    _line(axes[1, 0], steps, "lr", "")
    _line(axes[1, 1], steps, "grad_norm", "", smooth=True)
    for axis, title in zip(axes.flat, ("loss", "scores", "learning rate", "gradient norm"), strict=True):
        _finish(axis, title)
    axes[0, 1].set_ylim(-0.02, 1.02)
    path = folder / NAME
    with told(path):
        aside = path.with_name(f".{NAME}")
        figure.savefig(aside, dpi=110, format="png")
        aside.replace(path)
    return path


_NO_LOSSES = ("step", "lr", "grad_norm", "examples", "tokens", "skipped")


def is_score(name: str) -> bool:
    """Whether a figure is a share from 0 to 1; losses are not."""
    return "loss" not in name.rsplit("/", 1)[-1]


def _line(axis: Any, rows: list[dict[str, Any]], key: str, label: str, *, smooth: bool = False) -> None:
    """One line, its points shown where they are few; noisy ones pale, with their moving mean on top."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    if not points:
        return
    x, y = (np.array(column, np.float64) for column in zip(*points, strict=True))
    window = len(x) // SMOOTHED if smooth else 0
    marker = "o" if len(x) <= SMOOTHED else None
    (drawn,) = axis.plot(x, y, label=None if window > 1 else label, marker=marker, markersize=3,
                         alpha=_PALE if window > 1 else _BOLD, linewidth=1.2)  # fmt: skip
    if window > 1:
        mean = np.convolve(y, np.full(window, 1 / window), mode="valid")
        axis.plot(x[window // 2 :][: len(mean)], mean, label=label, color=drawn.get_color(), linewidth=1.6)


def _finish(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("step", fontsize=9)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if any(label for label in axis.get_legend_handles_labels()[1]):
        axis.legend(fontsize=8, frameon=False)
