"""Our own labelled pictures: one JSON object a line, `{"image": "a.jpg", "boxes": [...]}`.

An object is `{"label": "cat", "box": [left, top, right, bottom]}` in pixels, and may have `polygons` (lists of x, y),
or a `mask` (COCO's run lengths), and `"crowd": true`. A picture where nothing is to be found has no boxes. Exact both
ways.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from paligemma.data.formats.jsonl import SUFFIXES, first_row
from paligemma.data.formats.reading import Entry, Reading, as_object, as_polygons, as_runs, label_files
from paligemma.data.formats.strict import line_text, lines, parse_json
from paligemma.data.formats.writing import Writing, by_split, labelled
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import InputError
from paligemma.results.files import writing as whole_file


def detect(path: Path) -> bool:
    """Whether there is a .jsonl that is not `jsonl`'s."""
    row = first_row(path)
    return row is not None and {"prefix", "suffix"}.isdisjoint(row)


def read(path: Path, reading: Reading) -> Iterator[Entry]:
    """The pictures of each split, in the file's order."""
    for split, file in label_files(path, SUFFIXES):
        for number, line in lines(file):
            picture = reading.attempt(f"{file}, line {number}", _row, reading, file, line)
            if picture is not None:
                yield Entry(split, picture)


def _row(reading: Reading, file: Path, line: bytes | None) -> LabelledImage:
    row = as_object(parse_json(line_text(line)), ("image", "boxes"))
    if not isinstance(row["image"], str) or not isinstance(row["boxes"], list):
        raise InputError("expected a file name under 'image' and a list under 'boxes'; mend the line")
    path = reading.picture(row["image"], file.parent, file.parent / "images")
    size = reading.size(path)
    boxes = []
    for number, box in enumerate(row["boxes"], 1):
        try:
            boxes.append(_box(reading, box, size))
        except InputError as error:
            raise InputError(f"box {number}: {error}") from error
    return LabelledImage(path=path, boxes=tuple(boxes), size_px=size)


def _box(reading: Reading, value: Any, size: tuple[int, int]) -> TrueBox:
    row = as_object(value, ("label", "box"), ("polygons", "mask", "crowd"))
    if not isinstance(row["box"], list):
        raise InputError(f"found the box {row['box']!r}, expected four numbers in pixels; mend it")
    if "polygons" in row and "mask" in row:
        raise InputError("it has polygons and a mask, expected one of them; remove one")
    if not isinstance(row.get("crowd", False), bool):
        raise InputError(f"found crowd {row['crowd']!r}, expected true or false; mend it")
    return reading.box(
        row["label"], row["box"], size,
        polygons=as_polygons(row["polygons"]) if "polygons" in row else None,
        runs=as_runs(row["mask"], size) if "mask" in row else None,
        crowd=row.get("crowd", False),
    )  # fmt: skip


def write(entries: Iterable[Entry], writing: Writing) -> None:
    """`train.jsonl`, `valid.jsonl`, `test.jsonl`."""
    splits = by_split(entries)
    for split, pictures in splits.items():
        with whole_file(writing.file(split, ".jsonl", len(splits))) as file:
            for entry in pictures:
                picture = labelled(entry, crowds=True)
                boxes = [_plain(box, picture.size_px) for box in picture.boxes]
                row = {"image": writing.picture(picture.path), "boxes": boxes}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _plain(box: TrueBox, size_px: tuple[int, int]) -> dict[str, Any]:
    row: dict[str, Any] = {"label": box.label, "box": list(box.xyxy)}
    if box.polygons is not None:
        row["polygons"] = [list(ring) for ring in box.polygons]
    if box.runs is not None:
        row["mask"] = {"size": [size_px[1], size_px[0]], "counts": box.runs}
    if box.crowd:
        row["crowd"] = True
    return row
