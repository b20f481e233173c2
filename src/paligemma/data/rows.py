"""A JSONL file of any size -> its rows by number, with only their places in memory.

In: a file. Out: one mapping per row, read from the disk when it is asked for: 8 bytes per row are held. Blank lines do
not count. Not done here: what a row means (`listed`), which JSON is accepted (`formats.strict`).
"""

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from paligemma.data.formats import strict
from paligemma.errors import InputError

_BOM = b"\xef\xbb\xbf"


class JsonLines:
    """The objects of a JSONL file by number.

    Attributes:
        fingerprint: sha256 of the file.

    Raises:
        InputError: no such file, or one without rows.
    """

    def __init__(self, file: Path):
        self.file = file
        self._starts = array("Q")
        self._blanks: list[int] = []  # how many rows come before each blank line
        digest = hashlib.sha256()
        with _opened(file) as stream:
            for start, head in _pieces(stream, digest):
                if head.removeprefix(_BOM if start == 0 else b"").strip():
                    self._starts.append(start)
                else:
                    self._blanks.append(len(self._starts))
        self.fingerprint = digest.hexdigest()
        if not self._starts:
            raise InputError(f"{file} has no rows, expected one JSON object per line; check the file")

    def __len__(self) -> int:
        return len(self._starts)

    def where(self, index: int) -> str:
        """File and line number of a row, for messages."""
        return f"{self.file.name}:{index + 1 + bisect_right(self._blanks, index)}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Raises:
            InputError: the line is too long, no UTF-8, no JSON, or no object.
        """
        with _opened(self.file) as stream:
            stream.seek(self._starts[index])
            line = stream.readline(strict.MAX_LINE_BYTES + 1)
        whole = None if len(line) > strict.MAX_LINE_BYTES else line.rstrip(b"\r\n")
        row = strict.parse_json(strict.line_text(whole))
        if not isinstance(row, dict):
            raise InputError(f"found {str(row)[:60]!r}, expected an object with image and suffix; mend the line")
        return row


def _pieces(stream: BinaryIO, digest: Any) -> Iterator[tuple[int, bytes]]:
    """(where it begins, its first bytes) of every line; a line of any length costs bounded memory."""
    start = 0
    while line := stream.readline(strict.MAX_LINE_BYTES):
        length = len(line)
        digest.update(line)
        head = line
        while not line.endswith(b"\n") and (line := stream.readline(strict.MAX_LINE_BYTES)):
            digest.update(line)
            length += len(line)
        yield start, head
        start += length


def _opened(file: Path) -> BinaryIO:
    if not file.is_file():
        raise InputError(f"there is no file {file}; check the path")
    try:
        return open(file, "rb")
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror or error}); check its permissions") from error
