"""A `Report` as a page: Markdown with tables, JSON, and pictures of right and wrong answers.

In: a report and where to write. Out: `report.md`, `report.json` and `pictures/`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paligemma.errors import InputError, UsageError
from paligemma.results.files import folder, writing
from paligemma.train.judging.benchmark import BY_CLASS, Report
from paligemma.train.judging.grading import OF_BOXES, Figure
from paligemma.train.reports.samples import save_samples

WHAT = {
    "caption_exact": "captions right word for word",
    "question_accuracy": "questions answered right",
    "ocr_word_accuracy": "words read right and in order",
    "ap50": "average precision of boxes at IoU 0.5, mean over classes",
    "recall50": "objects whose box was found at IoU 0.5",
    "precision50": "boxes that are such an object",
    "absent_accuracy": "classes asked for that are not there of which nothing was found",
    "miou": "mean IoU of masks, 0 for what was not found",
    "clip_accuracy": "captions and questions about clips answered right",
    "exact_match": "other answers that are right",
}


SAME_TEST = ("task", "scenes_version", "seed", "limit", "kinds", "languages", "fingerprint")


def save_report(report: Report, target: Path, beside: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Writes the page into a folder, or as `NAME.md` with its pictures and data beside it; returns the Markdown file.

    Args:
        beside: earlier reports of `read_report`, which get a table together with this one.

    Raises:
        ResourceError: it cannot be written.
    """
    page = target if target.suffix == ".md" else folder(target) / "report.md"
    folder(page.parent)
    pictures = page.parent / (f"{page.stem}_pictures" if target.suffix == ".md" else "pictures")
    saved = save_samples(report.shown, pictures, report.decode)
    with writing(page.with_suffix(".json")) as file:
        file.write(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
    with writing(page) as file:
        file.write(markdown(report, [path.relative_to(page.parent).as_posix() for path in saved], beside))
    return page


def read_report(path: Path) -> dict[str, Any]:
    """What `save_report` wrote as JSON.

    Raises:
        InputError: no such file, or none of these.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["model"], found["task"], found["n"].items(), found["by_language"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no report of an evaluation ({error}); give a report.json of --save") from error
    return found


def compared(reports: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table with a column for each model: every figure, in all and by language.

    Raises:
        UsageError: they are not of the same questions.
    """
    first = reports[0]
    for other in reports[1:]:
        for key in SAME_TEST:
            if first.get(key) != other.get(key):
                raise UsageError(
                    f"the reports of {first['model']} and {other['model']} are of other questions: {key} is "
                    f"{first.get(key)!r} and {other.get(key)!r}; evaluate one of them again"
                )
    rows = []
    for name in dict.fromkeys(name for report in reports for name in report["n"]):
        rows.append([name, *(_number(report.get(name)) for report in reports)])
        parts = [report["by_language"].get(name, {}) for report in reports]
        for language in sorted({language for part in parts for language in part}):
            rows.append([f"{name} {language}", *(_number(part.get(language, {}).get("value")) for part in parts)])
    return ["figure", *(str(report["model"]) for report in reports)], rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def markdown(report: Report, pictures: Sequence[str] = (), beside: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page; `pictures` are paths of those of `report.shown`, in its order; `beside` as for `save_report`."""
    found = report.figures
    measured = [name for name in found if name not in OF_BOXES or name == "ap50"]
    facts = {**report.facts, "questions": report.questions, "seconds": round(report.seconds)}
    told = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in facts.items() if value is not None)
    sections = [
        f"# {report.model} on {report.task}\n\n{told}.",
        _table(("figure", "what", "value", "of"), [
            (f"`{name}`", WHAT[name], _share(figure), f"{figure.n:,}") for name, figure in found.items()
        ]),
        "## Beside others\n\n" + _table(*compared([*beside, report.to_dict()])) if beside else "",
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
