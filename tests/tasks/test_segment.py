"""Segmentation in both directions, and RefCOCO's dialect without words."""

import pytest

from paligemma.errors import InputError, UsageError
from paligemma.tasks.segment import REFCOCO, format_segments, parse_segments, segment_prompt

CODES = "".join(f"<seg{i:03d}>" for i in range(8, 24))
PLACE = "<loc0102><loc0205><loc0921><loc0818>"


def codes_of(reading):
    return [notice.code for notice in reading.warnings]


def test_prompts_of_both_dialects():
    assert segment_prompt(["cat", "dog"]).text == "segment cat ; dog"
    bare = segment_prompt("the left cat", bare=True)
    assert (bare.text, bare.label) == ("the left cat", "the left cat")
    with pytest.raises(UsageError, match="one expression at a time"):
        segment_prompt("cat ; dog", bare=True)


def test_answer_to_codes_and_back():
    raw = f"{PLACE}{CODES} cat ; {PLACE}{CODES} dog"
    reading = parse_segments(raw, (100, 50))
    assert [box.label for box in reading.boxes] == ["cat", "dog"]
    assert reading.boxes[0].mask_codes == tuple(range(8, 24))
    assert codes_of(reading) == ["mask_codes_only"]
    assert format_segments(reading.boxes) == raw


def test_the_dialect_without_words():
    raw = PLACE + CODES
    assert format_segments(parse_segments(raw, (9, 9)).boxes, labels=False) == raw
    (box,) = parse_segments(raw, (9, 9), default_label="left cat").boxes
    assert box.label == "left cat"
    assert REFCOCO == "refcoco-seg"


def test_a_box_without_mask_is_kept_and_said():
    reading = parse_segments(f"{PLACE} cat", (9, 9))
    assert len(reading.boxes) == 1
    assert codes_of(reading) == ["no_mask"]
    with pytest.raises(InputError, match="16 codes"):
        format_segments(reading.boxes)
