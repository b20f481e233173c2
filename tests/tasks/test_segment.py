"""Segmentation in both directions, and RefCOCO's dialect without words."""

import numpy as np
import pytest

from paligemma.errors import InputError, UsageError
from paligemma.tasks.segment import REFCOCO, decode_boxes, format_segments, parse_segments, segment_prompt, with_masks

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


class Decoder:
    """Masks whose upper half is object; keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, codes):
        self.calls.append(list(codes))
        upper = np.where(np.arange(64) < 32, 1.0, -1.0)[:, None]
        return np.repeat(np.broadcast_to(upper, (1, 64, 64)), len(codes), axis=0).astype(np.float32)


def test_a_decoder_makes_masks_of_codes():
    reading = parse_segments(f"{PLACE}{CODES} cat ; {PLACE} dog", (100, 50), decode=Decoder())
    cat, dog = reading.boxes
    assert (cat.mask.codes, cat.mask.box_yxyx_norm, cat.mask.image_size_px) == (
        tuple(range(8, 24)), cat.box_yxyx_norm, (100, 50),
    )  # fmt: skip
    assert cat.mask.convention == "big_vision"
    left, top, right, bottom = (int(edge) for edge in cat.xyxy)
    assert abs(cat.mask.area_px - (right - left) * (bottom - top) / 2) <= right - left  # half of it, to a row
    assert dog.mask is None
    assert codes_of(reading) == ["no_mask"]


def test_without_a_decoder_the_codes_and_the_command_stay():
    (notice,) = parse_segments(PLACE + CODES, (9, 9)).warnings
    assert "paligemma pull vae-oid" in notice.message


def test_the_masks_of_a_batch_are_decoded_in_one_call():
    raws = [f"{PLACE}{CODES} a ; {PLACE} b ; {PLACE}{CODES} c", "nothing", f"{PLACE}{CODES}"]
    readings = [parse_segments(raw, (30, 20)) for raw in raws]
    decode = Decoder()
    decoded = with_masks(readings, decode)
    assert [len(call) for call in decode.calls] == [3]
    assert [[box.mask is not None for box in reading.boxes] for reading in decoded] == [[True, False, True], [], [True]]
    assert [codes_of(reading) for reading in decoded] == [["no_mask"], ["rejected"], []]
    assert decoded == [parse_segments(raw, (30, 20), decode=Decoder()) for raw in raws]
    assert decode_boxes([], decode) == []
    assert len(decode.calls) == 1


def test_hugging_faces_divisor_pastes_as_its_demo():
    (box,) = parse_segments(PLACE + CODES, (100, 50), divisor=1024, decode=Decoder()).boxes
    assert box.mask.convention == "demo"


def test_refcoco_answers_get_masks_too():
    (box,) = parse_segments(PLACE + CODES, (100, 50), default_label="left cat", decode=Decoder()).boxes
    assert (box.label, box.mask.area_px > 0) == ("left cat", True)
    assert format_segments([box], labels=False) == PLACE + CODES
