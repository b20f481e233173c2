"""Pictures with objects -> training rows -> the same pictures: boxes within half a bin, masks as the codec says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma.checkpoints import load_codec
from paligemma.data.convert import Rules, from_rows, to_rows
from paligemma.data.example import Example
from paligemma.data.formats import Entry, Reading
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import UsageError
from paligemma.tasks import TASKS
from paligemma.tasks.grammar import encode_coordinate

SIZE = (400, 300)
NANO = Path(__file__).parents[2] / "src" / "paligemma" / "checkpoints" / "nano" / "mask_codec.npz"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.new("RGB", SIZE).save(path)
    return path


@pytest.fixture(scope="module")
def codec():
    return load_codec(NANO)


def box(label, x1, y1, x2, y2, **more):
    return TrueBox(label=label, xyxy=(x1, y1, x2, y2), **more)


def ring(x1, y1, x2, y2):
    return ((x1, y1, x2, y1, x2, y2, x1, y2),)


def rows_of(picture, *boxes, classes=(), split="", codec=None, **rules):
    reading = Reading(picture.parent)
    reading.classes += classes
    item = LabelledImage(path=picture, boxes=boxes, size_px=SIZE)
    return to_rows([Entry(split, item)], reading, Rules(**rules), codec), reading


def texts(rows):
    return [(entry.item.prefix, entry.item.suffix) for entry in rows.entries]


CAT, DOG, CAT2 = box("cat", 40, 30, 200, 180), box("dog", 0, 0, 400, 300), box("cat", 300, 30, 320, 60)
CAT_TEXT = "<loc0102><loc0102><loc0614><loc0512> cat"
DOG_TEXT = "<loc0000><loc0000><loc1023><loc1023> dog"
CAT2_TEXT = "<loc0102><loc0767><loc0205><loc0818> cat"


def test_one_prompt_for_a_picture_or_for_each_label(picture):
    rows, reading = rows_of(picture, CAT, DOG, CAT2, split="valid")
    assert texts(rows) == [("detect cat ; dog", f"{CAT_TEXT} ; {DOG_TEXT} ; {CAT2_TEXT}")]
    assert rows.entries[0].split == "valid"
    assert rows.entries[0].item.images == (picture,)
    assert rows.objects == 3
    rows, reading = rows_of(picture, CAT, DOG, CAT2, one_prompt_per="label")
    assert texts(rows) == [("detect cat", f"{CAT_TEXT} ; {CAT2_TEXT}"), ("detect dog", DOG_TEXT)]
    assert reading.problems == []


def test_all_labels_are_asked_where_that_is_wanted(picture):
    rows, _ = rows_of(picture, DOG, classes=["bus", "cat", "dog"], ask="all")
    assert texts(rows) == [("detect bus ; cat ; dog", DOG_TEXT)]
    rows, _ = rows_of(picture, DOG, classes=["bus", "cat"], ask="all", one_prompt_per="label")
    assert texts(rows) == [("detect bus", ""), ("detect cat", ""), ("detect dog", DOG_TEXT)]


def test_a_picture_without_objects_needs_all_labels(picture):
    rows, _ = rows_of(picture, classes=["cat"])
    assert rows.entries == []
    assert rows.left_out["pictures without objects"] == 1
    rows, _ = rows_of(picture, classes=["cat"], ask="all")
    assert texts(rows) == [("detect cat", "")]


def test_crowds_are_neither_objects_nor_absent(picture):
    crowd = replace(DOG, crowd=True)
    rows, _ = rows_of(picture, CAT, crowd, classes=["cat", "dog", "bus"], ask="all")
    assert texts(rows) == [("detect cat ; bus", CAT_TEXT)]
    assert rows.left_out["crowds"] == 1
    rows, _ = rows_of(picture, crowd, CAT, replace(CAT2, label="dog"), ask="all")
    assert texts(rows) == [("detect dog ; cat", f"{CAT_TEXT} ; {CAT2_TEXT[:-3]}dog")]


def test_orders(picture):
    boxes = (CAT2, DOG, CAT)
    said = {order: texts(rows_of(picture, *boxes, order=order)[0])[0][1] for order in ("file", "area", "left")}
    assert said["file"] == f"{CAT2_TEXT} ; {DOG_TEXT} ; {CAT_TEXT}"
    assert said["area"] == f"{DOG_TEXT} ; {CAT_TEXT} ; {CAT2_TEXT}"
    assert said["left"] == f"{CAT_TEXT} ; {DOG_TEXT} ; {CAT2_TEXT}"
    drawn = [texts(rows_of(picture, *boxes, order="random", seed=seed)[0])[0][1] for seed in (0, 0, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert all(sorted(text.split(" ; ")) == sorted(said["file"].split(" ; ")) for text in drawn)


def test_a_thin_object_gets_one_bin(picture):
    rows, reading = rows_of(picture, box("hair", 399.9, 10, 400, 200), box("hair", 0, 10.1, 50, 10.2))
    assert reading.problems == []
    (found,) = back(rows, picture)
    for true in found.boxes:
        assert true.xyxy[0] < true.xyxy[2]
        assert true.xyxy[1] < true.xyxy[3]


def test_what_no_suffix_can_say_is_told(picture):
    rows, reading = rows_of(picture, box("cat ; dog", 0, 0, 10, 10))
    assert rows.entries == []
    assert "holds ';'" in reading.problems[0].why
    rows, reading = rows_of(picture, CAT, task="segment", codec=object())
    assert "has a box and no mask" in reading.problems[0].why
    with pytest.raises(UsageError, match="needs a mask codec"):
        rows_of(picture, CAT, task="segment")


def back(rows, picture, codec=None):
    reading = Reading(picture.parent)
    found = from_rows(rows.entries, reading, codec)
    assert reading.problems == []
    return [entry.item for entry in found.entries]


@st.composite
def objects(draw):
    label = draw(st.sampled_from(["cat", "traffic light", "猫", "être", "a-b/c", "loc0001"]))
    x1, y1 = draw(st.floats(0, SIZE[0] - 2)), draw(st.floats(0, SIZE[1] - 2))
    x2, y2 = draw(st.floats(x1 + 1, SIZE[0])), draw(st.floats(y1 + 1, SIZE[1]))
    return box(label, x1, y1, x2, y2)


@given(st.lists(objects(), min_size=1, max_size=6), st.sampled_from(["image", "label"]))
@settings(max_examples=30)
def test_boxes_come_back_within_half_a_bin(picture, boxes, per):
    rows, reading = rows_of(picture, *boxes, one_prompt_per=per)
    assert reading.problems == []
    (found,) = back(rows, picture)
    assert found.size_px == SIZE
    assert found.path == picture
    half = [side / 2046 + 1e-3 for side in (*SIZE, *SIZE)]
    bins = {}  # two objects in the same bins are one
    for true in boxes:
        key = (
            true.label,
            tuple(encode_coordinate(edge / side) for edge, side in zip(true.xyxy, SIZE * 2, strict=True)),
        )
        bins[key] = true
    for true in bins.values():
        assert any(
            true.label == other.label
            and all(abs(a - b) <= h for a, b, h in zip(true.xyxy, other.xyxy, half, strict=True))
            for other in found.boxes
        )
    assert len(found.boxes) == len(bins)


def test_masks_come_back_as_the_codec_gives_them(picture, codec):
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    disc = (x - 120) ** 2 + (y - 100) ** 2 < 60**2
    from paligemma.results import rle

    boxes = (
        box("ball", 60, 40, 180, 160, runs=rle.encode(disc)["counts"]),
        box("frame", 250, 60, 380, 240, polygons=ring(250, 60, 380, 240)),
    )
    rows, reading = rows_of(picture, *boxes, task="segment", codec=codec)
    assert reading.problems == []
    assert [entry.item.prefix for entry in rows.entries] == ["segment ball ; frame"]
    figures = rows.mask_figures()
    assert figures["masks"] == 2
    assert figures["worst"] == min(rows.masks) > 0.8
    (found,) = back(rows, picture, codec)
    for true, other, iou in zip(boxes, found.boxes, rows.masks, strict=True):
        assert true.label == other.label
        assert true.mask(SIZE).iou(other.mask(SIZE)) == pytest.approx(iou, abs=1e-6)
    plain = from_rows(rows.entries, Reading(picture.parent))
    assert [true.has_mask for true in plain.entries[0].item.boxes] == [False, False]
    assert plain.left_out["masks, for want of a codec"] == 2


def test_one_bad_mask_does_not_spoil_the_others(picture, codec):
    sound = LabelledImage(path=picture, boxes=(box("a", 10, 10, 90, 90, polygons=ring(10, 10, 90, 90)),), size_px=SIZE)
    empty = replace(sound, boxes=(box("b", 10, 10, 90, 90, polygons=ring(10, 10, 10.1, 10.1)),))
    reading = Reading(picture.parent)
    rows = to_rows([Entry("", sound), Entry("", empty), Entry("", sound)], reading, Rules(task="segment"), codec)
    assert len(rows.entries) == 2
    assert len(reading.problems) == 1
    assert "is empty" in reading.problems[0].why


def row(picture, prefix, suffix):
    return Entry("", Example(id="train.jsonl:1", images=(picture,), prefix=prefix, suffix=suffix))


def test_rows_of_one_picture_become_one(picture):
    entries = [row(picture, "detect cat", CAT_TEXT), row(picture, "detect cat ; dog", f"{CAT_TEXT} ; {DOG_TEXT}")]
    found = from_rows(entries, Reading(picture.parent))
    assert [true.label for true in found.entries[0].item.boxes] == ["cat", "dog"]
    assert len(found.entries) == 1
    assert found.objects == 2


def test_rows_without_boxes_are_counted_and_refcoco_is_understood(picture):
    entries = [row(picture, "caption en", "a cat"), row(picture, "left cat", CAT_TEXT.removesuffix(" cat"))]
    found = from_rows(entries, Reading(picture.parent))
    assert [true.label for true in found.entries[0].item.boxes] == ["left cat"]
    assert found.left_out["rows without boxes"] == 1
    empty = from_rows([row(picture, "detect cat", "")], Reading(picture.parent))
    assert empty.entries[0].item.boxes == ()


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("<loc0001><loc0002><loc0003> cat", "cannot be read"),
        ("<loc0500><loc0002><loc0003><loc0004> cat", "without area"),
        ("a cat", "cannot be read"),
        (CAT_TEXT.removesuffix(" cat"), "without a label"),
    ],
)
def test_a_suffix_that_cannot_be_read_is_told(picture, suffix, said):
    reading = Reading(picture.parent)
    found = from_rows([row(picture, "detect cat", suffix)], reading)
    assert found.entries == []
    assert said in reading.problems[0].why
    assert reading.problems[0].where == "train.jsonl:1"


def test_rows_of_several_pictures_have_no_boxes(picture):
    reading = Reading(picture.parent)
    example = Example(id="1", images=(picture, picture), prefix="detect cat", suffix=CAT_TEXT)
    from_rows([Entry("", example)], reading)
    assert "2 pictures" in reading.problems[0].why


def test_what_is_that_already_stays(picture):
    example = row(picture, "caption en", "a cat")
    item = Entry("", LabelledImage(path=picture, boxes=(CAT,), size_px=SIZE))
    assert to_rows([example], Reading(picture.parent), Rules()).entries == [example]
    assert from_rows([item], Reading(picture.parent)).entries == [item]


def test_suffixes_are_those_of_the_tasks(picture):
    rows, _ = rows_of(picture, CAT, DOG)
    reading = TASKS["detect"].parse(rows.entries[0].item.suffix, SIZE)
    assert reading.warnings == ()
    assert [b.label for b in reading.boxes] == ["cat", "dog"]
