"""The folder of a run as something that survives: checkpoint sets, exports and logs, whatever stops the process.

    sets/step-00000500/   complete, verified sets (`sets.py`); what is being written has a name with a dot in front
    best/, last/          exports, written aside and renamed
    metrics.jsonl, timings.jsonl    cut back to the set a run goes on from
    run.lock              held by the process that trains

A set is written aside, every file synced, then renamed, then read back; only after that may older ones go. A set that
does not verify is moved aside and the one before it taken, loudly. Losing power between any two calls leaves either the
old state or the new one. Source of the order: Pillai et al., All File Systems Are Not Created Equal (OSDI'14).

In: named tensors and plain values. Out: the same after any stop. Not done here: which tensors (`snapshot.py`), when.
"""

import contextlib
import errno
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from paligemma.disk import Files, lock
from paligemma.errors import CheckpointError, ResourceError, UsageError
from paligemma.train.sets import Restored, check_set, read_set, write_set

SETS, LOCK, LOGS = "sets", "run.lock", ("metrics.jsonl", "timings.jsonl")
MIN_KEEP = 2  # the newest, and one to fall back on
FREE = frozenset("out keep save_every save_minutes track data.workers evaluate.pictures".split())  # change no number
NOISE = frozenset("threads parallel micro_batch checkpointing".split())  # change the order of sums, so the last digits
_SET = re.compile(r"step-(\d{8,})(?:-(\d+))?")
T = TypeVar("T")


