"""`paligemma batch`: thousands of pictures into a folder of results that survives any stop.

Arguments in, exit code out. The work is `jobs.run_job`'s; here are options, the bar, signals and the last word.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from paligemma.errors import EXIT_NO_INPUT, EXIT_PARTIAL, UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import STDIN, AnswerOptions, BoxChoices, Flag, Json, ModelOptions, at_least
from paligemma.interfaces.cli.progress import Bar, duration

if TYPE_CHECKING:
    from paligemma.jobs import Progress, Settings, Summary, Worker

_ASKED = Group("What is asked", sort_key=1)
_CLUSTER = Group("Cluster", sort_key=6)
TELL_EVERY_S = 30.0  # a line on how far it is, where stderr is no terminal


@Parameter(name="*", group=_ASKED)
@dataclass(frozen=True, kw_only=True)
class AskedOptions:
    """What inputs are asked that do not say it themselves."""

    task: Literal["caption", "ask", "ocr", "detect", "segment", "generate"] | None = None
    """By default the one that the words below belong to."""
    objects: str | None = None
    """For detect and segment: "cat; dog"."""
    question: str | None = None
    """For ask."""
    prompt: str | None = None
    """For generate."""
    lang: str | None = None
    """For caption and ask: language code of the answer; en if not given."""
    style: Literal["caption", "cap", "describe"] | None = None
    """For caption."""

    def words(self) -> dict[str, str]:
        """The words by the names that lines of requests use."""
        given = {
            "objects": self.objects, "question": self.question, "prompt": self.prompt, "language": self.lang,
            "style": self.style,
        }  # fmt: skip
        return {name: word for name, word in given.items() if word is not None}


@Parameter(name="*", group=Group("Answer", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class JobAnswerOptions(AnswerOptions):
    """How answers are made and kept."""

    batch_size: int | None = None  # type: ignore[assignment]
    """Inputs run together; by default as the model and the memory allow."""

    def of_job(self) -> dict[str, object]:
        """The keywords of the verbs that differ from their defaults."""
        usual = AnswerOptions().of_api()
        return {name: value for name, value in self.of_api().items() if name not in usual or value != usual[name]}


@Parameter(name="*", group=_CLUSTER)
@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Where the work is done; the results are the same, byte for byte."""

    cluster: Flag = False
    """Share the work among processes with a model each, through Ray."""
    workers: int = 2
    """How many processes."""
    address: str | None = None
    """Of a running Ray cluster, such as auto or 10.0.0.5:6379; by default one is started here for this job."""

    def __post_init__(self) -> None:
        at_least("--workers", self.workers, 1)
        if not self.cluster and (self.address is not None or self.workers != 2):
            raise UsageError("--workers and --address belong to a cluster; give --cluster as well")


_MODEL, _ASK, _ANSWER = ModelOptions(), AskedOptions(), JobAnswerOptions()
_BOXES, _HERE = BoxChoices(), ClusterOptions()


def batch(
    sources: Annotated[list[str], Parameter(name="SOURCES", negative=())],
    /,
    *,
    out: Path,
    resume: Flag = False,
    recursive: Annotated[Flag, Parameter(alias="-r")] = False,
    quiet: Annotated[Flag, Parameter(alias="-q")] = False,
    json: Json = False,
    asked: AskedOptions = _ASK,
    model: ModelOptions = _MODEL,
    answer: JobAnswerOptions = _ANSWER,
    boxes: BoxChoices = _BOXES,
    where: ClusterOptions = _HERE,
) -> int:
    """Answer about thousands of pictures; a stop at any moment loses nothing.

    In the folder `--out`, results.jsonl gets one line per answered input, in input order, and errors.jsonl one per
    input that could not be answered. After a kill, a full disk or Ctrl+C the same command with `--resume` goes on, and
    the files come out byte for byte as without the stop. A line of a .jsonl or .csv file has an image and any of id,
    task, objects, question, prompt, language, style; what it lacks is taken from the options below.

    Args:
        sources: folders, globs in quotes, .jsonl or .csv files of requests, pictures.
        out: folder for the results; made where it is missing.
        resume: go on with the job in that folder; begins it where there is none.
        recursive: pictures in the folders below a folder too.
        quiet: nothing on stderr but errors.
        json: one JSON object about the finished job on stdout.
    """
    from paligemma.jobs import Settings

    model.in_one_process("write the files of a job")
    settings = Settings(
        sources=_paths(sources), recursive=recursive, task=asked.task, words=asked.words(),
        model=asdict(model), options={**answer.of_job(), **boxes.of_api()}, batch_size=answer.batch_size,
    )  # fmt: skip
    with console.quiet(quiet):
        try:
            with _stopped_by_signals():
                summary = _run(settings, out, resume, where, quiet)
        except Stopped as stop:
            console.error(f"{stop}; run the same command with --resume to go on")
            return stop.exit_status
        return _told(summary, json)


