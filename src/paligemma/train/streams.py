"""A step's number -> this process's micro-batches, ahead of time, in worker processes.

    step -> positions [step * B, (step + 1) * B) -> every world-th of them -> examples -> rows -> by length -> batches

A stream is a pure function of the step: it is resumed at any step, and no worker, rank or restart changes what a step
holds. `Loader` keeps steps ready; a worker that dies or hangs is named with the step and the example it was at.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from paligemma.data.example import Example
from paligemma.data.mixture import Mixture
from paligemma.errors import InputError, PaliGemmaError, ResourceError, UsageError
from paligemma.images import open_image
from paligemma.processor import Batch, Encoded, Processor
from paligemma.train.objective import StepStream

AHEAD = 2  # steps each worker keeps ready
TIMEOUT_S = 600.0
_WORD = 200  # bytes of an example's id that a worker leaves for its obituary


class Examples(Protocol):
    """What a stream draws from: `data.mixture.Mixture`, or anything endless that answers by position."""

    fingerprint: str

    def __getitem__(self, position: int) -> Example: ...


@dataclass(frozen=True, kw_only=True)
class TrainingBatch(Batch):
    """A `Batch` that remembers whose rows it holds: `ids` and `sources`, one of each per row."""

    ids: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """The same batch on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class ExampleStream(StepStream):
    """Examples of a mixture as padded batches; see the module.

    Args:
        batch_size: examples of a step, over all processes.
        micro_batch: examples of a batch; default all that a process has.
        max_tokens: text tokens of a row (bos, prefix, newline, suffix, eos); longer is an error, nothing is cut.
    """

    def __init__(
        self, examples: Examples, processor: Processor, *,
        batch_size: int, micro_batch: int | None = None, max_tokens: int | None = None,
    ):  # fmt: skip
        self.examples, self.processor = examples, processor
        self.batch_size, self.micro_batch, self.max_tokens = batch_size, micro_batch, max_tokens
        self.fingerprint = examples.fingerprint

    def micro_batches(self, step: int, rank: int = 0, world: int = 1) -> list[TrainingBatch]:
        """This process's share of a step, rows of like length together; the order inside a step means nothing.

        Raises:
            InputError: an example cannot be used; says which. UsageError: the batch cannot be shared evenly.
        """
        if self.batch_size % world:
            raise UsageError(
                f"a batch of {self.batch_size} examples cannot be shared by {world} processes evenly; "
                f"take a batch_size that is a multiple of {world}"
            )
        first = step * self.batch_size
        rows = [self._row(position) for position in range(first + rank, first + self.batch_size, world)]
        rows.sort(key=lambda row: len(row[1].tokens))  # stable: equal lengths keep their order
        size = self.micro_batch or len(rows)
        return [self._collated(rows[start : start + size]) for start in range(0, len(rows), size)]

    def _row(self, position: int) -> tuple[Example, Encoded]:
        _last_words(self._whereabouts(position))
        example = self.examples[position]
        _last_words(f"example {example.id}")
        return example, encode(example, self.processor, self.max_tokens)

    def _whereabouts(self, position: int) -> str:
        """Where the example at a position comes from, without reading it."""
        if not isinstance(self.examples, Mixture):
            return f"position {position}"
        place = self.examples.place(position)
        return f"row {place.index} of {self.examples.sources[place.part].name}"

    def _collated(self, rows: Sequence[tuple[Example, Encoded]]) -> TrainingBatch:
        batch = self.processor.collate([row for _, row in rows], side="right")
        ids, sources = tuple(example.id for example, _ in rows), tuple(example.source for example, _ in rows)
        return TrainingBatch(**vars(batch), ids=ids, sources=sources)


