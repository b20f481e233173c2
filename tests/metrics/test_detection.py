import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from paligemma.metrics import average_precision, box_iou, match


def test_overlaps():
    boxes = [[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]]
    assert box_iou(boxes, boxes) == pytest.approx(np.array([[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]]))
    assert box_iou([[1, 1, 1, 1]], boxes).max() == 0
    assert box_iou([], boxes).shape == (0, 3)


def test_each_true_box_is_found_once_and_by_the_best_score():
    true = [[0, 0, 10, 10]]
    matched = match([[0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30]], [0.5, 0.9, 0.95], true)
    assert matched.scores.tolist() == [0.95, 0.9, 0.5]
    assert matched.correct.tolist() == [False, True, False]
    assert matched.true == 1
    assert match([], [], true).true == 1
    assert match([[0, 0, 1, 1]], [1.0], []).correct.tolist() == [False]


def drawn(rng, pictures):
    """Random truth and noisy finds: per picture (found, scores, true)."""
    for _ in range(pictures):
        corner = rng.uniform(0, 80, (rng.integers(0, 5), 2))
        true = np.concatenate([corner, corner + rng.uniform(5, 30, corner.shape)], axis=1)
        found = np.concatenate([true + rng.normal(0, 2.5, true.shape), rng.uniform(0, 40, (2, 4))])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        yield found, rng.permutation(len(found)) / 10 + rng.uniform(0, 0.05), true


def coco_ap(cases, iou):
    """The same by COCO's own program."""
    truth, finds, number = [], [], 1
    for picture, (found, scores, true) in enumerate(cases, 1):
        for box in true:
            x, y, w, h = *box[:2], *(box[2:] - box[:2])
            truth.append(
                {"id": number, "image_id": picture, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            )
            number += 1
        for box, score in zip(found, scores, strict=True):
            finds.append(
                {"image_id": picture, "category_id": 1, "bbox": [*box[:2], *(box[2:] - box[:2])], "score": score}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": k, "width": 100, "height": 100} for k in range(1, len(cases) + 1)]
        coco.dataset = {"info": {}, "images": images, "annotations": truth, "categories": [{"id": 1, "name": "a"}]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(finds), "bbox")
        evaluation.params.iouThrs = np.array([iou])
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, 0, 0, 2].mean()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_average_precision_equals_cocos(seed, iou):
    cases = list(drawn(np.random.default_rng(seed), 12))
    ours = average_precision([match(*case, iou=iou) for case in cases])
    assert ours == pytest.approx(coco_ap(cases, iou), abs=1e-9)


def test_ends():
    true = [[0, 0, 10, 10]]
    assert average_precision([match(true, [0.3], true)]) == 1
    assert average_precision([match([], [], true)]) == 0
    assert np.isnan(average_precision([match(true, [0.3], [])]))


def test_better_ranking_is_worth_more():
    true, wrong = [[0, 0, 10, 10]], [[50, 50, 60, 60]]
    good = [match(true + wrong, [0.9, 0.1], true)] * 4
    bad = [match(true + wrong, [0.1, 0.9], true)] * 4
    assert average_precision(good) == 1
    assert average_precision(bad) == pytest.approx(0.5)
