"""Training rows: one JSON object a line, `{"image": "a.jpg", "prefix": "detect cat", "suffix": "<loc0102>... cat"}`.

In: a file, or a folder of `train.jsonl`, `_annotations.train.jsonl`, or `train/annotations.jsonl` (and valid, test).
Several pictures of one question are a list, under `image` or `images`. Pictures lie beside the file, or below `images/`
there. Exact both ways. Sources: big_vision's `forkme.py`, Roboflow's export, maestro's data set page.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from paligemma.data.example import Example
from paligemma.data.formats.reading import Entry, Reading, as_object, label_files
from paligemma.data.formats.strict import line_text, lines, parse_json
from paligemma.data.formats.writing import Writing, by_split
from paligemma.errors import InputError, UsageError
from paligemma.results.files import writing as whole_file

SUFFIXES = (".jsonl", ".ndjson")


def detect(path: Path) -> bool:
    """Whether there is a .jsonl whose first row has a prefix or suffix."""
    return not {"prefix", "suffix"}.isdisjoint(first_row(path) or ())


def first_row(path: Path) -> dict[str, Any] | None:
    """The first row of a .jsonl file, or of those in a folder; empty where it is none, None without such a file."""
    try:
        file = label_files(path, SUFFIXES)[0][1]
        if file.suffix.lower() not in SUFFIXES:
            return None
        row: Any = next((parse_json(line_text(line)) for _, line in lines(file)), {})
        return row if isinstance(row, dict) else {}
    except (InputError, OSError):
        return {} if path.suffix.lower() in SUFFIXES else None


def read(path: Path, reading: Reading) -> Iterator[Entry]:
    """The rows of each split, in the file's order."""
    for split, file in label_files(path, SUFFIXES):
        for number, line in lines(file):
            example = reading.attempt(f"{file}, line {number}", _row, reading, file, number, line)
            if example is not None:
                yield Entry(split, example)


def _row(reading: Reading, file: Path, number: int, line: bytes | None) -> Example:
    names, prefix, suffix = parse_row(parse_json(line_text(line)))
    pictures = tuple(reading.picture(name, file.parent, file.parent / "images") for name in names)
    return Example(id=f"{file.name}:{number}", images=pictures, prefix=prefix, suffix=suffix, source=file.stem)


def parse_row(value: Any) -> tuple[list[str], str, str]:
    """Picture names, prefix and suffix of a row.

    Raises:
        InputError: another key, a key too few, or something else than texts.
    """
    several = "images" if isinstance(value, dict) and "images" in value else "image"
    row = as_object(value, (several, "prefix", "suffix"))
    names = row[several] if isinstance(row[several], list) else [row[several]]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"found {several} {row[several]!r}, expected one file name or a list of them; mend the row")
    for key in ("prefix", "suffix"):
        if not isinstance(row[key], str):
            raise InputError(f"found {key} {row[key]!r}, expected a text; mend the row")
    return names, row["prefix"], row["suffix"]


def write(entries: Iterable[Entry], writing: Writing) -> None:
    """`train.jsonl`, `valid.jsonl`, `test.jsonl`.

    Raises:
        UsageError: an entry that is no training row, or pictures that are no files.
    """
    splits = by_split(entries)
    for split, rows in splits.items():
        with whole_file(writing.file(split, ".jsonl", len(splits))) as file:
            for entry in rows:
                file.write(json.dumps(row_of(entry, writing), ensure_ascii=False) + "\n")


def row_of(entry: Entry, writing: Writing) -> dict[str, Any]:
    """One row as plain data, its pictures named from the output's folder."""
    example = entry.item
    if not isinstance(example, Example):
        raise UsageError("found a labelled picture where a training row is expected; make rows of it (convert.to_rows)")
    names = []
    for picture in example.images:
        if not isinstance(picture, Path):
            raise UsageError(f"the picture of {example.id} is no file; save it first")
        names.append(writing.picture(picture))
    return {"image": names[0] if len(names) == 1 else names, "prefix": example.prefix, "suffix": example.suffix}