def _run(settings: "Settings", out: Path, resume: bool, where: ClusterOptions, quiet: bool) -> "Summary":
    from paligemma.jobs import Here, run_job

    def start() -> "Worker":
        if where.cluster:
            from paligemma.jobs.cluster import Cluster

            return Cluster(settings.model, workers=where.workers, address=where.address)
        from paligemma.jobs.model import load_model

        loaded = load_model(settings.model)
        for notice in loaded.model.notes:
            console.note(str(notice), "note")
        return Here(loaded)

    with Teller(shown=not quiet) as teller:
        try:
            return run_job(
                settings, out, start, resume=resume, progress=teller, note=lambda text: console.note(text, "note")
            )
        except Stopped as stop:
            stop.safe = teller.safe()
            raise


class Teller:
    """Tells how far a job is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, shown: bool):
        self.shown = shown
        self.last: Progress | None = None
        self._stack, self._bar = ExitStack(), Bar(None, shown=False)
        self._told = time.monotonic()

    def __enter__(self) -> "Teller":
        return self

    def __exit__(self, *what: object) -> None:
        self._stack.close()

    def __call__(self, progress: "Progress") -> None:
        before, self.last = self.last, progress
        if before is None:
            if progress.before:
                console.note(f"going on behind {progress.before} of {progress.total} inputs")
            self._bar = Bar(progress.total - progress.before, shown=self.shown and sys.stderr.isatty())
            self._stack.enter_context(self._bar)
            return
        self._bar.step(progress.done - before.done)
        if not self._bar.shown and progress.done < progress.total and time.monotonic() - self._told >= TELL_EVERY_S:
            self._told = time.monotonic()
            left = (progress.total - progress.done) / progress.per_second
            rate = f"{progress.per_second:.1f}/s, {duration(left)} left"
            console.note(f"{progress.done} of {progress.total} inputs, {progress.failed} failed, {rate}")

    def safe(self) -> str:
        """What is on the disk, in words."""
        return "nothing was begun" if self.last is None else f"{self.last.done} of {self.last.total} inputs are safe"


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM: ends the job where it is; what is committed stays."""

    def __init__(self, number: int):
        self.exit_status = 128 + number
        self.name = "interrupted" if number == signal.SIGINT else "terminated"
        self.safe = "nothing was begun"

    def __str__(self) -> str:
        return f"{self.name}; {self.safe}"


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise `Stopped` in here; the handlers that were there come back."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    kept = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _paths(sources: list[str]) -> tuple[str, ...]:
    if STDIN in sources:
        raise UsageError("a job cannot read stdin, which a resumed job could not read again; give a file or a folder")
    return tuple(os.path.expanduser(source) for source in sources)


def _told(summary: "Summary", json: bool) -> int:
    """The last word, and the exit code."""
    if json:
        console.print_json(asdict(summary))
    rate = f"; {summary.pictures_per_s:.1f}/s in {duration(summary.seconds)}" if summary.seconds >= 0.1 else ""
    console.note(f"answered {summary.answered} of {summary.inputs} inputs: {summary.results}{rate}")
    if not summary.failed:
        return 0
    console.note(f"{summary.failed} could not be answered: {summary.errors}")
    return EXIT_PARTIAL if summary.answered else EXIT_NO_INPUT
