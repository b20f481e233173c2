"""How good a model is: any model, on drawn scenes it never saw or on any source of examples.

    evaluate("nano", "scenes", seed=0, limit=2000)     held-out scenes of this version of the world
    evaluate(model, "birds/valid.jsonl")               rows of one's own, judged by the task of each prompt

Out: a `Report` of figures, in all and by language, class and kind. Its tables and pictures are `report_page`'s.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from paligemma.api import PaliGemma, load
from paligemma.checkpoints.hub import CODEC
from paligemma.config import did_you_mean
from paligemma.data.example import Source
from paligemma.data.sources import open_source
from paligemma.errors import InputError, UsageError
from paligemma.results import Answer
from paligemma.scenes import VERSION
from paligemma.tasks.masks import decoder
from paligemma.tasks.segment import Decode
from paligemma.train.judging.asking import ahead, answered, question_of
from paligemma.train.judging.evaluate import chosen
from paligemma.train.judging.grading import METRICS, OF_BOXES, OF_CLIPS, Figure, Grade, Question, figures, grade, split
from paligemma.train.judging.scene_questions import ALL_KINDS, CLIP, SCENES_PER_CLIP, check, scene_questions

SCENES = "scenes"
DEFAULT_SCENES = 500
SCENE_FIGURES = (
    "caption_exact", "question_accuracy", "ocr_word_accuracy", "ap50", "miou", OF_CLIPS,
)  # fmt: skip
FIGURES = tuple(dict.fromkeys((*METRICS.values(), OF_CLIPS, *OF_BOXES)))
BY_CLASS = ("ap50", "miou")
SHOWN = 2  # right answers of each metric that are kept for pictures, and as many wrong ones
_NO_CODEC = (
    "miou is not measured: {count} answers are codes of masks, and no mask codec lies beside {model} to decode them; "
    "put mask_codec.npz there, or fetch Google's with `paligemma pull {codec}`"
)

OnExample = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation found.

    Attributes:
        facts: what was asked of what: seed, number of scenes, version of the world, size of pictures.
        questions: how many. seconds: for all of them.
        shown: some right and some wrong answers of each metric.
        notes: what was asked and could not be judged, a sentence each.
    """

    model: str
    task: str
    facts: Mapping[str, Any]
    questions: int
    seconds: float
    grades: tuple[Grade, ...] = field(repr=False)
    shown: tuple[tuple[Question, Answer], ...] = field(default=(), repr=False)
    decode: Decode | None = field(default=None, repr=False, compare=False)
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, Figure]:
        """By name; what nothing was asked about is left out."""
        return figures(self.grades)

    def by(self, what: str, metric: str) -> dict[str, Figure]:
        """One metric for each "language", "label" (class of objects), "kind" (of question or picture) or "source"."""
        return split(self.grades, metric, lambda one: getattr(one, what))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: each figure under its name, `n` of each, and tables by language, class and kind."""
        found = self.figures
        names = dict.fromkeys([*SCENE_FIGURES, *found] if self.task == SCENES else found)
        measured = [name for name in found if name not in OF_BOXES or name == "ap50"]
        return {
            "model": self.model, "task": self.task, **self.facts,
            **{name: round(found[name].value, 4) if name in found else None for name in names},
            "n": {name: figure.n for name, figure in found.items()},
            "by_language": {name: _rows(self.by("language", name)) for name in measured},
            "by_class": {name: _rows(self.by("label", name)) for name in BY_CLASS if name in found},
            "by_kind": {name: _rows(self.by("kind", name)) for name in measured},
            "questions": self.questions, "seconds": round(self.seconds, 1), "notes": list(self.notes),
        }  # fmt: skip

    def missed(self, least: Mapping[str, float]) -> str | None:
        """A sentence about every figure that is below its mark or was not measured; None where none is."""
        found = self.figures
        below = [
            f"{name} is {f'{found[name].value:.4f}' if name in found else 'not measured'}, expected {value:g} or more"
            for name, value in least.items()
            if name not in found or found[name].value < value
        ]
        return f"{self.model} on {self.task}: {'; '.join(below)}; train on, or lower the mark" if below else None


def _rows(parts: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.to_dict() for name, figure in parts.items()}


def check_required(least: Mapping[str, float]) -> None:
    """
    Raises:
        UsageError: a figure nobody knows, or a mark that is no share.
    """
    for name, value in least.items():
        if name not in FIGURES:
            raise UsageError(f"unknown figure {name!r}{did_you_mean(name, list(FIGURES))}")
        if not 0 <= value <= 1:
            raise UsageError(f"{name} shall be {value:g}, but it is a share from 0 to 1; give such a number")


def evaluate(
    model: "PaliGemma | str | Path" = "nano", task: str | Path = SCENES, *, seed: int = 0, limit: int | None = None,
    kinds: Sequence[str] | None = None, languages: Sequence[str] | None = None, split: str = "test",
    size_px: int | None = None, batch_size: int = 32, on_example: OnExample | None = None,
) -> Report:  # fmt: skip
    """Asks a model what is known and tells how often it is right.

    Args:
        model: one that is loaded, or what `load` takes.
        task: "scenes", or a source of examples: a file, a folder, `hub:NAME`, ...
        seed: of the scenes. kinds, languages: of questions about them; default all.
        limit: scenes or examples; default 500 scenes, all examples.
        split: of data that have several.
        size_px: side of drawn pictures; default what the model takes.
        on_example: told how many scenes or examples were begun, and of how many.

    Raises:
        UsageError: unknown kinds, languages or options, or such for a task that has none.
        InputError, UnavailableError: the data cannot be read or had.
    """
    judged = model if isinstance(model, PaliGemma) else load(model)
    side = size_px or judged.processor.image_size_px
    facts: dict[str, Any]
    if str(task) == SCENES:
        scenes = DEFAULT_SCENES if limit is None else limit
        check(seed, scenes, kinds, languages)
        facts = {"scenes_version": VERSION, "seed": seed, "limit": scenes, "size_px": side}
        facts |= {"kinds": list(kinds)} if kinds else {}
        questions = scene_questions(seed, scenes, size_px=side, kinds=kinds, languages=languages)
        total = scenes + (math.ceil(scenes / SCENES_PER_CLIP) if CLIP in (kinds or ALL_KINDS) else 0)
    else:
        if kinds or languages or seed:
            raise UsageError(
                "seed, kinds and languages choose among drawn scenes; leave them out for data of one's own"
            )
        source = open_source(task, split=split, codec=judged.mask_codec, image_size_px=side)
        if not len(source):
            raise InputError(f"{task} holds no example, expected at least one; give other data")
        facts = {"limit": limit, "split": split, "fingerprint": source.fingerprint}
        questions, total = _of_source(source, limit), sum(1 for _ in chosen(source, limit))
    return _report(judged, str(task), facts, questions, total, batch_size, on_example)


def _of_source(source: Source, limit: int | None) -> Iterator[Question]:
    return (question_of(source[index]) for index in chosen(source, limit))


def _report(
    model: PaliGemma, task: str, facts: Mapping[str, Any], questions: Iterator[Question], total: int, batch_size: int,
    on_example: OnExample | None,
) -> Report:  # fmt: skip
    decode = None if model.mask_codec is None else decoder(model.mask_codec)
    began, count, begun, undecoded = monotonic(), 0, set[str](), 0
    grades: list[Grade] = []
    kept: dict[tuple[str, bool], list[tuple[Question, Answer]]] = defaultdict(list)
    for question, answer in answered(model, ahead(questions), batch_size=batch_size):
        count += 1
        if question.id not in begun:
            begun.add(question.id)
            if on_example is not None:
                on_example(len(begun), total)
        if question.task == "segment" and decode is None:
            undecoded += 1
            continue
        own = grade(question, answer, decode)
        grades += own
        few = kept[question.metric, is_right(own)]
        if len(few) < SHOWN:
            few.append((question, answer))
    shown = [pair for metric in FIGURES for right in (True, False) for pair in kept[metric, right]]
    notes = (_NO_CODEC.format(count=undecoded, model=model.name, codec=CODEC),) if undecoded else ()
    return Report(
        model=model.name, task=task, facts=facts, questions=count, seconds=monotonic() - began, grades=tuple(grades),
        shown=tuple(shown), decode=decode, notes=notes,
    )  # fmt: skip


def is_right(grades: Sequence[Grade]) -> bool:
    """Whether an answer is right as a whole: all words, all boxes and none too many, every mask at IoU 0.5 or more."""
    for one in grades:
        if one.match is not None and not one.match.correct.all():
            return False
        if one.right < (0.5 if one.metric == "miou" else one.of):
            return False
    return True
