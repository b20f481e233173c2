"""Tables of captions: CSV or TSV with a head, a row for each picture.

Columns: `image` (or file, file_name, filename, path), `caption` (or text, suffix, answer) and perhaps `prefix` (or
prompt, question); without one the prompt is `caption en`, or the one given with `--prefix`. Comma, semicolon or tab, as
the head says. Written with `image,prefix,suffix`; a text that a spreadsheet would take for a formula gets a `'` before
it, which is taken away again here. Exact both ways.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from paligemma.data.example import Example
from paligemma.data.formats.jsonl import row_of
from paligemma.data.formats.reading import Entry, Reading, label_files
from paligemma.data.formats.strict import MAX_LINE_BYTES, line_text, lines, read_text
from paligemma.data.formats.writing import Writing, by_split
from paligemma.errors import InputError, UsageError
from paligemma.results.files import writing as whole_file

SUFFIXES = (".csv", ".tsv")
PREFIX = "caption en"
COLUMNS = {
    "image": ("image", "file", "file_name", "filename", "path", "image_path"),
    "suffix": ("caption", "text", "suffix", "answer"),
    "prefix": ("prefix", "prompt", "question"),
}
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


def detect(path: Path) -> bool:
    """Whether there is a .csv or .tsv."""
    try:
        return label_files(path, SUFFIXES)[0][1].suffix.lower() in SUFFIXES
    except (InputError, OSError):
        return False


def read(path: Path, reading: Reading) -> Iterator[Entry]:
    """The rows of each split, in the file's order.

    Raises:
        InputError: a table without the columns, or that cannot be read.
    """
    for split, file in label_files(path, SUFFIXES):
        yield from (Entry(split, example) for example in _read_file(file, reading))


def _read_file(file: Path, reading: Reading) -> Iterator[Example]:
    head = next((line_text(line) for _, line in lines(file)), "")
    delimiter = max(",;\t", key=lambda mark: len(set(_columns(next(csv.reader([head], delimiter=mark), [])))))
    columns = _columns(next(csv.reader([head], delimiter=delimiter), []))
    if missing := [name for name in ("image", "suffix") if name not in columns]:
        wanted = " and ".join(f"one of {', '.join(COLUMNS[name])}" for name in missing)
        raise InputError(f"{file} has the columns {head[:120]!r}, expected {wanted}; rename a column")
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(io.StringIO(read_text(file), newline=""), delimiter=delimiter, strict=True)
    width = len(next(row for row in rows if row))
    while True:
        where = f"{file}, line {rows.line_num + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            reading.attempt(where, _refuse, f"no table row ({error}), expected quotes in pairs; mend the table")
            return
        if row is None:
            return
        if any(cell.strip() for cell in row):
            example = reading.attempt(where, _row, reading, file, rows.line_num, row, columns, width)
            if example is not None:
                yield example


def _refuse(why: str) -> None:
    raise InputError(why)


def _columns(head: list[str]) -> dict[str, int]:
    """What is in which column.

    Raises:
        InputError: two columns for one thing.
    """
    found: dict[str, int] = {}
    for number, cell in enumerate(head):
        known = next((name for name, words in COLUMNS.items() if cell.strip().lower() in words), None)
        if known in found:
            raise InputError(f"the columns {head[found[str(known)]]!r} and {cell!r} say the same; remove one")
        if known is not None:
            found[known] = number
    return found


def _row(reading: Reading, file: Path, number: int, row: list[str], columns: dict[str, int], width: int) -> Example:
    if len(row) != width:
        raise InputError(f"found {len(row)} cells, expected {width}; quote texts that hold the separator")
    cells = {name: _plain(row[column]) for name, column in columns.items()}
    prefix = cells.get("prefix") or reading.prefix or PREFIX
    picture = reading.picture(cells["image"], file.parent, file.parent / "images")
    return Example(
        id=f"{file.name}:{number}", images=(picture,), prefix=prefix, suffix=cells["suffix"], source=file.stem
    )


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _guarded(cell: str) -> str:
    return f"'{cell}" if _is_formula(cell) else cell


def _is_formula(cell: str) -> bool:
    return bool(_FORMULA.match(cell)) and not _NUMBER.fullmatch(cell)


def write(entries: Iterable[Entry], writing: Writing) -> None:
    """`train.csv`, `valid.csv`, `test.csv`, or .tsv where the output is called so.

    Raises:
        UsageError: rows of several pictures.
    """
    splits = by_split(entries)
    suffix = writing.out.suffix.lower() if writing.out.suffix.lower() in SUFFIXES else ".csv"
    for split, rows in splits.items():
        with whole_file(writing.file(split, suffix, len(splits)), newline="") as file:
            table = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",", lineterminator="\r\n")
            table.writerow(("image", "prefix", "suffix"))
            for entry in rows:
                table.writerow([_guarded(cell) for cell in _cells(row_of(entry, writing), entry.item)])


def _cells(row: dict[str, Any], item: Any) -> tuple[str, str, str]:
    if not isinstance(row["image"], str):
        raise UsageError(f"{item.id} has {len(row['image'])} pictures, a table has one a row; export jsonl instead")
    return row["image"], row["prefix"], row["suffix"]
