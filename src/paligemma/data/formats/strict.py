"""Text and JSON out of files nobody has checked: bounded in memory, one meaning each, or one sentence why not.

In: files of any content. Out: text, lines, JSON values. Refused: what is no UTF-8, lines longer than `MAX_LINE_BYTES`,
keys that stand twice in one object, halves of characters, NaN and infinity, integers of more digits than any pixel or
id has, nesting without end. A byte order mark and CR LF are read over.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paligemma.errors import InputError

MAX_LINE_BYTES = 16 << 20
MAX_FILE_BYTES = 4 << 30  # of a file that is read as a whole; COCO's largest has 0.5 GB
MAX_DIGITS = 18
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # JSON's spelling of half a character


def read_bytes(file: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The whole of a regular file.

    Raises:
        InputError: missing, no regular file, larger than `limit` bytes, or unreadable.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}; check the path")
    try:
        size = file.stat().st_size
        if size > limit:
            raise InputError(f"{file} has {size:,} bytes, at most {limit:,} are read at once; split it")
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror or error}); check its permissions") from error


def text_of(data: bytes, where: str) -> str:
    """UTF-8 text without its byte order mark.

    Raises:
        InputError: no UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is no UTF-8 text (byte {error.start}); save it as UTF-8") from error


def read_text(file: Path, limit: int = MAX_FILE_BYTES) -> str:
    """The text of a file; raises as `read_bytes` and `text_of` do."""
    return text_of(read_bytes(file, limit), str(file))


def lines(file: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line without its end) of every line that is not empty; None for one that is too long.

    Memory is bounded whatever the file holds.

    Raises:
        InputError: the file cannot be read.
    """
    if not file.is_file():
        raise InputError(f"there is no file {file}; check the path")
    try:
        with open(file, "rb") as stream:
            number = 0
            while piece := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                line: bytes | None = piece
                while len(piece) > MAX_LINE_BYTES and not piece.endswith(b"\n"):
                    line, piece = None, stream.readline(MAX_LINE_BYTES + 1)
                if number == 1 and line is not None:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line is None or line.strip():
                    yield number, line if line is None else line.rstrip(b"\r\n")
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror or error}); check its permissions") from error


def line_text(line: bytes | None) -> str:
    """The text of a line.

    Raises:
        InputError: too long, or no UTF-8.
    """
    if line is None:
        raise InputError(
            f"the line is longer than {MAX_LINE_BYTES >> 20} MiB, expected one row; break the file into lines"
        )
    return text_of(line, "the line")


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: no JSON, or JSON that two readers could understand in two ways.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number, parse_int=_integer)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise InputError("half a character (a lone surrogate such as \\ud800), expected whole ones; mend it") from None
    except RecursionError:
        raise InputError("JSON nested too deep to be read; expected rows of plain values") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"no JSON ({error}); mend or remove it") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"the key {twice!r} stands twice in one object, expected once; remove one")
    return found


def _no_number(name: str) -> None:
    raise InputError(f"found {name}, which is no number of JSON, expected a finite one; mend it")


def _integer(digits: str) -> int:
    if (count := len(digits.lstrip("-"))) > MAX_DIGITS:
        raise InputError(f"found a number of {count} digits, expected at most {MAX_DIGITS}; mend it")
    return int(digits)
