"""The system calls with which jobs and training change a disk, all of them, so that tests can fail or stop at each one.

In and out: paths, descriptors, bytes. Not done here: what is written, and in which order (`jobs/folder.py`,
`train/saving/sets.py`, `train/saving/state.py`).
"""

import os
import time
from pathlib import Path

from paligemma.errors import UnavailableError, UsageError

ORPHANS_S = 20.0  # how long the children of a dead process may take to notice that it is dead


class Files:
    """Thin names for what the operating system does; errors are its own `OSError`s."""

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        """One directory, readable by its owner only unless `mode` says otherwise."""
        os.mkdir(path, mode)

    def open(self, path: Path) -> int:
        """A descriptor for reading and writing; the file is made, for its owner only, where it is missing."""
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Bytes written at the descriptor's place: perhaps fewer than given."""
        return os.write(descriptor, data)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Returns when the file's bytes are on the disk."""
        os.fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Renames in one step, over what is there."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """One file, or one empty directory."""
        os.rmdir(path) if path.is_dir() and not path.is_symlink() else os.unlink(path)

    def sync_directory(self, path: Path) -> None:
        """Returns when the names in a directory are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)


def write_all(files: Files, descriptor: int, data: bytes | memoryview) -> None:
    """Writes every byte at the descriptor's place, in as many calls as it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[files.write(descriptor, rest) :]


def lock(files: Files, descriptor: int, *, what: str, where: Path) -> None:
    """Takes an open file for this process alone, and writes the process's number into it; closing it lets go.

    Where the process that had it is dead, its children (loader workers) may have it for seconds more: they are waited
    for.

    Args:
        what, where: for the message: `job`, and the folder that is locked.

    Raises:
        UsageError: another process has it.
        UnavailableError: a system without such locks.
    """
    try:
        import fcntl
    except ImportError:
        raise UnavailableError(f"a {what} needs file locks as Linux and macOS have them; run it there") from None
    deadline = time.monotonic() + ORPHANS_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            if not _is_dead(owner) or time.monotonic() > deadline:
                raise UsageError(
                    f"another {what} (process {owner or 'unknown'}) is writing to {where}; "
                    "wait for it, or give another --out"
                ) from None
            time.sleep(0.05)
    files.truncate(descriptor, 0)
    write_all(files, descriptor, b"%d\n" % os.getpid())


def _is_dead(number: str) -> bool:
    """Whether no process of this machine has the number; what is no number may be anything."""
    if not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
