"""Detection in both directions."""

import pytest

from paligemma.errors import UsageError
from paligemma.tasks.detect import detect_prompt, format_detections, parse_detections

FRACTURE = "<loc0260><loc0419><loc0292><loc0633> fracture"


@pytest.mark.parametrize("objects", ["cat ; dog", "cat;dog", ["cat", "dog"], ("cat ", " dog")])
def test_names_are_joined_as_in_pre_training(objects):
    assert detect_prompt(objects).text == "detect cat ; dog"
    assert not detect_prompt(objects).allow


def test_a_name_that_looks_like_a_token_stays_the_users_words():
    assert detect_prompt("<loc0001>").allow == frozenset()


def test_no_name_is_an_error():
    with pytest.raises(UsageError, match="no object"):
        detect_prompt([])


def test_answer_to_boxes_and_back():
    raw = f"{FRACTURE} ; <loc0000><loc0000><loc1023><loc1023> cast"
    reading = parse_detections(raw, (448, 224))
    assert reading.text == "fracture ; cast"
    assert [box.loc for box in reading.boxes] == [(260, 419, 292, 633), (0, 0, 1023, 1023)]
    assert reading.warnings == ()
    assert format_detections(reading.boxes) == raw
    other = parse_detections(raw, (448, 224), divisor=1024)
    assert format_detections(other.boxes, divisor=1024) == raw


def test_an_answer_without_boxes_keeps_its_words():
    reading = parse_detections("<loc0001> no such thing", (10, 10))
    assert reading.boxes == ()
    assert reading.text == "no such thing"
    assert [notice.code for notice in reading.warnings] == ["rejected"]
    assert [notice.code for notice in parse_detections("", (10, 10)).warnings] == ["empty"]
