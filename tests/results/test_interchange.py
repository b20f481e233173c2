"""Objects of other libraries hold the same boxes."""

import sys

import numpy as np
import pytest
from tests.results.made import detections, segmented

from paligemma.errors import UnavailableError


def test_supervision_gets_every_field_and_gives_back_coordinates():
    found = segmented()
    theirs = found.to_supervision()
    assert np.allclose(theirs.xyxy, found.xyxy)
    assert theirs.confidence[:2] == pytest.approx([0.9, 0.25])
    assert np.isnan(theirs.confidence[2])
    assert theirs.class_id.tolist() == [0, 1, 0]
    assert theirs.data["class_name"].tolist() == ["cat", "grüner Hund", "cat"]
    assert theirs.mask.dtype == bool
    assert [mask.tolist() for mask in theirs.mask[:2]] == [box.mask.array().tolist() for box in found[:2]]
    assert not theirs.mask[2].any()
    assert len(theirs[theirs.confidence > 0.5]) == 1
    assert found.to_supervision(classes=["x", "cat", "grüner Hund"]).class_id.tolist() == [1, 2, 1]


def test_supervision_of_boxes_alone_and_of_nothing():
    boxes = detections(10, 10, ("", (0, 0, 1, 1))).to_supervision()
    assert boxes.mask is None
    assert boxes.confidence is None
    assert boxes.data["class_name"].tolist() == ["object"]
    assert len(detections(10, 10).to_supervision()) == 0


def test_without_supervision_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UnavailableError, match=r"pip install 'paligemma\[supervision\]'"):
        segmented().to_supervision()


def test_the_shape_of_hugging_faces_pipelines():
    rows = segmented().to_pipeline()
    assert rows[2] == {"score": None, "label": "cat", "box": {"xmin": 30, "ymin": 10, "xmax": 60, "ymax": 30}}
    assert set(rows[0]) == {"score", "label", "box", "mask"}
    assert (rows[0]["mask"].mode, rows[0]["mask"].size) == ("L", (60, 40))
    assert np.array_equal(np.asarray(rows[0]["mask"]) > 0, segmented()[0].mask.array())
    assert all(isinstance(edge, int) for row in rows for edge in row["box"].values())
