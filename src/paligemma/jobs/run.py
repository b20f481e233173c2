"""The job itself: inputs in, a folder of results out, chunk by chunk, from the beginning or from where it was stopped.

In: `Settings`, a folder, and how to get a model. Out: files (`folder.py`) and a `Summary`. Not done here: printing,
signals, and what the model does. A chunk is a fixed number of neighbouring inputs; its lines are made by `chunk.py`,
here or on a cluster (`cluster.py`), and added in order.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from paligemma import __version__
from paligemma.disk import Files
from paligemma.errors import UsageError
from paligemma.jobs.chunk import Lines, Model, answer_chunk
from paligemma.jobs.folder import ERRORS, INPUTS, JOB, RESULTS, Folder
from paligemma.jobs.pictures import Opener
from paligemma.jobs.requests import Item
from paligemma.jobs.settings import CHUNK_BATCHES, Settings, check_same
from paligemma.jobs.sources import expand

FORMAT = 1  # of the folder


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is: inputs done and failed of `total`, `before` of them by an earlier run, after `seconds`."""

    done: int
    failed: int
    total: int
    before: int
    seconds: float

    @property
    def per_second(self) -> float:
        return (self.done - self.before) / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a finished job comes to; `seconds` of this run, after loading the model."""

    inputs: int
    answered: int
    failed: int
    resumed_at: int
    seconds: float
    pictures_per_s: float
    batch_size: int
    results: str
    errors: str


class Worker(Protocol):
    """Something that answers chunks: this process, or a cluster."""

    def describe(self) -> dict[str, Any]:
        """{"model": what it is, "environment": what its numbers depend on besides}; plain JSON."""
        ...

    def batch_size(self) -> int:
        """A batch size that suits the model and the memory."""
        ...

    def match(self, environment: dict[str, Any]) -> list[str]:
        """Makes this run compute as the job began, as far as possible; sentences about what still differs."""
        ...

    def chunks(self, plan: "Plan") -> Iterator[Lines]:
        """The lines of the chunks that are left, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a worker needs to know.

    Args:
        inputs: the list of inputs (`job.inputs`).
        first: place of the first input that is left; a multiple of `chunk_size` as long as inputs are left.
        options: keywords of the verbs, with a seed.
    """

    inputs: Path
    first: int
    total: int
    chunk_size: int
    batch_size: int
    options: dict[str, Any]


def run_job(
    settings: Settings,
    out: Path,
    start: Callable[[], Worker],
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda sentence: None,
    files: Files | None = None,
) -> Summary:
    """Runs a job to its end, or raises; what was finished by then is safe, and `resume` goes on from there.

    Args:
        start: loads the model; called once, after the inputs were looked at.
        resume: go on with the job in `out`; begins one where there is none yet.
        progress: called after each chunk. note: called with sentences the user should know.

    Raises:
        UsageError: a job is there already, another process works on it, or it began with other settings or inputs.
        InputError: a source is missing or empty. ResourceError: disk or memory.
    """
    with Folder(out, files) as folder:
        begun = folder.exists
        if begun:
            if not resume:
                raise UsageError(f"{out} already holds a job; --resume goes on with it, or give another --out")
            job = _checked(folder, settings)
            worker = start()
            for sentence in _compared(job, worker, out):
                note(sentence)
        else:
            count, digest = folder.keep_inputs(_input_lines(settings)())
            worker = start()
            job = _new_job(settings, worker, count, digest)
            folder.begin(job)
        total = job["inputs"]["count"]
        for sentence in folder.resume(total, job["batch_size"]):
            note(sentence)
        return _work(folder, job, worker, progress)


def _work(folder: Folder, job: dict[str, Any], worker: Worker, progress: Callable[[Progress], None]) -> Summary:
    """Answers what is left, adding chunk after chunk."""
    before, total, began = folder.state.inputs, job["inputs"]["count"], time.monotonic()
    plan = Plan(
        inputs=folder.path / INPUTS, first=before, total=total, chunk_size=job["chunk_size"],
        batch_size=folder.state.batch_size, options=job["options"],
    )  # fmt: skip

    def told() -> Progress:
        state = folder.state
        return Progress(
            done=state.inputs, failed=state.failed, total=total, before=before, seconds=time.monotonic() - began
        )

    progress(told())
    if before < total:
        for lines in worker.chunks(plan):
            folder.commit(
                inputs=lines.inputs, failed=lines.failed, results=lines.results, errors=lines.errors,
                batch_size=lines.batch_size,
            )  # fmt: skip
            progress(told())
    assert folder.state.inputs == total, "a worker left inputs out"
    end = told()
    return Summary(
        inputs=total, answered=total - end.failed, failed=end.failed, resumed_at=before, seconds=round(end.seconds, 3),
        pictures_per_s=round(end.per_second, 2), batch_size=folder.state.batch_size,
        results=str(folder.path / RESULTS), errors=str(folder.path / ERRORS),
    )  # fmt: skip


# --- beginning and going on ------------------------------------------------------------------------------------------


def _input_lines(settings: Settings) -> Callable[[], Iterator[bytes]]:
    return lambda: (item.to_line() for item in expand(settings.sources, settings.defaults, settings.recursive))


def _new_job(settings: Settings, worker: Worker, count: int, digest: str) -> dict[str, Any]:
    batch_size = settings.batch_size or worker.batch_size()
    options = dict(settings.options)
    if options.get("seed") is None:
        options["seed"] = secrets.randbits(31)
    return {
        "format": FORMAT, "paligemma": __version__, "settings": settings.to_json(), "batch_size": batch_size,
        "chunk_size": CHUNK_BATCHES * batch_size, "options": options,
        "inputs": {"count": count, "sha256": digest}, **worker.describe(),
    }  # fmt: skip


def _checked(folder: Folder, settings: Settings) -> dict[str, Any]:
    """What the job in a folder is, if it is the one asked for.

    Raises:
        UsageError: it is another one.
    """
    job = folder.read_job()
    if job.get("format") != FORMAT:
        raise UsageError(
            f"{folder.path / JOB} has format {job.get('format')!r}, this version writes {FORMAT}; finish it with "
            f"paligemma {job.get('paligemma')}, or give another --out"
        )
    check_same(job["settings"], settings, folder.path)
    difference = folder.check_inputs(_input_lines(settings), job["inputs"]["sha256"])
    if difference:
        raise UsageError(
            f"{_told(*difference)} since the job in {folder.path} began; put it back as it was, "
            "or begin another job with another --out"
        )
    return job


def _told(was: bytes, now: bytes) -> str:
    """What changed, by the first line that differs."""
    old, new = (Item.from_line(line) if line else None for line in (was, now))
    if old is None or new is None:
        gone = old or new
        return f"{gone.id!r} was {'removed' if old else 'added'}" if gone else "the list of inputs was changed"
    if old.image == new.image and old.id == new.id and old.stat != new.stat:
        return f"the picture {old.image} has changed"
    return f"input {old.index} was {old.id!r} and is {new.id!r}" if old.id != new.id else f"{old.id!r} has changed"


def _compared(job: dict[str, Any], worker: Worker, out: Path) -> list[str]:
    """Sentences about what the numbers depend on and is not as when the job began.

    Raises:
        UsageError: the model is another one.
    """
    model = worker.describe()["model"]
    if model != job["model"]:
        raise UsageError(
            f"the model {model['name']!r} has other weights or files than when the job in {out} began; use the same, "
            "or begin another job with another --out"
        )
    return worker.match(job["environment"])


# --- this process ----------------------------------------------------------------------------------------------------


def read_items(inputs: Path, first: int, offset: int = 0) -> Iterator[Item]:
    """The items of a list from place `first` on, read while they are asked for.

    `offset`: where to begin reading, the start of a line.
    """
    with open(inputs, "rb") as file:
        file.seek(offset)
        for line in file:
            item = Item.from_line(line)
            if item.index >= first:
                yield item


class Loaded(Protocol):
    """What `Here` needs of a model: `jobs.model.LoadedModel`, or a stand-in of the tests."""

    def describe(self) -> dict[str, Any]: ...
    def batch_size(self) -> int: ...
    def match(self, environment: dict[str, Any]) -> list[str]: ...
    def answerer(self, options: dict[str, Any]) -> Model: ...


class Here:
    """The worker that is this process: one model, and threads that open pictures ahead."""

    def __init__(self, loaded: Loaded):
        self.loaded = loaded
        self.describe, self.batch_size, self.match = loaded.describe, loaded.batch_size, loaded.match

    def chunks(self, plan: Plan) -> Iterator[Lines]:
        """The lines of the chunks that are left, in order."""
        model, batch_size = self.loaded.answerer(plan.options), plan.batch_size
        with Opener(read_items(plan.inputs, plan.first), ahead=plan.chunk_size) as opener:
            opened = iter(opener)
            for first in range(plan.first, plan.total, plan.chunk_size):
                lines = answer_chunk(model, islice(opened, min(plan.chunk_size, plan.total - first)), batch_size)
                batch_size = lines.batch_size
                yield lines
