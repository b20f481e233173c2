"""A `Report` as a page: Markdown with tables, JSON, and pictures of right and wrong answers.

In: a report and where to write. Out: `report.md`, `report.json` and `pictures/`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from paligemma.results.files import folder, writing
from paligemma.train.benchmark import BY_CLASS, Report
from paligemma.train.grading import OF_BOXES, Figure
from paligemma.train.samples import save_samples

WHAT = {
    "caption_exact": "captions right word for word",
    "question_accuracy": "questions answered right",
    "ocr_word_accuracy": "words read right and in order",
    "ap50": "average precision of boxes at IoU 0.5, mean over classes",
    "recall50": "objects whose box was found at IoU 0.5",
    "precision50": "boxes that are such an object",
    "miou": "mean IoU of masks, 0 for what was not found",
    "clip_accuracy": "captions and questions about clips answered right",
    "exact_match": "other answers that are right",
}


def save_report(report: Report, target: Path) -> Path:
    """Writes the page into a folder, or as `NAME.md` with its pictures and data beside it; returns the Markdown file.

    Raises:
        ResourceError: it cannot be written.
    """
    page = target if target.suffix == ".md" else folder(target) / "report.md"
    folder(page.parent)
    beside = "" if target.suffix != ".md" else f"{page.stem}_"
    pictures = page.parent / f"{beside}pictures"
    saved = save_samples(report.shown, pictures, report.decode)
    with writing(page.with_suffix(".json")) as file:
        file.write(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
    with writing(page) as file:
        file.write(markdown(report, [path.relative_to(page.parent).as_posix() for path in saved]))
    return page


def markdown(report: Report, pictures: Sequence[str] = ()) -> str:
    """The page; `pictures` are paths of those of `report.shown`, in its order."""
    found = report.figures
    measured = [name for name in found if name not in OF_BOXES or name == "ap50"]
    facts = {**report.facts, "questions": report.questions, "seconds": round(report.seconds)}
    told = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in facts.items() if value is not None)
    sections = [
        f"# {report.model} on {report.task}\n\n{told}.",
        _table(("figure", "what", "value", "of"), [
            (f"`{name}`", WHAT[name], _share(figure), f"{figure.n:,}") for name, figure in found.items()
        ]),
        _by_language(report, measured),
        *(_by_kind(report, name) for name in measured),
        _by_class(report, [name for name in BY_CLASS if name in found]),
        _examples(report, pictures),
    ]  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


def _by_language(report: Report, names: Sequence[str]) -> str:
    parts = {name: report.by("language", name) for name in names}
    languages = sorted({language for part in parts.values() for language in part})
    if not languages:
        return ""
    rows = [(f"`{name}`", *(_share(part.get(one)) for one in languages)) for name, part in parts.items() if part]
    return "## By language\n\n" + _table(("figure", *languages), rows)


def _by_kind(report: Report, name: str) -> str:
    parts = report.by("kind", name)
    if len(parts) < 2:
        return ""
    rows = [(kind, _share(figure), f"{figure.n:,}") for kind, figure in parts.items()]
    return f"## `{name}` by kind\n\n" + _table(("kind", "value", "of"), rows)


def _by_class(report: Report, names: Sequence[str]) -> str:
    parts: Mapping[str, Mapping[str, Figure]] = {name: report.by("label", name) for name in names}
    labels = sorted({label for part in parts.values() for label in part})
    if not labels:
        return ""
    head = [cell for name in names for cell in (f"`{name}`", "of")]
    rows = [
        (label, *(cell for name in names for cell in (_share(parts[name].get(label)), _count(parts[name].get(label)))))
        for label in labels
    ]
    return "## By class\n\n" + _table(("class", *head), rows)


def _examples(report: Report, pictures: Sequence[str]) -> str:
    lines = [
        f"`{question.prefix}` ({question.id})\n\n![{question.task}]({picture})"
        for (question, _), picture in zip(report.shown, pictures, strict=False)
    ]
    return (
        "## Examples, of each figure the first right and the first wrong ones\n\n" + "\n\n".join(lines) if lines else ""
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _share(figure: Figure | None) -> str:
    return "" if figure is None else f"{100 * figure.value:.1f} %"


def _count(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.n:,}"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