def encode(example: Example, processor: Processor, max_tokens: int | None = None) -> Encoded:
    """The row of an example: pictures opened and upright, prefix, suffix, eos.

    Raises:
        InputError: a picture that cannot be read or a row that is too long; names the example.
    """
    limit = None if max_tokens is None else max_tokens + len(example.images) * processor.num_image_tokens
    try:
        pictures = [open_image(picture) for picture in example.images]
        return processor.encode(
            pictures, example.prefix, example.suffix,
            allow=example.allow, max_tokens=limit, text_only=not pictures,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{example.id}: {error}") from error


# --- ahead of time ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failed:
    """An error that a worker met, on its way to the process that can tell it."""

    error: PaliGemmaError


class _Steps:
    """The steps of a stream, as a data set for `DataLoader`."""

    def __init__(self, stream: StepStream, rank: int, world: int):
        self.stream, self.rank, self.world = stream, rank, world

    def __getitem__(self, step: int) -> Any:
        _last_words("its examples", step)
        try:
            return self.stream.micro_batches(step, self.rank, self.world)
        except PaliGemmaError as error:
            return _Failed(error)


class Loader:
    """The micro-batches of steps `start` to `stop`, in order, made ahead by `workers` processes (0: made when asked).

    Use it as a context: `with Loader(...) as loader: for batches in loader`. On leaving, the workers are gone.

    Args:
        timeout_s: how long one step may take a worker before it counts as hung; 0 waits for ever.
    """

    def __init__(
        self, stream: StepStream, *,
        start: int, stop: int, rank: int = 0, world: int = 1, workers: int = 1, timeout_s: float = TIMEOUT_S,
    ):  # fmt: skip
        self._start, self._stop, self._workers, self._timeout_s = start, stop, workers, timeout_s
        self._data = _Steps(stream, rank, world)
        self._notes = _Obituaries(workers) if workers else None
        self._steps: Iterator[Any] = iter(())
        self._wanted = start

    def __enter__(self) -> "Loader":
        if self._notes is None:
            self._steps = map(self._data.__getitem__, range(self._start, self._stop))
            return self
        loader: DataLoader[Any] = DataLoader(
            self._data,  # type: ignore[arg-type]  # a data set is what has __getitem__
            batch_size=None, sampler=range(self._start, self._stop), num_workers=self._workers,
            prefetch_factor=AHEAD, timeout=self._timeout_s, worker_init_fn=self._notes.begin,
        )  # fmt: skip
        self._steps = iter(loader)
        return self

    def __exit__(self, *_: object) -> None:
        if self._notes is not None:
            # What its destructor calls, too late where an error holds the iterator. It forgets the workers first, so
            # that torch does not take their end for a failure; those that hang do not listen to it.
            self._steps._shutdown_workers()  # type: ignore[attr-defined]
            self._notes.end()

    def __iter__(self) -> Iterator[list[Any]]:
        return self

    def __next__(self) -> list[Any]:
        with self.watched():
            found = next(self._steps)
        self._wanted += 1
        if isinstance(found, _Failed):
            raise found.error
        return found

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tells a worker's end in a sentence, wherever it is noticed: torch reports it by a signal, at any moment.

        Raises:
            ResourceError: a worker died or hung; names the step and the example.
        """
        try:
            yield
        except RuntimeError as error:
            if self._notes is None or "DataLoader" not in str(error):
                raise
            hung = "timed out" in str(error)
            step, word = self._notes.of(self._wanted, hung)
            what = f"did not answer for {self._timeout_s:g} s" if hung else "died"
            raise ResourceError(
                f"a data worker {what} at step {step} with {word} ({str(error).splitlines()[0][:120]}); "
                "look at that example, or give the run more memory or fewer workers"
            ) from error


class _Obituaries:
    """Memory that workers share with their parent: what each is working at, and its process id."""

    def __init__(self, workers: int):
        self.numbers = torch.zeros(workers, 2, dtype=torch.int64).share_memory_()  # process, step
        self.words = torch.zeros(workers, _WORD, dtype=torch.uint8).share_memory_()

    def begin(self, worker: int) -> None:
        """Runs in each worker first: signals are the parent's business, so that a step can be finished and saved."""
        global _mine
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _mine = (self.numbers[worker], self.words[worker])
        self.numbers[worker, 0] = os.getpid()

    def of(self, wanted: int, hung: bool) -> tuple[int, str]:
        """The step and the words of the worker that ended, or of the one that holds the wanted step."""
        alive = {child.pid for child in multiprocessing.active_children()}
        for (process, step), word in zip(self.numbers.tolist(), self.words, strict=True):
            if step == wanted if hung else process not in alive:
                return step, bytes(word.tolist()).rstrip(b"\0").decode("utf-8", "replace")
        return wanted, "an example that is not known"

    def end(self) -> None:
        """Ends workers that are still there: those that hang in an example do not hear of the end."""
        workers = self.numbers[:, 0].tolist()
        for child in multiprocessing.active_children():
            if child.pid in workers:
                child.kill()


_mine: tuple[Tensor, Tensor] | None = None  # of this process, where it is a worker


def _last_words(word: str, step: int | None = None) -> None:
    """Leaves what is being worked at where the parent finds it; nothing happens outside of workers."""
    if _mine is None:
        return
    numbers, words = _mine
    if step is not None:
        numbers[1] = step
    text = word.encode()[:_WORD].ljust(_WORD, b"\0")
    words.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
