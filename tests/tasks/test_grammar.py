"""The location alphabet is exact in both dialects; the reader is total and gives back whatever was written."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.errors import InputError, UsageError
from paligemma.results import Box
from paligemma.tasks.grammar import (
    HUGGING_FACE,
    LANGUAGES,
    REFERENCE,
    box_to_text,
    boxes_to_text,
    check_label,
    check_language,
    decode_bin,
    encode_coordinate,
    read_boxes,
    split_objects,
    text_to_boxes,
)

SIZE = (130, 90)
CAT, DOG = "<loc0102><loc0051><loc0920><loc0819>", "<loc0256><loc0512><loc0768><loc0640>"
SEG = "".join(f"<seg{i:03d}>" for i in range(16))
DIALECTS = [REFERENCE, HUGGING_FACE]


def labels(raw, **more):
    boxes, notices = text_to_boxes(raw, SIZE, **more)
    return [box.label for box in boxes], [notice.fragment for notice in notices]


@pytest.mark.parametrize("divisor", DIALECTS)
def test_every_bin_survives_both_ways(divisor):
    for location_bin in range(1024):
        assert encode_coordinate(decode_bin(location_bin, divisor), divisor) == location_bin


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (1, 1023),
        (0.5, 512),
        (0.5 / 1023, 0),
        (1.5 / 1023, 2),
        (2.5 / 1023, 2),
        (-0.1, 0),
        (1.2, 1023),
        (0.4995, 511),
    ],
)
def test_encoding_rounds_half_to_even_and_clips(value, expected):
    assert encode_coordinate(value) == expected


@given(st.floats(0, 1))
def test_encoding_is_within_half_a_bin(value):
    assert abs(decode_bin(encode_coordinate(value)) - value) <= 0.5 / 1023 + 1e-7
    assert encode_coordinate(value) == int(np.clip(np.rint(np.float32(value) * np.float32(1023)), 0, 1023))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_is_no_coordinate(value):
    with pytest.raises(InputError, match="finite"):
        encode_coordinate(value)


def test_y_comes_first_and_the_dialects_differ_by_the_divisor():
    assert box_to_text((0, 0.25, 0.5, 1)) == "<loc0000><loc0256><loc0512><loc1023>"
    (box,), _ = text_to_boxes(CAT, SIZE)
    assert box.box_yxyx_norm == (102 / 1023, 51 / 1023, 920 / 1023, 819 / 1023)
    assert box.xyxy == pytest.approx((51 / 1023 * 130, 102 / 1023 * 90, 819 / 1023 * 130, 920 / 1023 * 90))
    (box,), _ = text_to_boxes(CAT, SIZE, divisor=HUGGING_FACE)
    assert box.box_yxyx_norm == (102 / 1024, 51 / 1024, 920 / 1024, 819 / 1024)
    assert box.loc == (102, 51, 920, 819)


@pytest.mark.parametrize(
    ("raw", "found", "rejected"),
    [
        ("", [], []),
        ("no objects", [], ["no objects"]),
        (f"{CAT} cat", ["cat"], []),
        (f"{CAT} cat ; {DOG} dog", ["cat", "dog"], []),
        (f"{CAT} cat;{DOG} dog", ["cat", "dog"], []),
        (f"{CAT} cat; {DOG} dog ; ", ["cat", "dog"], []),
        (f"{CAT} a\n{DOG} b", ["a", "b"], []),
        (f"{CAT}  double  space  ;  {DOG} x", ["double  space", "x"], []),
        (f"{CAT};{DOG}", ["", ""], []),
        (f"{CAT}{DOG} both", ["", "both"], []),
        (f"{CAT} 猫 ; {DOG} großer Hund", ["猫", "großer Hund"], []),
        (f"{CAT} a < b ; {DOG} c > d", ["a < b", "c > d"], []),
        (f"{CAT} l'été, (2) / 50% & \"x\"", ["l'été, (2) / 50% & \"x\""], []),
        (f"here: {CAT} cat ; dog ; {DOG} dog", ["cat", "dog"], ["here:", "dog"]),
        ("<loc0001><loc0002><loc0003> three only", [], ["<loc0001><loc0002><loc0003> three only"]),
        (f"{CAT}<loc0819> five", [""], ["<loc0819> five"]),
        ("<loc1024><loc0000><loc1500><loc9999> outside", [], ["<loc1024>", "<loc0000><loc1500><loc9999> outside"]),
        ("<loc0700><loc0100><loc0300><loc0500> upside down", [], ["<loc0700><loc0100><loc0300><loc0500> upside down"]),
        ("<loc0512><loc0512><loc0512><loc0600> flat", [], ["<loc0512><loc0512><loc0512><loc0600> flat"]),
        (f"{SEG} only a mask", [], [f"{SEG} only a mask"]),
        (f"<loc0102><loc0051><loc09 {CAT} cat", ["cat"], ["<loc0102><loc0051><loc09"]),
    ],
)  # fmt: skip
def test_tolerant_reading(raw, found, rejected):
    got_labels, got_fragments = labels(raw)
    assert got_labels == found
    assert [f.replace(" ", "") for f in got_fragments] == [f.replace(" ", "") for f in rejected]


def test_a_rejected_fragment_says_why_and_where():
    _, (notice,) = text_to_boxes(f"{CAT} cat ; <loc0001> dog", SIZE)
    assert notice.code == "rejected"
    assert notice.at == f"{CAT} cat ; <loc0001> dog".index("<loc0001>")
    assert "1 location tokens where a box needs 4" in notice.message


@pytest.mark.parametrize(("count", "kept"), [(0, None), (15, None), (16, 16), (17, 16)])
def test_mask_tokens_come_in_sixteens(count, kept):
    codes = "".join(f"<seg{i:03d}>" for i in range(count))
    (box,), notices = text_to_boxes(f"{CAT}{codes} cat ; ", SIZE)
    assert box.label == "cat"
    assert box.mask_codes == (None if kept is None else tuple(range(16)))
    assert len(notices) == (count in (15, 17))


def test_spaces_between_tokens_and_default_labels():
    raw = f"{CAT.replace('>', '> ')} {SEG}"
    (box,), notices = text_to_boxes(raw, SIZE, default_label="left cat")
    assert (box.label, box.mask_codes, notices) == ("left cat", tuple(range(16)), ())


bins = st.tuples(*[st.integers(0, 1023)] * 4).filter(lambda b: b[0] < b[2] and b[1] < b[3])
codes = st.none() | st.tuples(*[st.integers(0, 127)] * 16)
any_label = st.text(max_size=12).map(lambda t: t.replace(";", ",").strip())


@settings(max_examples=80, deadline=None)
@given(
    drawn=st.lists(st.tuples(any_label, bins, codes), max_size=5),
    divisor=st.sampled_from(DIALECTS),
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
)
def test_reading_gives_back_what_was_written(drawn, divisor, size):
    boxes = tuple(
        Box(
            label=label, box_yxyx_norm=tuple(b / divisor for b in loc), loc=loc, mask_codes=mask, image_size_px=size
        )
        for label, loc, mask in drawn
    )  # fmt: skip
    plain = tuple(box for box in boxes if box.mask_codes is None)
    assert text_to_boxes(boxes_to_text(plain, divisor=divisor), size, divisor=divisor) == (plain, ())
    masked = tuple(box for box in boxes if box.mask_codes is not None)
    raw = boxes_to_text(masked, divisor=divisor, masks=True)
    assert text_to_boxes(raw, size, divisor=divisor) == (masked, ())
    assert boxes_to_text(text_to_boxes(raw, size, divisor=divisor)[0], divisor=divisor, masks=True) == raw
    for some, with_masks in ((plain, False), (masked, True)):  # RefCOCO's dialect leaves the label out
        nameless = tuple(replace(box, label="thing") for box in some)
        raw = boxes_to_text(some, divisor=divisor, labels=False, masks=with_masks)
        assert text_to_boxes(raw, size, divisor=divisor, default_label="thing") == (nameless, ())


def test_a_reading_says_which_characters_each_box_came_from():
    raw = f"oh {CAT}{SEG} cat ; {DOG}{CAT} two  ; <loc0001> ; {DOG}"
    reading = read_boxes(raw, SIZE)
    assert [raw[span.start : span.end] for span in reading.spans] == [f"{CAT}{SEG} cat", DOG, f"{CAT} two", DOG]
    assert [span.num_masks for span in reading.spans] == [16, 0, 0, 0]
    assert reading.text == "cat ; two"


PIECES = [
    "<loc0000>",
    "<loc0511>",
    "<loc1023>",
    "<seg000>",
    "<seg127>",
    " ",
    ";",
    " ; ",
    "cat",
    "\n",
    "<",
    "<loc",
    "é",
    "0",
]


def check_total(raw):
    boxes, notices = text_to_boxes(raw, SIZE)
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        assert 0 <= x1 < x2 <= 130
        assert 0 <= y1 < y2 <= 90
    for notice in notices:
        assert raw[notice.at :].startswith(notice.fragment)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=60).map("".join))
def test_any_text_gives_boxes_inside_the_picture_and_no_exception(raw):
    check_total(raw)


def test_many_random_token_sequences():
    rng = random.Random(0)
    tokens = [f"<loc{i:04d}>" for i in range(0, 1024, 31)] * 2 + [f"<seg{i:03d}>" for i in range(0, 128, 9)] + PIECES
    for _ in range(3000):
        check_total("".join(rng.choices(tokens, k=rng.randint(0, 40))))


def test_a_long_answer_is_read_in_linear_time():
    boxes, _ = text_to_boxes(f"{CAT} cat ; " * 2000 + "<loc0001>" * 4999, SIZE)
    assert len(boxes) == 2000  # the tail's boxes have no area


@pytest.mark.parametrize("label", ["a;b", " a", "a\n", "x <loc0001>", "<seg000>"])
def test_labels_that_could_not_be_read_back_are_refused(label):
    with pytest.raises(InputError, match="rename it"):
        check_label(label)


def test_boxes_and_masks_that_could_not_be_read_back_are_refused():
    thin = Box(label="x", box_yxyx_norm=(0.5, 0, 0.5001, 1), image_size_px=SIZE)
    with pytest.raises(InputError, match="thinner than one location bin"):
        boxes_to_text([thin])
    for mask in (None, (1, 2), tuple(range(113, 129))):
        box = Box(label="x", box_yxyx_norm=(0, 0, 1, 1), image_size_px=SIZE, mask_codes=mask)
        with pytest.raises(InputError, match="16 codes"):
            boxes_to_text([box], masks=True)


def test_languages():
    assert len(LANGUAGES) == 36
    assert check_language(" EN ") == "en"
    with pytest.raises(UsageError, match="unknown language 'english'"):
        check_language("english")


def test_objects_from_a_list_or_a_string():
    assert split_objects("cat;dog ; big  red bus") == ["cat", "dog", "big red bus"]
    assert split_objects(["cat", "dog ; bird", " "]) == ["cat", "dog", "bird"]
    for nothing in ("", " ; ", []):
        with pytest.raises(UsageError, match="no object"):
            split_objects(nothing)
