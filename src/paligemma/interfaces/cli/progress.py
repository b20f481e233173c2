"""A bar on stderr for work on several pictures: how many, how fast, how long still.

It shows only where stderr is a terminal, is gone when the work is done, and steps aside while anything is printed.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paligemma.interfaces.cli import console

REFRESH_S = 0.1


class Bar:
    """Counts what is done; draws nothing unless `shown`."""

    def __init__(self, total: int | None, shown: bool):
        self.total, self.done, self.shown = total, 0, shown
        self._began = self._drawn = time.monotonic()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> "Bar":
        self._began = self._drawn = time.monotonic()  # loading the model is none of the work
        if self.shown:
            self._progress = _rich_progress()
            self._task = self._progress.add_task("", total=self.total, told=self.told())
            self._progress.start()
            console.bar = self
        return self

    def __exit__(self, *what: object) -> None:
        if self._progress is not None:
            console.bar = None
            self._progress.stop()

    def step(self, done: int = 1) -> None:
        """Counts, and draws anew if some time has passed."""
        self.done += done
        if self._progress is None:
            return
        self._progress.update(self._task, completed=self.done, told=self.told())
        if time.monotonic() - self._drawn >= REFRESH_S:
            self._drawn = time.monotonic()
            self._progress.refresh()

    def set_total(self, total: int) -> None:
        """How much there is to do, where that is known only later."""
        self.total = total
        if self._progress is not None:
            self._progress.update(self._task, total=total)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Takes the bar off the screen while something is printed there."""
        if self._progress is None:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def told(self) -> str:
        """The numbers beside the bar: `12/100  3.1/s  28 s left`."""
        elapsed = time.monotonic() - self._began
        count = f"{self.done}/{self.total}" if self.total is not None else f"{self.done}"
        if not self.done or elapsed <= 0:
            return count
        rate = self.done / elapsed
        told = f"{count}  {rate:.1f}/s" if rate >= 1 else f"{count}  {1 / rate:.1f} s each"
        if self.total is None or self.total <= self.done:
            return told
        return f"{told}  {duration((self.total - self.done) / rate)} left"


def several_on_a_terminal(several: bool, quiet: bool) -> bool:
    """Whether a bar is of use."""
    return several and not quiet and sys.stderr.isatty()


def duration(seconds: float) -> str:
    """`28 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _rich_progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    screen = Console(stderr=True, no_color=not console.colours(sys.stderr))
    columns = (BarColumn(bar_width=30), TextColumn("{task.fields[told]}"))
    return Progress(
        *columns, console=screen, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    )
