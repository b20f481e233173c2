"""How good found boxes are: overlap, who matches whom, average precision as COCO defines it.

In: arrays of boxes (x, y, x, y in any one unit) with scores. Out: figures. Not here: COCO's crowds and size classes.
Source: COCO evaluation, `pycocotools.cocoeval`: greedy matching by falling score, precision at 101 levels of recall.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECALL_LEVELS = np.linspace(0, 1, 101)


def box_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """float64[n, m]: intersection over union of boxes [n, 4] and [m, 4], x, y, x, y."""
    first, second = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (a, b))
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


@dataclass(frozen=True)
class Match:
    """One picture and one class: what of it was found.

    Args:
        scores: float64[n] of the boxes found, falling.
        correct: bool[n], whether each has a true box of its own.
        true: number of true boxes.
    """

    scores: NDArray[np.float64]
    correct: NDArray[np.bool_]
    true: int


def match(found: ArrayLike, scores: ArrayLike, true: ArrayLike, *, iou: float = 0.5) -> Match:
    """Gives each found box [n, 4], best score first, the free true box [m, 4] it overlaps most, at `iou` or more."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    overlaps = box_iou(found, true)[order]
    free = np.ones(overlaps.shape[1], bool)
    correct = np.zeros(len(order), bool)
    for row, overlap in enumerate(overlaps):
        if free.any():
            best = int(np.argmax(np.where(free, overlap, -1.0)))
            if overlap[best] >= iou:
                free[best], correct[row] = False, True
    return Match(np.asarray(scores, np.float64)[order], correct, overlaps.shape[1])


def average_precision(matches: Sequence[Match]) -> float:
    """Average precision of one class over all its pictures; nan where there is nothing to find.

    Boxes of equal score keep the order of the pictures, as in COCO's own program.
    """
    true = sum(one.true for one in matches)
    if not true:
        return float("nan")
    scores = np.concatenate([one.scores for one in matches])
    correct = np.concatenate([one.correct for one in matches])[np.argsort(-scores, kind="stable")]
    hits = correct.cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best still to come
    at = np.searchsorted(hits / true, RECALL_LEVELS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
