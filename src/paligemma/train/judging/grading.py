"""An answer beside the truth -> grades; many grades -> figures, in all or of one language, class or kind.

A question is an example whose answer is known; how it is graded follows from its prompt (`METRICS`):

    caption_exact      the caption is right word for word
    question_accuracy  so is the answer to a question; clip_accuracy: about several frames; exact_match: other prompts
    ocr_word_accuracy  words read right and in order, of those that are there (or said, if these are more)
    ap50               average precision of boxes at IoU 0.5, mean over classes; beside it recall50 and precision50,
                       and absent_accuracy: nothing is found of a class that was asked for and is not there
    miou               mean over objects of the IoU of true and found mask, 0 for what was not found

Not done here: asking (`asking`), tables and pictures (`benchmark`, `report_page`).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paligemma.metrics.detection import Match, average_precision, match
from paligemma.metrics.segmentation import mask_iou
from paligemma.metrics.text import exact_match, words_right
from paligemma.results import Answer, Box, Corners, Detections
from paligemma.tasks import task_of
from paligemma.tasks.grammar import split_objects
from paligemma.tasks.segment import Decode, parse_segments

IOU = 0.5
METRICS: dict[str, str] = {
    "caption": "caption_exact", "ask": "question_accuracy", "ocr": "ocr_word_accuracy", "detect": "ap50",
    "segment": "miou", "generate": "exact_match",
}  # fmt: skip
OF_CLIPS = "clip_accuracy"
OF_BOXES = ("ap50", "recall50", "precision50", "absent_accuracy")
_NEEDS_LANGUAGE = ("caption", "ask")


@dataclass(frozen=True, kw_only=True)
class TrueObject:
    """What is there.

    Attributes:
        name: as question and answer word it. label: its class, in whatever language it is asked for.
        xyxyn: left, top, right, bottom as fractions.
        mask: bool[H, W] of the whole picture, None where only its box is known.
    """

    name: str
    label: str
    xyxyn: Corners
    mask: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is shown and asked, and the true answer.

    Attributes:
        kind: of question, for tables: count, color, ...; else the task.
        objects: what the prompt asks for and is there; None: read from the suffix.
        labels: class of each name that is asked for, also of what is not there; default the name itself.
    """

    id: str
    images: tuple[Any, ...] = field(repr=False)
    prefix: str
    suffix: str
    kind: str = ""
    language: str = ""
    source: str = ""
    objects: tuple[TrueObject, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return task_of(self.prefix)

    @property
    def metric(self) -> str:
        text = self.task not in ("detect", "segment")
        return OF_CLIPS if text and len(self.images) > 1 else METRICS[self.task]


def language_of(prefix: str) -> str:
    """`de` of `caption de` and `answer de wie viele?`; "" of prompts that name none."""
    parts = prefix.split(maxsplit=2)
    return parts[1] if task_of(prefix) in _NEEDS_LANGUAGE and len(parts) > 1 else ""


@dataclass(frozen=True, kw_only=True)
class Grade:
    """One thing that was judged.

    Attributes:
        right, of: so much of so much: 1 of 1, 0.83 of one object's mask, 3 of 4 words; of boxes, correct of true.
        label: class of a box or mask. match: of boxes, for average precision.
        asked: whether the prompt names the class.
    """

    metric: str
    kind: str
    language: str
    source: str
    right: float
    of: float
    label: str = ""
    match: Match | None = field(default=None, repr=False, compare=False)
    asked: bool = True


def grade(question: Question, answer: Answer, decode: Decode | None = None) -> list[Grade]:
    """The grades of one answer; several where it is about several classes or objects.

    Args:
        decode: makes pixels of true mask codes, for objects that are read from the suffix.
    """
    if question.task == "detect":
        return _boxes(question, answer)
    if question.task == "segment":
        return _masks(question, answer, decode)
    if question.metric == METRICS["ocr"]:
        right, of = words_right(answer.text, question.suffix)
        return [_graded(question, right, of) if of else _graded(question, 1, 1)]
    return [_graded(question, float(exact_match(answer.text, question.suffix)), 1)]


def true_objects(question: Question, image_size_px: tuple[int, int], decode: Decode | None = None) -> list[TrueObject]:
    """What is there of what is asked for; of an example, read from its suffix."""
    if question.objects is not None:
        return list(question.objects)
    reading = parse_segments(question.suffix, image_size_px, decode=decode)
    return [
        TrueObject(
            name=box.label, label=question.labels.get(box.label, box.label), xyxyn=box.xyxyn,
            mask=None if box.mask is None else box.mask.array(),
        )
        for box in reading.boxes or ()
    ]  # fmt: skip


def _graded(question: Question, right: float, of: float, label: str = "", **of_boxes: Any) -> Grade:
    return Grade(
        metric=question.metric, kind=question.kind or question.task, language=question.language,
        source=question.source, right=right, of=of, label=label, **of_boxes,
    )  # fmt: skip


def _boxes(question: Question, answer: Answer) -> list[Grade]:
    """A grade for each class that was asked for, is there, or was found."""
    assert isinstance(answer, Detections)
    there = true_objects(question, answer.image_size_px or (1, 1))
    asked = split_objects(question.prefix.partition(" ")[2])
    names = dict.fromkeys([*asked, *(thing.name for thing in there), *(box.label for box in answer)])
    grades = []
    for name in names:
        boxes = [box for box in answer if box.label == name]
        true = [thing.xyxyn for thing in there if thing.name == name]
        found = match([box.xyxyn for box in boxes], [box.score or 0.0 for box in boxes], true, iou=IOU)
        label, right = question.labels.get(name, name), int(found.correct.sum())
        grades.append(_graded(question, right, len(true), label, match=found, asked=name in asked))
    return grades


def _masks(question: Question, answer: Answer, decode: Decode | None) -> list[Grade]:
    """A grade for each true object with a mask: its IoU with the found one of its name that fits best."""
    assert isinstance(answer, Detections)
    there = [
        thing for thing in true_objects(question, answer.image_size_px or (1, 1), decode) if thing.mask is not None
    ]
    pairs = sorted(
        ((_overlap(box, thing), i, k) for i, thing in enumerate(there) for k, box in enumerate(answer)), reverse=True
    )
    best: dict[int, float] = {}
    taken: set[int] = set()
    for overlap, i, k in pairs:
        if i not in best and k not in taken:
            best[i] = overlap
            taken.add(k)
    return [_graded(question, best.get(i, 0.0), 1, thing.label) for i, thing in enumerate(there)]


def _overlap(box: Box, thing: TrueObject) -> float:
    if box.mask is None or thing.mask is None or box.label != thing.name:
        return 0.0
    return mask_iou(box.mask.array(), thing.mask)


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A share from 0 to 1, and how many answers, words, boxes or objects it is about."""

    value: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        return {"value": round(self.value, 4), "n": self.n}


def figures(grades: Sequence[Grade]) -> dict[str, Figure]:
    """Every metric there are grades for, by name; those that are about nothing are left out."""
    by_metric = grouped(grades, lambda one: one.metric)
    found: dict[str, Figure] = {}
    for name in (*METRICS.values(), OF_CLIPS):
        own = by_metric.get(name, [])
        if own and name == "ap50":
            found |= {box: figure for box in OF_BOXES if (figure := _of_boxes(box, own)).n}
        elif of := sum(one.of for one in own):
            found[name] = Figure(sum(one.right for one in own) / of, round(of))
    return {name: figure for name, figure in found.items() if not math.isnan(figure.value)}


def _of_boxes(name: str, grades: Sequence[Grade]) -> Figure:
    true, right = sum(one.of for one in grades), sum(one.right for one in grades)
    if name == "recall50":
        return Figure(right / true if true else math.nan, round(true))
    if name == "precision50":
        found = sum(len(one.match.scores) for one in grades if one.match is not None)
        return Figure(right / found if found else math.nan, found)
    if name == "absent_accuracy":
        absent = [one.match for one in grades if one.asked and not one.of and one.match is not None]
        return Figure(sum(not len(one.scores) for one in absent) / len(absent) if absent else math.nan, len(absent))
    each = [
        average_precision([one.match for one in own if one.match is not None])
        for own in grouped(grades, lambda one: one.label).values()
        if any(one.of for one in own)
    ]
    return Figure(sum(each) / len(each) if each else math.nan, round(true))


def split(grades: Iterable[Grade], metric: str, by: Callable[[Grade], str]) -> dict[str, Figure]:
    """One metric for each language, class, ... that `by` tells, in alphabetical order; "" is left out."""
    groups = grouped([one for one in grades if one.metric == metric and by(one)], by)
    return {key: found[metric] for key in sorted(groups) if metric in (found := figures(groups[key]))}


def grouped(grades: Iterable[Grade], by: Callable[[Grade], str]) -> dict[str, list[Grade]]:
    groups: dict[str, list[Grade]] = defaultdict(list)
    for one in grades:
        groups[by(one)].append(one)
    return dict(groups)
