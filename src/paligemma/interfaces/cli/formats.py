"""How answers are written, to stdout or a file: for people, or for another program.

Comes in: outcomes one after the other. Goes out: text. Tables, JSON lines and CSV are written as each answer comes, one
JSON object grows as it is written; only coco and yolo wait, on disk. What a file means is `results`' to say.
"""

import csv
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from paligemma.errors import InputError, UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.report import describe
from paligemma.interfaces.cli.sources import Item

if TYPE_CHECKING:
    from paligemma.results import Answer, Box, Detections

BOXES_ONLY = ("coco", "yolo", "labelstudio")
TASKS_WITH_BOXES = ("detect", "segment")


@dataclass(frozen=True)
class Outcome:
    """What came of one example: an answer or an error; `printed` where it stands on the terminal already."""

    item: Item
    found: "Answer | None" = None
    error: InputError | None = None
    printed: bool = False


class Outcomes(Protocol):
    """Outcomes one after the other, and how it ended."""

    several: bool
    task: str
    failed: int
    stopped: BaseException | None

    def __iter__(self) -> Iterator[Outcome]: ...


@dataclass(frozen=True)
class Target:
    """Where answers go: stdout, or the file `out`, which takes its place when it is whole."""

    out: str | None = None

    @contextmanager
    def open(self) -> Iterator[TextIO]:
        if self.out is None:
            yield sys.stdout
            return
        from paligemma.results.files import folder, writing

        folder(Path(self.out).parent)
        with writing(self.out) as file:
            yield file  # type: ignore[misc]


def check(kind: str, task: str, out: str | None) -> None:
    """
    Raises:
        UsageError: a format that this task or this target cannot have.
    """
    if kind in BOXES_ONLY and task not in TASKS_WITH_BOXES:
        raise UsageError(f"--format {kind} is for boxes, and {task} answers in words; give json, jsonl or csv")
    if out is not None and kind != "yolo" and (not out or out.endswith(("/", "\\")) or Path(out).is_dir()):
        raise UsageError(f"--out {out or '(empty)'} is no file name; give one, such as answers.{kind}")


# --- for people ------------------------------------------------------------------------------------------------------


def write_table(outcomes: Outcomes, target: Target) -> bool:
    """Texts as they are, boxes as a table; after the name of the picture among several."""
    return _write_texts(outcomes, target, text_of)


def write_raw(outcomes: Outcomes, target: Target) -> bool:
    """Exactly what the model wrote."""
    return _write_texts(outcomes, target, lambda found, stream: found.raw)


def _write_texts(outcomes: Outcomes, target: Target, text: Callable[["Answer", TextIO], str]) -> bool:
    with target.open() as stream:
        for outcome in outcomes:
            if outcome.found is None or outcome.printed:
                continue
            told = text(outcome.found, stream)
            if outcomes.several:
                head = console.paint(f"{console.cleaned(outcome.item.title, stream)}:", "36", stream)
                told = f"{head}\n{told}" if "\n" in told else f"{head} {told}"
            console.write(stream, f"{told}\n", clean_first=False)
    return False


def text_of(found: "Answer", stream: TextIO) -> str:
    """What is printed for people: the answer's text, or a table of boxes in pixels; clean where `stream` needs it."""
    from paligemma.results import Detections

    if isinstance(found, Detections):
        return boxes_table(found, stream)
    return console.cleaned(found.text, stream)


def boxes_table(found: "Detections", stream: TextIO) -> str:
    """One line per box: label, score where there is one, edges in whole pixels, size of the mask where there is one."""
    if not found.boxes:
        return "nothing found"
    columns: list[tuple[str, Callable[[Box], str]]] = [("label", lambda box: box.label or "-")]
    if any(box.score is not None for box in found.boxes):
        columns.append(("score", lambda box: "-" if box.score is None else f"{box.score:.2f}"))
    for i, name in enumerate(("left", "top", "right", "bottom")):
        columns.append((name, lambda box, i=i: str(round(box.xyxy[i]))))  # type: ignore[misc]
    if any(box.mask is not None for box in found.boxes):
        columns.append(("mask px", lambda box: "-" if box.mask is None else str(box.mask.area_px)))
    rows = [[console.cleaned(value(box), stream) for _, value in columns] for box in found.boxes]
    head, *lines = console.table(
        [name for name, _ in columns], rows, right=tuple(range(1, len(columns)))
    ).splitlines()  # fmt: skip
    return "\n".join([console.paint(head, "1", stream), *lines])


# --- for programs ----------------------------------------------------------------------------------------------------


def row_of(outcome: Outcome, task: str) -> dict[str, Any]:
    """One outcome as plain data; a frame tells its video, number and time."""
    item = outcome.item
    if outcome.found is None:
        error = {"code": outcome.error.code, "message": str(outcome.error)} if outcome.error else None
        return {"task": task, "images": [{"path": item.name}], "error": error}
    row = outcome.found.to_dict()
    if item.facts:
        facts = [{"frame": number} for number in item.facts.get("frames", ())] or [item.facts]
        row["images"] = [{**image, "path": item.name, **more} for image, more in zip(row["images"], facts, strict=True)]
    return row


