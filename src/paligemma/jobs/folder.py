"""The folder of a job: what is in it, when it counts as written, and what is left of it after any kind of stop.

    job.json        what the job is; written last, so a folder without it holds no job yet
    job.inputs      all inputs, one line each, as they were when the job began
    results.jsonl   one line for each input that was answered, in input order
    errors.jsonl    one line for each input that was not
    job.commits     the commit log: one line for each chunk of inputs that is safely on the disk
    job.lock        held by the process that works on the job

A chunk counts once its results and errors are synced and then its line in the commit log is. That line has the sizes
and checksums of both files, and a checksum of its own; opening a folder keeps what the longest valid run of lines
vouches for and cuts the rest off. Source of the order: Pillai et al., All File Systems Are Not Created Equal (OSDI'14).

In: bytes to keep. Out: a folder that is consistent at every instant. Not done here: what the bytes mean.
"""

import contextlib
import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from paligemma.disk import Files, lock, write_all
from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.jobs.requests import json_line

JOB, INPUTS, RESULTS, ERRORS, COMMITS, LOCK = (
    "job.json", "job.inputs", "results.jsonl", "errors.jsonl", "job.commits", "job.lock",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What is safe after a chunk.

    Args:
        inputs, failed: how many are done, and how many of them failed.
        results, errors, commits: sizes of the three files in bytes.
        batch_size: with which the next chunk starts.
    """

    inputs: int = 0
    failed: int = 0
    results: int = 0
    errors: int = 0
    commits: int = 0
    batch_size: int = 0


class Folder:
    """One job's folder, locked as long as it is open.

    Raises (each method that writes):
        ResourceError: the disk is full or fails; says how many inputs are safe.
    """

    def __init__(self, path: Path, files: Files | None = None):
        self.path = path
        self.files = files or Files()
        self.total: int | None = None
        self.state = Commit()
        self._open: dict[str, int] = {}

    def __enter__(self) -> "Folder":
        """
        Raises:
            UsageError: another process works here, or it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"--out {self.path} is a file; give a folder")
        try:
            with self._writing(LOCK):
                self._make(self.path)
                self._open[LOCK] = self.files.open(self.path / LOCK)
                lock(self.files, self._open[LOCK], what="job", where=self.path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, error: type[BaseException] | None = None, *_: object) -> None:
        """Lets the folder go; after an error cuts off what was not committed, as far as that still works."""
        with contextlib.suppress(OSError):
            if error is not None and COMMITS in self._open:
                self._cut()
        for descriptor in self._open.values():
            with contextlib.suppress(OSError):
                self.files.close(descriptor)
        self._open = {}

    @property
    def exists(self) -> bool:
        """Whether a job was begun here."""
        return (self.path / JOB).exists()

    def read_job(self) -> dict[str, Any]:
        """What `begin` wrote.

        Raises:
            InputError: damaged.
        """
        try:
            return dict(json.loads((self.path / JOB).read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.path / JOB} is damaged; start the job again with another --out") from error

    def keep_inputs(self, lines: Iterable[bytes]) -> tuple[int, str]:
        """Writes the list of inputs; returns how many there are and the sha256 of the list.

        Raises:
            UsageError: there are results here, of something else.
        """
        for name in (RESULTS, ERRORS, COMMITS):
            if (self.path / name).exists():
                raise UsageError(f"{self.path} holds {name} but no {JOB}; move it away, or give another --out")
        counted = _Counted(lines)
        self._replace(INPUTS, _gathered(counted))
        return counted.count, counted.digest.hexdigest()

    def check_inputs(self, lines: Callable[[], Iterable[bytes]], sha256: str) -> tuple[bytes, bytes] | None:
        """Compares the inputs of now with those of the job; the list on the disk is mended where it was damaged.

        Args:
            lines: makes the list of now, anew at each call.

        Returns:
            the first line that differs, as it was and as it is (empty where there is none); None when all are the same.
        """
        counted, first = _Counted(lines()), None
        try:
            with open(self.path / INPUTS, "rb") as stored:
                for was, now in zip_longest(stored, counted, fillvalue=b""):
                    first = first or ((was, now) if was != now else None)
        except FileNotFoundError:
            first = (b"", b"")
            for _ in counted:
                pass
        if counted.digest.hexdigest() != sha256:
            return first or (b"", b"")
        if first:
            self._replace(INPUTS, _gathered(lines()))
        return None

    def begin(self, job: dict[str, Any]) -> None:
        """Writes down what the job is: from here on it exists."""
        self._replace(JOB, [json.dumps(job, ensure_ascii=True, allow_nan=False, indent=1).encode() + b"\n"])

    def resume(self, total: int, batch_size: int) -> list[str]:
        """Opens the files of a job that exists and goes back to the last commit that holds; `state` tells which.

        Args:
            total: number of inputs, for messages.
            batch_size: of a job without a commit.

        Returns:
            what was found to be damaged, and is done again, in sentences.
        """
        self.total = total
        with self._writing(self.path):
            for name in (RESULTS, ERRORS, COMMITS):
                self._open[name] = self.files.open(self.path / name)
            self.files.sync_directory(self.path)
            self.state, damage = self._committed(batch_size)
            self._cut()
            for name in (RESULTS, ERRORS, COMMITS):
                self.files.sync(self._open[name])
        return damage

    def commit(self, *, inputs: int, failed: int, results: bytes, errors: bytes, batch_size: int) -> None:
        """Adds one chunk: `inputs` of them, of which `failed` failed. When this returns, they are safe."""
        before = self.state
        after = replace(
            before, inputs=before.inputs + inputs, failed=before.failed + failed,
            results=before.results + len(results), errors=before.errors + len(errors), batch_size=batch_size,
        )  # fmt: skip
        line = _line(after, results, errors)
        for name, data in ((RESULTS, results), (ERRORS, errors), (COMMITS, line)):
            if data:
                with self._writing(name):
                    write_all(self.files, self._open[name], data)
                    self.files.sync(self._open[name])
        self.state = replace(after, commits=before.commits + len(line))

    # --- inside ---

    def _committed(self, batch_size: int) -> tuple[Commit, list[str]]:
        """The last commit up to which every line and every byte it vouches for is as it was written."""
        state = Commit(batch_size=batch_size)
        names = (COMMITS, RESULTS, ERRORS)
        with contextlib.ExitStack() as stack:
            log, results, errors = (stack.enter_context(open(self.path / name, "rb")) for name in names)
            for line in log:
                found = _read_line(line, state)
                if found is None:
                    break
                after, sums = found
                parts = ((results, after.results - state.results), (errors, after.errors - state.errors))
                for name, total, (file, size) in zip(names[1:], sums, parts, strict=True):
                    if _sha256(file, size) != total:
                        return state, [
                            f"{self.path / name} was changed behind record {state.inputs}; what follows is done again"
                        ]
                state = after
        return state, []

    def _cut(self) -> None:
        """Brings the three files to the sizes of the last commit, and their descriptors to their ends."""
        for name, size in ((COMMITS, self.state.commits), (RESULTS, self.state.results), (ERRORS, self.state.errors)):
            self.files.truncate(self._open[name], size)
            os.lseek(self._open[name], size, os.SEEK_SET)

    def _make(self, path: Path) -> None:
        """The directory, and those above it that are missing."""
        if path.is_dir():
            return
        self._make(path.parent)
        with contextlib.suppress(FileExistsError):
            self.files.make_directory(path)
        self.files.sync_directory(path.parent)

    def _replace(self, name: str, parts: Iterable[bytes]) -> None:
        """Writes a whole file: under another name, synced, renamed, and the directory synced."""
        draft = self.path / f"{name}.new"
        with self._writing(name):
            descriptor = self.files.open(draft)
            try:
                self.files.truncate(descriptor, 0)
                for part in parts:
                    write_all(self.files, descriptor, part)
                self.files.sync(descriptor)
            finally:
                self.files.close(descriptor)
            self.files.replace(draft, self.path / name)
            self.files.sync_directory(self.path)

    @contextlib.contextmanager
    def _writing(self, what: str | Path) -> Iterator[None]:
        """Turns what the disk says into a sentence with the number of safe inputs."""
        try:
            yield
        except OSError as error:
            if self.total is None:
                safe = "nothing was begun"
            else:
                safe = f"{self.state.inputs} of {self.total} inputs are safe"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                found = f"no space left on the disk of {self.path}; {safe}: free some"
            else:
                found = f"cannot write {self.path / what} ({error.strerror or error}); {safe}: mend it"
            raise ResourceError(f"{found} and run again with --resume") from error


class _Counted:
    """Hands lines on, counting them and their checksum."""

    def __init__(self, lines: Iterable[bytes]):
        self.lines = lines
        self.count = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for line in self.lines:
            self.count += 1
            self.digest.update(line)
            yield line


def _gathered(lines: Iterable[bytes], size: int = 1 << 16) -> Iterator[bytes]:
    """The same bytes in larger parts."""
    held = bytearray()
    for line in lines:
        held += line
        if len(held) >= size:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _line(state: Commit, results: bytes, errors: bytes) -> bytes:
    """One line of the commit log: a checksum, and what it is about."""
    row = asdict(state)
    del row["commits"]  # its own place
    sums = [hashlib.sha256(data).hexdigest() for data in (results, errors)]
    body = json_line({**row, "sha256": sums})
    return b"%08x %s" % (zlib.crc32(body), body)


def _read_line(line: bytes, before: Commit) -> tuple[Commit, list[str]] | None:
    """The commit and the two checksums of one line; None where it is torn, damaged or goes backwards."""
    body = line[9:]
    if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(body):
        return None
    row = json.loads(body)
    sums = row.pop("sha256")
    after = Commit(**row, commits=before.commits + len(line))
    grows = after.inputs > before.inputs and after.results >= before.results and after.errors >= before.errors
    return (after, sums) if grows else None


def _sha256(file: BinaryIO, size: int, step: int = 1 << 20) -> str:
    """Of the next `size` bytes, or as many as there are."""
    digest = hashlib.sha256()
    while size > 0 and (part := file.read(min(step, size))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()
