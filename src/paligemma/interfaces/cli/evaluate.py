"""`paligemma evaluate`: how good a model is, on drawn scenes it never saw or on rows of one's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from paligemma.errors import EXIT_CHECK_FAILED, UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.answering import load
from paligemma.interfaces.cli.options import Flag, Json, ModelOptions, at_least
from paligemma.interfaces.cli.progress import Bar, several_on_a_terminal

if TYPE_CHECKING:
    from paligemma.train.judging.benchmark import Report


@Parameter(name="*", group=Group("Scenes", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Which drawn scenes, and what is asked about them."""

    seed: int = 0
    """Which scenes; another seed, others."""
    kinds: str | None = None
    """Of questions, such as caption,detect,segment,ocr,count,clip; default all."""
    languages: str | None = None
    """Of questions, of en,de,fr,es,zh; default all."""
    size_px: int | None = None
    """Side of the pictures; default what the model takes."""

    def __post_init__(self) -> None:
        at_least("--size-px", self.size_px, 32)

    def of_evaluate(self) -> dict[str, Any]:
        """The keywords of `benchmark.evaluate`."""
        return {
            "seed": self.seed, "kinds": _listed(self.kinds), "languages": _listed(self.languages),
            "size_px": self.size_px,
        }  # fmt: skip


_MODEL, _SCENES = ModelOptions(), SceneOptions()


def evaluate(
    *,
    task: str = "scenes",
    limit: int | None = None,
    split: str = "test",
    require: str | None = None,
    beside: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative=())] = None,
    save: Path | None = None,
    batch_size: int = 32,
    quiet: Flag = False,
    json: Json = False,
    scenes: SceneOptions = _SCENES,
    model: ModelOptions = _MODEL,
) -> int:
    """Measure how often a model is right.

    On scenes drawn by program that no training ever sees, or on rows of one's own, judged by what each prompt asks for:
    caption_exact, question_accuracy, ocr_word_accuracy, ap50 (with recall50, precision50 and absent_accuracy), miou,
    clip_accuracy and exact_match; of scenes each by language, class of objects and kind of question too. Figures of
    scenes are comparable within one version of the drawn world only.

    Args:
        task: scenes, or a source of examples: a .jsonl, a folder, shards, hub:NAME of a data set in the local cache.
        limit: scenes or examples; default 500 scenes, all examples.
        split: of data that have several: train, validation, test.
        require: marks such as ap50=0.75,miou=0.7; exit code 7 where one is missed.
        beside: report.json of other models on the same questions, for one table.
        save: folder, or file NAME.md, for a report with tables and pictures.
        batch_size: answers decoded together.
        quiet: no progress.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.train.judging.benchmark import check_required
    from paligemma.train.judging.report_page import compared, read_report, save_report

    at_least("--limit", limit, 1)
    at_least("--batch-size", batch_size, 1)
    least = _marks(require)
    check_required(least)
    others = [read_report(path) for path in beside or ()]
    report = _measured(task, scenes, model, quiet, {"limit": limit, "split": split, "batch_size": batch_size})
    head, rows = compared([*others, report.to_dict()])
    page = save_report(report, save, others) if save is not None else None
    missed = report.missed(least)
    if json:
        more = {"report": None if page is None else str(page), "ok": missed is None}
        console.print_json({**report.to_dict(), **more})
    else:
        console.say(_text(report))
        if others:
            console.say("\n" + console.table(head, rows, right=range(1, len(head))))
        for note in report.notes:
            console.note(note)
        if page is not None:
            console.note(f"wrote {page}")
    if missed is not None:
        console.error(missed)
    return 0 if missed is None else EXIT_CHECK_FAILED


def _measured(task: str, scenes: SceneOptions, model: ModelOptions, quiet: bool, more: Mapping[str, Any]) -> "Report":
    """The report, with a bar meanwhile; what is asked is checked before a model is loaded for it."""
    from paligemma.train.judging.benchmark import evaluate as measure
    from paligemma.train.judging.scene_questions import check

    asked = scenes.of_evaluate()
    if task == "scenes":
        check(scenes.seed, more["limit"] or 1, asked["kinds"], asked["languages"])
    loaded = load(model)
    with Bar(None, several_on_a_terminal(True, quiet)) as bar:

        def on_example(done: int, total: int) -> None:
            bar.set_total(total)
            bar.step()

        return measure(loaded, task, **asked, **more, on_example=on_example)


def _listed(text: str | None) -> list[str] | None:
    """`a, b` -> ["a", "b"]."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()] or None


def _marks(text: str | None) -> dict[str, float]:
    """`ap50=0.75,miou=0.7` -> numbers by name.

    Raises:
        UsageError: it cannot be read.
    """
    marks = {}
    for word in _listed(text) or ():
        name, _, value = word.partition("=")
        try:
            marks[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--require {word} cannot be read; write NAME=NUMBER,... such as ap50=0.75") from None
    return marks


def _text(report: "Report") -> str:
    """The figures, and the same by language."""
    found = report.figures
    rows = [[name, f"{figure.value:.3f}", f"{figure.n:,}"] for name, figure in found.items()]
    lines = [
        f"{report.model} on {report.task}: {report.questions:,} questions in {report.seconds:.0f} s",
        console.table(("figure", "value", "of"), rows, right=(1, 2)),
    ]
    parts = {name: report.by("language", name) for name in found}
    languages = sorted({language for part in parts.values() for language in part})
    if len(languages) > 1:
        table = [
            [name, *(f"{part[one].value:.3f}" if one in part else "" for one in languages)]
            for name, part in parts.items()
            if part
        ]
        lines += ["", console.table(("by language", *languages), table, right=range(1, 1 + len(languages)))]
    return "\n".join(lines)