def write_json(outcomes: Outcomes, target: Target) -> bool:
    """One object: the answer, or `{"results": [...], "failed": n}` of several, with `error` where it ended early."""
    with target.open() as stream:
        rows = (row_of(outcome, outcomes.task) for outcome in outcomes)
        if not outcomes.several:
            for row in rows:
                console.write_json(stream, row)
            return False
        begun = False
        for row in rows:
            text = console.json_text(stream, row).replace("\n", "\n    ")
            stream.write(("," if begun else '{\n  "results": [') + "\n    " + text)
            stream.flush()
            begun = True
        tail: dict[str, Any] = {"failed": outcomes.failed}
        if outcomes.stopped is not None:
            tail["error"] = _error_row(outcomes.stopped)
        closing = console.json_text(stream, tail).removeprefix("{\n")
        stream.write(("\n  ],\n" if begun else '{\n  "results": [],\n') + closing + "\n")
        stream.flush()
    return outcomes.stopped is not None


def write_jsonl(outcomes: Outcomes, target: Target) -> bool:
    """One object on each line, written as soon as it is known."""
    with target.open() as stream:
        for outcome in outcomes:
            stream.write(console.json_text(stream, row_of(outcome, outcomes.task), indent=None) + "\n")
            stream.flush()
        if outcomes.stopped is not None:
            error = {"error": _error_row(outcomes.stopped)}
            stream.write(console.json_text(stream, error, indent=None) + "\n")
    return outcomes.stopped is not None


def write_csv(outcomes: Outcomes, target: Target) -> bool:
    """A row for each box, or for each answer in words; what failed has none."""
    from paligemma.results import Detections
    from paligemma.results.tables import ANSWER_COLUMNS, OBJECT_COLUMNS, answer_row, object_rows

    boxes = outcomes.task in TASKS_WITH_BOXES
    with target.open() as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(OBJECT_COLUMNS if boxes else ANSWER_COLUMNS)
        for number, outcome in enumerate(outcomes, start=1):
            if boxes and isinstance(outcome.found, Detections):
                writer.writerows(object_rows(outcome.found, number))
            elif outcome.found is not None:
                writer.writerow(answer_row(outcome.found, number))
            stream.flush()
    return False


def write_pipeline(outcomes: Outcomes, target: Target) -> bool:
    """What Hugging Face's pipelines return: a list of objects per picture, a list of lists for several; masks as runs.

    Source: `pipelines/object_detection.py` and `image_text_to_text.py` of transformers.
    """
    with target.open() as stream:
        between = "[\n"
        for outcome in outcomes:
            if outcome.found is None:
                continue
            rows = _pipeline_rows(outcome.found)
            indent = None if outcomes.several else 2
            text = console.json_text(stream, rows, indent=indent)
            stream.write(between + text if outcomes.several else text)
            between = ",\n"
        closing = "\n" if not outcomes.several else "[]\n" if between == "[\n" else "\n]\n"
        stream.write(closing)
    return False


def _pipeline_rows(found: "Answer") -> list[dict[str, Any]]:
    from paligemma.results import Detections

    if not isinstance(found, Detections):
        return [{"input_text": found.prompt, "generated_text": found.text}]
    rows = found.to_pipeline()
    for row, box in zip(rows, found.boxes, strict=True):
        if box.mask is not None:
            row["mask"] = box.mask.rle()
    return rows


def write_by_results(kind: str, outcomes: Outcomes, target: Target) -> bool:
    """coco, labelstudio and yolo, which `results.export` writes into a file or a directory; stdout gets it whole."""
    from paligemma.results.export import FORMATS
    from paligemma.results.files import folder

    more: dict[str, Any] = {"masks": outcomes.task == "segment"} if kind == "yolo" else {}
    if target.out is not None:
        folder(Path(target.out).parent)
        FORMATS[kind](_good(outcomes), target.out, **more)
        return False
    with tempfile.TemporaryDirectory() as place:
        path = FORMATS[kind](_good(outcomes), Path(place) / "answers.json", **more)
        with open(path, encoding="utf-8") as file:
            shutil.copyfileobj(file, sys.stdout)
        sys.stdout.flush()
    return False


def _good(outcomes: Outcomes) -> Iterator["Detections"]:
    for outcome in outcomes:
        if outcome.found is not None:
            yield outcome.found  # type: ignore[misc]


def _error_row(error: BaseException) -> dict[str, str]:
    if not isinstance(error, Exception):
        return {"code": "interrupted", "message": "interrupted from the keyboard"}
    code, _, sentence = describe(error)
    return {"code": code, "message": sentence}


WRITERS: dict[str, Callable[[Outcomes, Target], bool]] = {
    "table": write_table, "raw": write_raw, "json": write_json, "jsonl": write_jsonl, "csv": write_csv,
    "pipeline": write_pipeline, **{kind: partial(write_by_results, kind) for kind in BOXES_ONLY},
}  # fmt: skip