class RunState:
    """One run's folder, locked while it is open: `with RunState(out) as state`. In the main process only.

    Args:
        out: made where it is missing.
        keep: how many sets stay, at least 2.
        device, world: where the run computes and in how many processes; written into each set.
        note: told, in a sentence, what was found damaged or tried again; default prints to stderr.

    Raises:
        UsageError: `keep` below 2.
    """

    def __init__(
        self,
        out: "str | Path",
        keep: int = MIN_KEEP,
        *,
        device: "str | torch.device" = "cpu",
        world: int = 1,
        files: Files | None = None,
        note: Callable[[str], None] | None = None,
    ):
        if keep < MIN_KEEP:
            raise UsageError(f"keep={keep} leaves no set to fall back on; give {MIN_KEEP} or more")
        self.out, self.keep = Path(out), keep
        self.device, self.world = torch.device(device), world
        self.files = files or Files()
        self.note = note or _say
        self.safe_step: int | None = None
        self._lock: int | None = None

    def __enter__(self) -> "RunState":
        """
        Raises:
            UsageError: another process trains here, or it is a file.
            ResourceError: the folder cannot be written.
        """
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {self.out} is a file; give a folder")
        try:
            with self._told("opened"):
                self._make(self.out / SETS)
                self._lock = self.files.open(self.out / LOCK)
                lock(self.files, self._lock, what="training run", where=self.out)
                self._sweep()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self.files.close(self._lock)
            self._lock = None

    @property
    def begun(self) -> bool:
        """Whether this folder holds a run already: a set, or a line of a log."""
        return bool(self._sets()) or any(_size(self.out / name) for name in LOGS)

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
        """Writes a set; when this returns it is on the disk, verified, and older ones beyond `keep` are gone.

        The logs must be flushed: their lengths are written down, and a resumed run cuts them back to that.

        Args:
            step: optimizer steps that are done.
            tensors: `KIND/NAME` on any device; each kind becomes a file.
            facts: JSON without NaN: counters, best figures, config and fingerprint of the data.

        Raises:
            ResourceError: the disk failed twice; the sets before are as they were.
        """

        def write() -> Path:
            logs = {name: self._sync_log(name) for name in LOGS if (self.out / name).exists()}
            draft, target = self._names(step)
            self._clear(draft)
            self.files.make_directory(draft)
            here = environment(self.device, self.world)
            write_set(self.files, draft, step=step, tensors=tensors, facts=facts, environment=here, logs=logs)
            self.files.replace(draft, target)
            try:
                self.files.sync_directory(target.parent)
                check_set(target)
            except (OSError, CheckpointError):
                self.files.replace(target, draft)  # whether it is on the disk is not known: it counts for nothing
                raise
            return target

        folder = self._twice(f"step {step} could not be saved", write)
        self.safe_step = step
        self._prune([*self._sets()[self.keep :], *(self.out / SETS).glob("damaged-*")])
        return folder

    def load_last(self) -> Restored | None:
        """The newest set that verifies, with the logs cut back to it; None (and empty logs) before the first set.

        Damaged sets are moved aside to `sets/damaged-...` and told to `note`.

        Raises:
            CheckpointError: there are sets, and none verifies.
            ResourceError: the folder cannot be written.
        """
        damaged: dict[Path, str] = {}
        for folder in self._sets():
            try:
                restored = read_set(folder)
            except CheckpointError as error:
                damaged[folder] = f"{folder.name}: {error}"
                continue
            with self._told("resumed"):
                for broken, told in damaged.items():
                    self._set_aside(broken)
                    self.note(f"DAMAGED SET {told}; moved aside, going on from step {restored.step} instead")
                self._cut_logs(restored.logs)
            self.safe_step = restored.step
            self._prune(self._sets()[self.keep :])
            return restored
        if damaged:
            raise CheckpointError(
                f"none of the {len(damaged)} sets in {self.out / SETS} can be used ({'; '.join(damaged.values())}); "
                "copy them back from elsewhere, or train anew with another --out"
            )
        with self._told("resumed"):
            self._cut_logs({})
        return None

    def export(self, name: str, write: Callable[[Path], object]) -> Path:
        """Replaces a folder of the run, such as `best`, as a whole: the old one stays until the new one is on the disk.

        Args:
            write: makes the folder it is given and fills it.

        Raises:
            ResourceError: the disk failed twice; the old folder is as it was.
        """
        draft, ready, target = self.out / f".{name}.new", self.out / f".{name}.ready", self.out / name

        def replace() -> Path:
            self._finish_exports()
            self._clear(draft)
            write(draft)
            self._sync_tree(draft)
            self.files.replace(draft, ready)
            self.files.sync_directory(self.out)
            self._finish_exports()
            return target

        return self._twice(f"{name} could not be written", replace)

    # --- inside ---

    def _sets(self) -> list[Path]:
        """Sets, newest first; a step that was saved again comes after its first time."""
        found = [(match, path) for path in (self.out / SETS).glob("step-*") if (match := _SET.fullmatch(path.name))]
        return [path for match, path in sorted(found, key=lambda pair: _order(pair[0]), reverse=True)]

    def _names(self, step: int) -> tuple[Path, Path]:
        """A hidden and a final name that are free; nothing is ever written over a set."""
        name, number = f"step-{step:08d}", 1
        while (self.out / SETS / name).exists():
            number += 1
            name = f"step-{step:08d}-{number}"
        return self.out / SETS / f".{name}", self.out / SETS / name

    def _prune(self, folders: list[Path]) -> None:
        """Removes sets nobody needs, now that the newest was verified. A failure costs room only, and is told."""
        for folder in folders:
            try:
                hidden = folder.with_name(f".{folder.name}.old")
                self.files.replace(folder, hidden)
                self._remove(hidden)
            except OSError as error:
                self.note(f"an older set could not be removed: {folder} ({error.strerror or error}); remove it by hand")

    def _set_aside(self, folder: Path) -> None:
        target = folder.with_name(f"damaged-{folder.name}")
        self._clear(target)
        self.files.replace(folder, target)
        self.files.sync_directory(folder.parent)

    def _finish_exports(self) -> None:
        """Puts folders that are complete in their place; also what a stop between the two renames left."""
        for ready in sorted(self.out.glob(".*.ready")):
            target = self.out / ready.name.removeprefix(".").removesuffix(".ready")
            old = self.out / f".{target.name}.old"
            if target.exists():
                self._clear(old)
                self.files.replace(target, old)
            self.files.replace(ready, target)
            self.files.sync_directory(self.out)
            self._clear(old)

    def _sweep(self) -> None:
        """Removes what was being written or removed when a process stopped; finishes what is complete."""
        self._finish_exports()
        for pattern in (f"{SETS}/.*", ".*.new", ".*.old"):
            for left in sorted(self.out.glob(pattern)):
                self._remove(left)

    def _clear(self, path: Path) -> None:
        if path.exists():
            self._remove(path)

    def _remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            for inner in sorted(path.iterdir()):
                self._remove(inner)
        self.files.remove(path)

    def _sync_tree(self, path: Path) -> None:
        for inner in sorted(path.iterdir()):
            if inner.is_dir():
                self._sync_tree(inner)
            else:
                self._sync_file(inner)
        self.files.sync_directory(path)

    def _sync_file(self, path: Path) -> None:
        descriptor = self.files.open(path)
        try:
            self.files.sync(descriptor)
        finally:
            self.files.close(descriptor)

    def _sync_log(self, name: str) -> int:
        self._sync_file(self.out / name)
        return _size(self.out / name)

    def _cut_logs(self, lengths: Mapping[str, int]) -> None:
        for name in LOGS:
            path, length = self.out / name, lengths.get(name, 0)
            if not path.exists() and not length:
                continue
            if _size(path) < length:
                self.note(f"{path} has {_size(path):,} bytes and had {length:,} at this set: lines of it are lost")
                continue
            descriptor = self.files.open(path)
            try:
                self.files.truncate(descriptor, length)
                self.files.sync(descriptor)
            finally:
                self.files.close(descriptor)

    def _make(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make(path.parent)
        with contextlib.suppress(FileExistsError):
            self.files.make_directory(path, 0o777)
        self.files.sync_directory(path.parent)

    def _twice(self, failed: str, work: Callable[[], T]) -> T:
        """`work`, and once more after an error of the disk; what it began is removed."""
        try:
            return work()
        except (OSError, CheckpointError, ResourceError) as error:
            self.note(f"{failed} ({_reason(error)}); trying once more")
            with contextlib.suppress(OSError):
                self._sweep()
        try:
            with self._told("written"):
                return work()
        except BaseException:
            with contextlib.suppress(OSError):
                self._sweep()
            raise

    @contextlib.contextmanager
    def _told(self, done: str) -> Iterator[None]:
        """Turns what the disk says into one sentence with the step that is safe."""
        try:
            yield
        except (OSError, CheckpointError) as error:
            safe = "nothing was saved yet" if self.safe_step is None else f"step {self.safe_step} is safe"
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = "free some space" if full else "mend the disk"
            raise ResourceError(
                f"{self.out} cannot be {done} ({_reason(error)}); {safe}: {advice} and run again with --resume"
            ) from error


def environment(device: "str | torch.device", world: int = 1) -> dict[str, Any]:
    """What besides settings and data decides the last bits of a run."""
    cuda = torch.device(device).type == "cuda"
    return {
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "processes": world,
    }


def check_resumable(restored: Restored, *, config: Mapping[str, Any], data: Any, environment: Mapping[str, Any]) -> str:
    """Whether a run may go on from a set whose facts hold its `config` and `data`.

    Args:
        config: settings of now, nested. data: the data's fingerprint, or one per source.

    Returns:
        a sentence about what may change the last digits; empty where the same bits are promised.

    Raises:
        UsageError: other settings or other data, with the differences.
    """
    settings = differences(restored.facts["config"], config)
    strict = [text for name, text in settings.items() if name not in FREE | NOISE]
    strict += differences({"data": restored.facts["data"]}, {"data": data}).values()
    if strict:
        raise UsageError(
            f"the run in {restored.folder.parents[1]} was begun with others than these: {'; '.join(strict)}; "
            "resume with the same, or train anew with another --out"
        )
    noise = [text for name, text in settings.items() if name in NOISE]
    noise += differences(restored.environment, environment).values()
    return f"{'; '.join(noise)}: the same bits as without a stop are not promised" if noise else ""


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """`optim.lr: "optim.lr was 0.001 and is 0.01"` for each value that differs, at any depth."""
    before, after = dict(_flat(was)), dict(_flat(now))
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in names
        if before.get(name) != after.get(name)
    }


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and (values or not name):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        for number, value in enumerate(values):
            yield from _flat(value, f"{name}[{number}]")
    else:
        yield name, list(values) if isinstance(values, tuple) else values


def _order(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1]), int(match[2] or 1)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
