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
from paligemma.train.process import environment
from paligemma.train.saving.sets import Restored, check_set, read_set, write_set

SETS, LOCK, LOGS = "sets", "run.lock", ("metrics.jsonl", "timings.jsonl")
MIN_KEEP = 2  # the newest, and one to fall back on
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
            write_set(self.files, draft, step=step, tensors=tensors, facts=facts, environment=self._here(), logs=logs)
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

        Damaged sets are moved aside to `sets/damaged-...`. That, and what may change the last bits, is told to `note`.

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
                for broken in damaged:
                    self._set_aside(broken)
                self._cut_logs(restored.logs)
            for told in damaged.values():
                self.note(f"DAMAGED SET {told}; moved aside, going on from step {restored.step} instead")
            self.safe_step = restored.step
            self._prune(self._sets()[self.keep :])
            self._compare(restored.environment)
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

    def _here(self) -> dict[str, str]:
        """What besides settings and data decides the last bits."""
        return {**environment(self.device), "processes": str(self.world)}

    def _compare(self, was: Mapping[str, Any]) -> None:
        now = self._here()
        found = [f"{name} was {was.get(name)} and is {now[name]}" for name in now if was.get(name) != now[name]]
        if found:
            self.note(f"{'; '.join(found)}: the same bits as in a run without a stop are not promised")

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


def _order(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1]), int(match[2] or 1)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
