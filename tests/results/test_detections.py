"""Detections are a sequence that filters like an array."""

from tests.results.made import detections

from paligemma.results import Detections


def test_detections_are_a_sequence():
    found = detections(64, 48, ("cat", (0, 0, 0.5, 0.5)), ("dog", (0.5, 0.5, 1, 1)))
    assert len(found) == 2
    assert [box.label for box in found] == ["cat", "dog"]
    assert found[1].label == "dog"
    assert [box.label for box in found[1:]] == ["dog"]
    assert isinstance(found[:1], Detections)
    assert len(found.to_dict()["boxes"]) == 2
    assert not detections(8, 8)
