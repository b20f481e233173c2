"""The record of the bundled models as tables for docs/nano.md, and pictures of what was said beside what is true.

In: `nano.json` as `bundle` writes it. Out: Markdown between two marks of the page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paligemma.api import PaliGemma
from paligemma.results import Answer
from paligemma.scenes import draw_scene
from paligemma.train.judging.benchmark import Report, is_right
from paligemma.train.judging.grading import Question, grade
from paligemma.train.judging.report_page import WHAT
from paligemma.train.reports.samples import side_by_side

BEGIN, END = "<!-- figures of `python -m tools.nano bundle` -->", "<!-- end of the figures -->"
MAIN = ("caption_exact", "question_accuracy", "ocr_word_accuracy", "ap50", "recall50", "precision50",
        "absent_accuracy", "miou", "clip_accuracy")  # fmt: skip
BY_LANGUAGE = ("caption_exact", "question_accuracy", "ap50", "miou", "clip_accuracy")
BY_KIND = ("caption_exact", "question_accuracy", "ocr_word_accuracy")
BY_CLASS = ("ap50", "miou")
PATCHES = {
    "patch_object": "patches of an object that name it", "patch_color": "and its colour",
    "patch_character": "patches with print that read the character",
}  # fmt: skip
MISSING = ""
EXAMPLES = {"scene.png": 1_000_040_151, "scene2.png": 1_000_028_879}  # seeds: two cats each, with a sun and a moon
EXAMPLE_PX = 448
DEMO_OBJECTS = ["cat", "sun"]


def section(record: Mapping[str, Any]) -> str:
    """All tables of a record."""
    models: Mapping[str, Any] = record["models"]
    first = next(iter(models.values()))["int8"]
    counts = ", ".join(f"{one['int8']['limit']:,} (`{name}`)" for name, one in models.items())
    scenes = f"the first {counts} held-out scenes of version {first['scenes_version']}"
    parts = [
        f"On {scenes}, seed {first['seed']}, greedy, as they are bundled:",
        _main(models),
        "By language:",
        _split(models, "by_language", BY_LANGUAGE, "language"),
        "By kind of question or picture:",
        _split(models, "by_kind", BY_KIND, "kind"),
        "By class, in five languages together:",
        _by_class(models),
        "Before and after int8, on the same scenes:",
        _rounded(models),
    ]
    if record.get("training"):
        parts += ["How long each stage trained:", _trained(record["training"])]
    if record.get("seeing"):
        parts += [
            "What linear read-outs of the tower say rightly about single patches, stage by stage:",
            _seeing(record["seeing"]),
        ]
    return "\n\n".join(parts)


def placed(page: str, record: Mapping[str, Any]) -> str:
    """The page with the tables between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{section(record)}\n\n{END}{after}"


def _main(models: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", WHAT[name], *(share(one["int8"].get(name)) for one in models.values()), _count(models, name)]
        for name in MAIN
    ]
    errors = (("as they come", "calibration_error_raw"), ("with the bundled calibration", "calibration_error"))
    rows += [
        [f"`{key}`", f"how far scores are from the share that is right, {what}",
         *(share(one["int8"].get(key)) for one in models.values()), _count(models, "precision50")]
        for what, key in errors
    ]  # fmt: skip
    return table(["figure", "what", *models, "of"], rows)


def _count(models: Mapping[str, Any], name: str) -> str:
    return f"{max(one['int8']['n'].get(name, 0) for one in models.values()):,}"


def _split(models: Mapping[str, Any], by: str, names: Sequence[str], what: str) -> str:
    rows = []
    for name in names:
        parts = [one["int8"][by].get(name, {}) for one in models.values()]
        for key in sorted({key for part in parts for key in part}):
            of = max(part[key]["n"] for part in parts if key in part)
            rows.append([f"`{name}`", key, *(share(part.get(key, {}).get("value")) for part in parts), f"{of:,}"])
    return table(["figure", what, *models, "of"], rows)


def _by_class(models: Mapping[str, Any]) -> str:
    parts = {(name, key): one["int8"]["by_class"].get(name, {}) for name in BY_CLASS for key, one in models.items()}
    labels = sorted({label for part in parts.values() for label in part})
    rows = [[label, *(share(part.get(label, {}).get("value")) for part in parts.values())] for label in labels]
    return table(["class", *(f"`{name}` {key.removeprefix('nano-')}" for name, key in parts)], rows)


def _rounded(models: Mapping[str, Any]) -> str:
    def change(one: Mapping[str, Any], figure: str) -> str:
        parts = (one["float"].get(figure), one["rounded"].get(figure))
        return MISSING if None in parts else " → ".join(map(share, parts))

    rows = [
        [name, *(change(one, figure) for figure in MAIN),
         f"{one['float']['limit']:,}", f"{one['bytes'] / 1e6:.1f} MB"]
        for name, one in models.items()
    ]  # fmt: skip
    return table(["model", *(f"`{name}`" for name in MAIN), "scenes", "file"], rows)


def _trained(stages: Mapping[str, Any]) -> str:
    rows = [
        [stage, *(f"{told[what]:,}" for what in ("steps", "pictures", "minutes"))] for stage, told in stages.items()
    ]
    return table(["stage", "steps", "pictures", "minutes"], rows)


def _seeing(stages: Mapping[str, Any]) -> str:
    rows = [[f"`{name}`", what, *(share(one.get(name)) for one in stages.values())] for name, what in PATCHES.items()]
    return table(["figure", "what", *stages], rows)


def share(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def draw_examples(folder: Path) -> None:
    """The pictures of examples/: held-out scenes, so that documentation and programs ask what was never trained on."""
    for name, seed in EXAMPLES.items():
        draw_scene(seed, EXAMPLE_PX, "objects").image.save(folder / name, optimize=True)


def save_demo(model: PaliGemma, picture: Path, file: Path) -> None:
    """The first picture of the README: masks and scores drawn into an example."""
    file.parent.mkdir(parents=True, exist_ok=True)
    model.segment(picture, DEMO_OBJECTS).plot().save(file, optimize=True)


def save_pictures(report: Report, folder: Path) -> list[Path]:
    """`caption-right.png`, `caption-wrong.png`, ...: of each task the first right and the first wrong answer shown."""
    folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, tuple[Question, Answer]] = {}
    half = {True: "right", False: "wrong"}
    for question, answer in report.shown:
        task = "clip" if len(question.images) > 1 else question.task
        right = is_right(grade(question, answer, report.decode))
        kept.setdefault(f"{task}-{half[right]}", (question, answer))
    written = []
    for name, (question, answer) in kept.items():
        written.append(folder / f"{name}.png")
        side_by_side(question, answer, report.decode).quantize(128).save(written[-1], optimize=True)
    return written
