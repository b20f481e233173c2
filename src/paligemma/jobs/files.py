"""The system calls with which a job changes its folder, all of them, so that tests can fail or stop at each one.

In and out: paths, descriptors, bytes. Not done here: what is written, and in which order (`folder.py`).
"""

import os
from pathlib import Path


class Files:
    """Thin names for what the operating system does; errors are its own `OSError`s."""

    def make_directory(self, path: Path) -> None:
        """One directory, readable by its owner only."""
        os.mkdir(path, 0o700)

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

    def sync_directory(self, path: Path) -> None:
        """Returns when the names in a directory are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)


def write_all(files: Files, descriptor: int, data: bytes) -> None:
    """Writes every byte at the descriptor's place, in as many calls as it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[files.write(descriptor, rest) :]
