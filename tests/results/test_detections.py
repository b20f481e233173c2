"""Detections are a sequence that filters like an array and merges."""

import dataclasses
import json

import numpy as np
import pytest
from tests.results.made import detections, segmented

from paligemma.errors import InputError, UsageError
from paligemma.results import Box, Detections, Mask, Notice


def test_detections_are_a_sequence():
    found = detections(64, 48, ("cat", (0, 0, 0.5, 0.5)), ("dog", (0.5, 0.5, 1, 1)))
    assert len(found) == 2
    assert [box.label for box in found] == ["cat", "dog"]
    assert found[1].label == "dog"
    assert [box.label for box in found[1:]] == ["dog"]
    assert isinstance(found[:1], Detections)
    assert len(found.to_dict()["boxes"]) == 2
    assert not detections(8, 8)


def test_columns_are_arrays():
    found = segmented()
    assert found.xyxy.dtype == np.float64
    assert found.xyxy[2].tolist() == [30, 10, 60, 30]
    assert found.xyxyn[2].tolist() == [0.5, 0.25, 1, 0.75]
    assert found.scores[:2].tolist() == [0.9, 0.25]
    assert np.isnan(found.scores[2])
    assert found.labels.tolist() == ["cat", "grüner Hund", "cat"]
    assert found.areas_px.tolist() == [found[0].mask.area_px, found[1].mask.area_px, 600]
    empty = detections(8, 8)
    assert (empty.xyxy.shape, empty.scores.shape, empty.labels.shape) == ((0, 4), (0,), (0,))


def test_arrays_choose_boxes_and_the_text_follows():
    found = segmented()
    assert found[found.scores > 0.5].boxes == found.boxes[:1]
    assert found[found.labels == "cat"].text == "cat ; cat"
    assert found[[2, 0]].boxes == (found[2], found[0])
    assert found[np.array([-1])].boxes == found.boxes[2:]
    assert found[[True, False, False]].boxes == found.boxes[:1]
    assert found[[]].boxes == found[np.zeros(3, dtype=bool)].boxes == ()
    assert found[[]].text == ""
    assert found[np.int64(1)] is found.boxes[1]
    assert found[:] == found
    assert found[1:].raw == found.raw
    for wrong in ([True], "cat", [0.5], np.zeros((2, 2), dtype=int)):
        with pytest.raises(UsageError, match="cannot choose among 3 boxes"):
            found[wrong]
    with pytest.raises(IndexError):
        found[[7]]


def test_filters():
    found = segmented()
    assert found.filter(conf=0.25).boxes == found.boxes[:2]
    assert found.filter(labels="cat").boxes == (found[0], found[2])
    assert found.filter(labels=["grüner Hund"], conf=0.5).boxes == ()
    assert found.filter(min_area_px=600).boxes == (found[2],)
    assert found.filter() == found


def test_merging_joins_boxes_of_one_picture():
    a, b = segmented(), detections(60, 40, ("sun", (0, 0, 0.5, 0.5)))
    b = dataclasses.replace(b, finish_reason="length", warnings=(Notice("cut", "cut off"),), raw="<loc>")
    merged = a.merge(b)
    assert merged == Detections.merge([a, b])
    assert merged.boxes == a.boxes + b.boxes
    assert merged.text == "cat ; grüner Hund ; cat ; sun"
    assert merged.prompt == "segment cat ; grüner Hund; detect x"
    assert (merged.finish_reason, merged.truncated, merged.score) == ("length", True, None)
    assert merged.warnings == b.warnings
    assert merged.raw == "<loc...> ; <loc>"
    assert merged.images == a.images
    assert a.merge() is a
    with pytest.raises(UsageError, match="nothing to merge"):
        Detections.merge([])
    with pytest.raises(InputError, match="two pictures"):
        a.merge(detections(9, 9))


def test_of_overlapping_boxes_the_best_stays():
    size = (100, 100)
    places = {"best": (0, 0, 0.5, 0.5), "near": (0, 0, 0.5, 0.45), "far": (0.5, 0.5, 1, 1)}

    def box(place, label, score):
        return Box(label=label, box_yxyx_norm=places[place], image_size_px=size, score=score)

    boxes = [box("near", "cat", 0.4), box("best", "cat", 0.9), box("near", "dog", 0.3), box("far", "cat", None)]
    found = detections(*size).with_boxes(boxes)
    assert found.nms(iou=0.5).boxes == (boxes[1], boxes[2], boxes[3])
    assert found.nms(iou=0.5, across_labels=True).boxes == (boxes[1], boxes[3])
    assert found.nms(iou=0.95).boxes == tuple(boxes)
    same = detections(*size).with_boxes([box("best", "cat", None), box("best", "cat", None)])
    assert len(same.nms()) == 1


def test_json_holds_scores_and_masks():
    row = json.loads(segmented().to_json())
    assert row["score"] == 0.01
    assert [box.get("score") for box in row["boxes"]] == [0.9, 0.25, None]
    assert row["boxes"][0]["raw_score"] == 0.45
    assert Mask.from_rle(row["boxes"][0]["mask"]) == segmented()[0].mask
    assert "mask" not in row["boxes"][2]
    assert "mask" not in segmented()[0].to_dict(with_masks=False)


def test_labels_are_plain_strings():
    assert [type(label) for label in segmented().labels] == [str] * 3
