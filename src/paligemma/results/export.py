"""Answers about many pictures into one file, and back from a batch job's `results.jsonl`.

    export.write_coco(export.read_jsonl("results.jsonl"), "coco.json")

Every writer takes any iterable, one answer at a time, and so needs no memory for a hundred thousand pictures. `FORMATS`
names them for command lines.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from paligemma.errors import InputError, UsageError
from paligemma.results.answer import Answer
from paligemma.results.boxes import Box
from paligemma.results.coco import to_coco, write_coco
from paligemma.results.detections import Detections
from paligemma.results.files import writing
from paligemma.results.labelstudio import labelling_config, write_labelstudio
from paligemma.results.mask import Mask
from paligemma.results.notice import Notice
from paligemma.results.tables import ANSWER_COLUMNS, OBJECT_COLUMNS, answer_row, object_rows, write_table
from paligemma.results.yolo import write_yolo


def write_csv(several: Iterable[Answer], path: str | Path) -> Path:
    """A row for each object of `Detections`, or for each answer in words; the columns are those of `tables`.

    Raises:
        UsageError: both kinds at once.
        ResourceError: the file cannot be written.
    """
    answers = iter(several)
    first = list(itertools.islice(answers, 1))
    objects = not first or isinstance(first[0], Detections)

    def rows() -> Iterator[tuple[Any, ...]]:
        for number, answer in enumerate(itertools.chain(first, answers), start=1):
            if isinstance(answer, Detections) != objects:
                raise UsageError("answers in words and detections have different columns; write them to two tables")
            if isinstance(answer, Detections):
                yield from object_rows(answer, number)
            else:
                yield answer_row(answer, number)

    return write_table(OBJECT_COLUMNS if objects else ANSWER_COLUMNS, rows(), path)


def write_jsonl(several: Iterable[Answer], path: str | Path, *, with_tokens: bool = False) -> Path:
    """One line of JSON for each answer; `read_jsonl` reads it.

    Raises:
        ResourceError: the file cannot be written.
    """
    with writing(path) as file:
        for answer in several:
            file.write(answer.to_json(with_tokens=with_tokens) + "\n")
    return Path(path)


def read_jsonl(path: str | Path) -> Iterator[Answer]:
    """The answers of a file of JSON lines, one at a time, without their pictures.

    Raises:
        InputError: a line that is none.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield from_dict(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise InputError(
                        f"line {number} of {path} is no answer of this package ({error}); give a results.jsonl"
                    ) from error


def from_dict(row: dict[str, Any]) -> Answer:
    """The answer behind `Answer.to_dict`, without its pictures; `Detections` where it has boxes.

    Raises:
        KeyError, TypeError, ValueError: not such data.
    """
    picture = row["images"][0] if row["images"] else None
    size = (int(picture["width"]), int(picture["height"])) if picture else None
    known: dict[str, Any] = {key: row[key] for key in ("model", "task", "prompt", "text", "raw", "finish_reason")}
    known.update(
        score=row.get("score"),
        image_size_px=size,
        warnings=tuple(Notice(**notice) for notice in row["warnings"]),
        timing=row.get("timing", {}),
        paths=tuple(image["path"] for image in row["images"]),
        tokens=None if row.get("tokens") is None else tuple(row["tokens"]),
        logprobs=None if row.get("logprobs") is None else tuple(row["logprobs"]),
    )
    if "boxes" not in row:
        return Answer(**known)
    return Detections(**known, boxes=tuple(_box(entry, size) for entry in row["boxes"]))


def _box(row: dict[str, Any], image_size_px: tuple[int, int] | None) -> Box:
    if image_size_px is None:
        raise ValueError("it has boxes but no picture size")
    x1, y1, x2, y2 = row["box_norm"]
    return Box(
        label=row["label"],
        box_yxyx_norm=(y1, x1, y2, x2),
        image_size_px=image_size_px,
        loc=tuple(row["loc"]) if "loc" in row else None,
        mask_codes=tuple(row["mask_codes"]) if "mask_codes" in row else None,
        score=row.get("score"),
        raw_score=row.get("raw_score"),
        mask_score=row.get("mask_score"),
        mask=Mask.from_rle(row["mask"]) if "mask" in row else None,
    )


# The name of a format -> its writer `(answers, path) -> path`; of `yolo` the path is a folder.
FORMATS: dict[str, Callable[..., Path]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "coco": write_coco,
    "yolo": write_yolo,
    "labelstudio": write_labelstudio,
}

__all__ = [
    "FORMATS",
    "from_dict",
    "labelling_config",
    "read_jsonl",
    "to_coco",
    "write_coco",
    "write_csv",
    "write_jsonl",
    "write_labelstudio",
    "write_yolo",
]
