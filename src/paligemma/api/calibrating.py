"""A model and a labelled folder -> how good its boxes and scores are, and the calibration that mends the scores.

In: `PaliGemma` and `data.LabelledImage`s. Out: `CalibrationReport`. Each picture is asked for every label it holds, one
prompt each, and for some that it does not hold. Figures "after" are cross-validated: each half of the pictures is
judged by the calibration fitted on the other. Not done here: reading labels (`data`), the figures (`metrics`).
"""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paligemma.api.queries import Query
from paligemma.data import LabelledImage
from paligemma.errors import InputError
from paligemma.metrics.calibration import Bin, Calibration, expected_calibration_error, fit, reliability
from paligemma.metrics.detection import Match, average_precision, match
from paligemma.results import Detections
from paligemma.results.files import writing

if TYPE_CHECKING:
    from paligemma.api.model import PaliGemma

IOU = 0.5  # from which overlap a box counts as right


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """What a labelled folder says about a model's boxes.

    Args:
        ap50: average precision at IoU 0.5, mean over labels, boxes ranked by score; ap50_constant: all scores equal.
        error_before: expected calibration error of the scores as the model gives them; error_after: mended, each half
            of the pictures by a calibration from the other half; curve_before, curve_after: reliability, likewise.
        calibration: fitted on all pictures.
    """

    pictures: int
    prompts: int
    boxes: int
    right: int
    ap50: float
    ap50_constant: float
    error_before: float
    error_after: float
    curve_before: tuple[Bin, ...]
    curve_after: tuple[Bin, ...]
    calibration: Calibration

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; shares with 4 decimals."""
        row: dict[str, Any] = {
            name: round(value, 4) if isinstance(value, float) else value for name, value in vars(self).items()
        }
        for name in ("curve_before", "curve_after"):
            row[name] = [{k: round(v, 4) for k, v in one._asdict().items()} for one in getattr(self, name)]
        row["calibration"] = self.calibration.to_dict()
        return row


@dataclass(frozen=True)
class Asked:
    """The boxes found for one label in one picture, beside the true ones. `half` is 0 or 1 by picture."""

    label: str
    half: int
    match: Match


def ask_labelled(
    model: "PaliGemma", examples: Sequence[LabelledImage], *, negatives: int = 1, batch_size: int = 8, seed: int = 0
) -> list[Asked]:
    """Asks each picture for every label in it, and for `negatives` labels of the others that are not in it.

    Raises:
        InputError: a picture that cannot be read.
    """
    every = sorted({label for example in examples for label in example.labels})
    rng = random.Random(seed)
    plan: list[tuple[LabelledImage, str, int]] = []
    for number, example in enumerate(examples):
        absent = [label for label in every if label not in example.labels]
        asked = [*example.labels, *rng.sample(absent, min(negatives, len(absent)))]
        plan += [(example, label, number % 2) for label in asked]
    queries = (Query(example.path, "detect", {"objects": [label]}) for example, label, _ in plan)
    found = model.answers(queries, batch_size=batch_size)
    return [_compared(*entry, answer) for entry, answer in zip(plan, found, strict=True)]


def _compared(example: LabelledImage, label: str, half: int, answer: Any) -> Asked:
    assert isinstance(answer, Detections)
    true = [box.xyxy for box in example.boxes if box.label == label]
    scores = [box.raw_score if box.raw_score is not None else 0.0 for box in answer]
    return Asked(label, half, match(answer.xyxy, scores, true, iou=IOU))


def report_of(asked: Sequence[Asked], pictures: int) -> CalibrationReport:
    """The figures, and the calibration fitted on all boxes.

    Raises:
        InputError: too few boxes, or all right, or all wrong.
    """
    scores, correct = _joined(asked)
    calibration = fit(scores, correct)
    mended, of_mended = _cross_validated(asked, calibration)
    return CalibrationReport(
        pictures=pictures,
        prompts=len(asked),
        boxes=len(scores),
        right=int(correct.sum()),
        ap50=mean_average_precision(asked),
        ap50_constant=mean_average_precision(asked, constant=True),
        error_before=expected_calibration_error(scores, correct),
        error_after=expected_calibration_error(mended, of_mended),
        curve_before=tuple(reliability(scores, correct)),
        curve_after=tuple(reliability(mended, of_mended)),
        calibration=calibration,
    )


def mean_average_precision(asked: Sequence[Asked], *, constant: bool = False) -> float:
    """Mean over the labels that are there at all; `constant` takes all scores for equal, in the model's own order."""
    by_label: dict[str, list[Match]] = defaultdict(list)
    for one in asked:
        same = Match(np.ones_like(one.match.scores), one.match.correct, one.match.true)
        by_label[one.label].append(same if constant else one.match)
    each = [average_precision(matches) for matches in by_label.values()]
    return float(np.nanmean(each)) if any(not np.isnan(ap) for ap in each) else float("nan")


def _joined(asked: Sequence[Asked]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and rightness of all boxes."""
    if not asked:
        return np.zeros(0), np.zeros(0, bool)
    return np.concatenate([a.match.scores for a in asked]), np.concatenate([a.match.correct for a in asked])


def _cross_validated(asked: Sequence[Asked], whole: Calibration) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each half's scores mended by the other half's fit; by `whole` where a half alone is too little to fit."""
    mended, right = [], []
    for half in (0, 1):
        scores, correct = _joined([one for one in asked if one.half == half])
        try:
            other = fit(*_joined([one for one in asked if one.half != half]))
        except InputError:
            other = whole
        mended.append(other.apply(scores))
        right.append(correct)
    return np.concatenate(mended), np.concatenate(right)


def calibrate(
    model: "PaliGemma", examples: Sequence[LabelledImage], *, negatives: int = 1, batch_size: int = 8, seed: int = 0
) -> CalibrationReport:
    """Measures a model's boxes on labelled pictures and fits its calibration; the model itself is left as it is.

    Args:
        negatives: labels asked per picture that are not in it: without them presence cannot be judged.

    Raises:
        InputError: no pictures, one that cannot be read, or too few boxes to learn from.
    """
    if not examples:
        raise InputError("found no labelled pictures, expected at least one; give a labelled folder")
    asked = ask_labelled(model, examples, negatives=negatives, batch_size=batch_size, seed=seed)
    return report_of(asked, len(examples))


def save_calibration(calibration: Calibration, path: "str | Path") -> Path:
    """Writes calibration.json: into a folder (beside a model's weights, where `load` finds it), or under that name.

    Raises:
        ResourceError: it cannot be written there.
    """
    file = Path(path)
    file = file / "calibration.json" if file.is_dir() else file
    with writing(file) as text:
        text.write(json.dumps(calibration.to_dict(), indent=2) + "\n")
    return file
