"""What the user names -> the inputs of a job, one by one, in an order that is always the same.

In: folders, globs, CSV and JSONL files of requests, pictures. Out: `Item`s, made while they are asked for. CSV and
JSONL are read line by line; of a folder the names in one directory are held, of a glob all that it matches. Not done
here: opening pictures.
"""

import csv
import glob
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from paligemma.config import did_you_mean
from paligemma.errors import InputError, PaliGemmaError
from paligemma.jobs.requests import KEYS, Defaults, Item, failed, item_of

PICTURES = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm".split())
LINES = (".jsonl", ".ndjson")
MAX_LINE_BYTES = 1 << 20  # of a JSONL line or CSV field: memory is bounded whatever the file holds


def expand(sources: Sequence[str], defaults: Defaults, recursive: bool = False) -> Iterator[Item]:
    """All inputs of all sources, numbered from 0; `recursive` takes the folders below a folder too.

    Raises:
        InputError: a source that is not there, holds no input, or is a CSV file without usable columns.
    """
    index = 0
    for source in sources:
        first = index
        try:
            for item in _of_source(source, index, defaults, recursive):
                yield item
                index += 1
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            if isinstance(error, PaliGemmaError):
                raise
            reason = getattr(error, "strerror", None) or "not a file name"
            raise InputError(
                f"{source} cannot be read ({reason}); name a folder, a glob in quotes, a .csv or a .jsonl"
            ) from error
        if index == first:
            raise InputError(f"{source} holds no {_expected(source)}; check the path")


def _of_source(source: str, index: int, defaults: Defaults, recursive: bool) -> Iterator[Item]:
    suffix = Path(source).suffix.lower()
    if os.path.isdir(source):
        return _numbered(_walk(source, recursive), index, defaults)
    if not os.path.lexists(source) and glob.has_magic(source):
        return _numbered(_matches(source), index, defaults)
    if suffix in (*LINES, ".csv"):
        file = open(source, "rb")  # noqa: SIM115  (closed by the generators)
        return (_csv if suffix == ".csv" else _jsonl)(file, source, index, defaults)
    if os.path.isfile(source) and suffix not in PICTURES:
        raise InputError(
            f"{source} is no folder, picture, .csv or .jsonl; rename it, or name the folder of the pictures"
        )
    os.stat(source)
    return _numbered(iter([source]), index, defaults)


def _expected(source: str) -> str:
    return (
        "request" if Path(source).suffix.lower() in (*LINES, ".csv") else "picture (" + " ".join(sorted(PICTURES)) + ")"
    )


# --- pictures --------------------------------------------------------------------------------------------------------


def _numbered(paths: Iterator[str], index: int, defaults: Defaults) -> Iterator[Item]:
    for i, path in enumerate(paths, start=index):
        yield item_of({"image": path}, i, "", defaults, path)


def _walk(folder: str, recursive: bool) -> Iterator[str]:
    """Pictures of a folder by name, then those of its folders; hidden ones and links to folders are left out."""
    directories: list[str] = []
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            elif _is_picture(entry.name):
                names.append(entry.name)
    for name in sorted(names):
        yield os.path.join(folder, name)
    for name in sorted(directories) if recursive else ():
        yield from _walk(os.path.join(folder, name), recursive)


def _matches(pattern: str) -> Iterator[str]:
    return (path for path in sorted(glob.glob(pattern, recursive=True)) if _is_picture(path))


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURES


# --- lines -----------------------------------------------------------------------------------------------------------


def _jsonl(file: BinaryIO, source: str, index: int, defaults: Defaults) -> Iterator[Item]:
    name, base = os.path.basename(source), os.path.dirname(source)
    with file:
        for number, line in _lines(file):
            if line is not None and not line.strip():
                continue
            where = f"line {number} of {name}"
            try:
                found = _parsed(line, where)
            except InputError as error:
                yield failed(index, where, error)
            else:
                yield item_of(found, index, base, defaults, where)
            index += 1


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, bytes) of each line; None for one that is longer than `MAX_LINE_BYTES`."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        too_long = len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")
        part = line
        while too_long and part and not part.endswith(b"\n"):
            part = file.readline(MAX_LINE_BYTES)
        yield number, None if too_long else line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"")


def _parsed(line: bytes | None, where: str) -> Any:
    """
    Raises:
        InputError: no JSON.
    """
    if line is None:
        raise InputError(f"{where} is longer than {MAX_LINE_BYTES} bytes; write one request per line")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8, or nested too deep"
        raise InputError(f'{where} is no JSON ({reason}); write {{"image": "a.jpg", "task": "caption"}}') from error


def _csv(file: BinaryIO, source: str, index: int, defaults: Defaults) -> Iterator[Item]:
    name, base = os.path.basename(source), os.path.dirname(source)
    with file:
        rows = csv.reader(_text(file), strict=True)
        header = _header(rows, name)
        while True:
            where = f"line {rows.line_num + 1} of {name}"
            try:
                row = next(rows, None)
                if row is None:
                    return
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(f"{where} has {len(row)} cells, expected {len(header)}; put text with , in quotes")
            except (csv.Error, InputError) as error:
                reason = error if isinstance(error, InputError) else InputError(f"{where} is no CSV ({error}); mend it")
                yield failed(index, where, reason)
            else:
                given = {key: cell for key, cell in zip(header, row, strict=True) if cell.strip()}
                yield item_of(given, index, base, defaults, where)
            index += 1


def _text(file: BinaryIO) -> Iterator[str]:
    """Lines of text for `csv`; what is no UTF-8, or too long, becomes a cell that no path and no word is."""
    for _, line in _lines(file):
        yield "\0" if line is None else line.decode("utf-8", "surrogateescape")


def _header(rows: Any, name: str) -> list[str]:
    """
    Raises:
        InputError: no column `image`, an unknown column, or one given twice.
    """
    try:
        header = [cell.strip() for cell in next(rows, [])]
    except csv.Error as error:
        raise InputError(f"the first line of {name} is no CSV ({error}); name the columns there: image,task") from error
    for column in header:
        if column not in KEYS:
            raise InputError(f"{name} has the unknown column {column!r}{did_you_mean(column, list(KEYS))}")
    if "image" not in header or len(set(header)) != len(header):
        raise InputError(f"{name} has the columns {', '.join(header)}; give each once, and one called image")
    return header
