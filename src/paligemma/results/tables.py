"""CSV: one row for each object, or for each answer in words.

Objects: `image, label, score, raw_score, mask_score, left, top, right, bottom, image_width, image_height,
mask_area_px`; edges in pixels, x to the right and y down, scores 0..1, what is not known empty. A picture in which
nothing was found has no row. Answers: `image, task, prompt, text, score, finish_reason`. Commas and quotes inside are
quoted as in RFC 4180. A text that a spreadsheet would take for a formula gets a `'` before it: what stands in a picture
is nobody's program.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paligemma.results.files import picture_path, writing

if TYPE_CHECKING:
    from paligemma.results.answer import Answer
    from paligemma.results.detections import Detections

OBJECT_COLUMNS = (
    "image", "label", "score", "raw_score", "mask_score", "left", "top", "right", "bottom", "image_width",
    "image_height", "mask_area_px",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
ANSWER_COLUMNS = ("image", "task", "prompt", "text", "score", "finish_reason")


def object_rows(found: "Detections", number: int = 1) -> Iterator[tuple[Any, ...]]:
    """The rows of one picture, in the order of `OBJECT_COLUMNS`."""
    for box in found.boxes:
        scores = [None if s is None else round(s, 6) for s in (box.score, box.raw_score, box.mask_score)]
        edges = [round(v, 2) for v in box.xyxy]
        area = None if box.mask is None else box.mask.area_px
        yield (picture_path(found, number), box.label, *scores, *edges, *box.image_size_px, area)


def answer_row(answer: "Answer", number: int = 1) -> tuple[Any, ...]:
    """The row of one answer in words, in the order of `ANSWER_COLUMNS`."""
    score = None if answer.score is None else round(answer.score, 6)
    return (picture_path(answer, number), answer.task, answer.prompt, answer.text, score, answer.finish_reason)


def _harmless(row: Iterable[Any]) -> list[Any]:
    """The row with `'` before texts that begin as formulas do; a number such as -5 is none."""
    return [f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row]


def _is_formula(text: str) -> bool:
    return text.startswith(_FORMULA) and not re.fullmatch(r"[+-]?\d+(\.\d+)?", text)


def table(columns: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> str:
    """CSV text with a head."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_harmless, rows))
    return out.getvalue()


def write_table(columns: Iterable[str], rows: Iterable[tuple[Any, ...]], path: str | Path) -> Path:
    """Writes `table` row by row.

    Raises:
        ResourceError: the file cannot be written.
    """
    with writing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(_harmless, rows))
    return Path(path)
