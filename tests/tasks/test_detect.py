"""Detection in both directions."""

from dataclasses import replace

import pytest

from paligemma.errors import UsageError
from paligemma.tasks.detect import detect_prompt, drop_duplicates, format_detections, parse_detections

SIZE = (640, 480)
CAT, DOG = "<loc0102><loc0051><loc0920><loc0819>", "<loc0256><loc0512><loc0768><loc0640>"
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


def test_duplicates_are_dropped_by_label_and_overlap():
    near = "<loc0102><loc0051><loc0920><loc0800>"
    raw = f"{CAT} cat ; {near} cat ; {near} dog ; {DOG} cat"
    reading = parse_detections(raw, SIZE)
    once = drop_duplicates(reading)
    assert [(box.label, box.loc[3]) for box in once.boxes] == [("cat", 819), ("dog", 800), ("cat", 640)]
    assert once.text == "cat ; dog ; cat"
    assert [raw[span.start : span.end] for span in once.spans] == [f"{CAT} cat", f"{near} dog", f"{DOG} cat"]
    (notice,) = once.warnings
    assert (notice.code, "1 box (cat)" in notice.message) == ("duplicate", True)
    assert drop_duplicates(reading, iou=0.99) == reading
    assert drop_duplicates(once) == once


def test_the_best_scored_of_duplicates_stays():
    reading = parse_detections(f"{CAT} cat ; {CAT} cat ; {CAT} cat", SIZE)
    scored = replace(
        reading, boxes=tuple(replace(box, score=s) for box, s in zip(reading.boxes, (0.2, 0.9, None), strict=True))
    )
    assert [box.score for box in drop_duplicates(scored).boxes] == [0.9]
    assert len(drop_duplicates(reading).boxes) == 1


@pytest.mark.parametrize("iou", [0, -1, 1.1, float("nan")])
def test_an_overlap_is_a_share(iou):
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        drop_duplicates(parse_detections("", SIZE), iou=iou)
