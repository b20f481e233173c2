"""`paligemma calibrate`: a labelled folder -> how good a model's boxes are, and scores that mean what they say."""

from pathlib import Path
from typing import TYPE_CHECKING

from paligemma.errors import UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.answering import load
from paligemma.interfaces.cli.options import Json, ModelOptions, at_least

if TYPE_CHECKING:
    from paligemma.api.calibrating import CalibrationReport

_MODEL = ModelOptions()
_BAR = 20  # characters of a share of 1


def calibrate(
    labels: Path,
    *,
    out: Path | None = None,
    negatives: int = 1,
    batch_size: int = 8,
    json: Json = False,
    model: ModelOptions = _MODEL,
) -> int:
    """Make the scores of boxes mean what they say, from pictures with labels.

    Asks each picture for what is labelled in it and for something that is not, compares the boxes with the true ones,
    and keeps two numbers in calibration.json beside the model, where they are found whenever it is loaded. Prints
    average precision, with the scores and with all scores equal, and how far scores are from the share that is right:
    before, and after (each half of the pictures judged by the other).

    Args:
        labels: COCO .json, .jsonl of {image, boxes: [{label, box}]} in pixels, or a folder that holds one.
        out: file or directory to write instead of beside the model.
        negatives: labels asked per picture that are not in it.
        batch_size: pictures answered together.
        json: one JSON object on stdout and nothing else.
    """
    from paligemma.api.calibrating import calibrate as measure
    from paligemma.api.calibrating import save_calibration
    from paligemma.checkpoints import resolve
    from paligemma.checkpoints.adapters import find_adapter
    from paligemma.checkpoints.hub import BUNDLED
    from paligemma.data import read_labelled

    model.in_one_process("write a calibration")
    at_least("--negatives", negatives, 0)
    at_least("--batch-size", batch_size, 1)
    if out is None and model.model in BUNDLED and model.adapter is None:
        raise UsageError("the bundled model has its calibration already; give --out FILE to write another one")
    examples = read_labelled(labels)
    loaded = load(model)
    report = measure(loaded, examples, negatives=negatives, batch_size=batch_size)
    beside = find_adapter(model.adapter) if model.adapter else resolve(model.model, model.revision)
    file = save_calibration(report.calibration, out or (beside if beside.is_dir() else beside.parent))
    if json:
        console.print_json({"model": loaded.name, "file": str(file), **report.to_dict()})
    else:
        console.say(_text(report))
        console.say(f"kept in {file}")
    return 0


def _text(report: "CalibrationReport") -> str:
    """The figures, and the reliability curve as one line for each tenth."""
    lines = [
        f"{report.pictures} pictures, {report.prompts} questions, {report.boxes} boxes, {report.right} of them right",
        f"average precision at IoU 0.5: {report.ap50:.3f}; with all scores equal {report.ap50_constant:.3f}",
        f"calibration error: {report.error_before:.3f} before, {report.error_after:.3f} after "
        f"(temperature {report.calibration.temperature:.3g}, shift {report.calibration.shift:.3g})",
        "",
    ]
    rows = [
        [f"{one.low:.1f} to {one.high:.1f}", str(one.boxes), f"{one.score:.2f}", f"{one.right:.2f}", _bar(one.right)]
        for one in report.curve_after
    ]
    return "\n".join([*lines, console.table(("score", "boxes", "mean", "right", ""), rows, right=(1, 2, 3))])


def _bar(share: float) -> str:
    return "#" * round(share * _BAR)
