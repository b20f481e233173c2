import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as oracle
from tests.data.formats.made import close, data_sets, drawn_boxes, masked_boxes, plain_boxes, round_trip

from paligemma.data.formats import Reading, coco, detect, read
from paligemma.errors import InputError


@given(data_sets(plain_boxes, drawn_boxes, masked_boxes))
@settings(max_examples=12)
def test_pictures_come_back(pictures):
    with round_trip(pictures, "coco") as pairs:
        for mine, theirs in pairs:
            for a, b in zip(mine.boxes, theirs.boxes, strict=True):
                assert (a.label, a.runs, a.polygons, a.crowd) == (b.label, b.runs, b.polygons, b.crowd)
                assert close(a.xyxy, b.xyxy, 0.0011)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "val2017" / "a.png")
    return tmp_path


def annotation(number=1, **changes):
    return {"id": number, "image_id": 1, "category_id": 5, "bbox": [2, 3, 4, 5]} | changes


def put(folder, *annotations, **changes):
    tables = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": list(annotations),
    }
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(tables | changes))
    (folder / "annotations" / "captions_val2017.json").write_text("{}")
    return folder


def test_the_published_layout_is_found(folder):
    put(folder, annotation(), annotation(2, iscrowd=1, category_id=2))
    assert detect(folder) == "coco"
    entries, reading = read(folder)
    assert [entry.split for entry in entries] == ["valid"]
    assert [(box.label, box.xyxy, box.crowd) for box in entries[0].item.boxes] == [
        ("cat", (2, 3, 6, 8), False), ("dog", (2, 3, 6, 8), True),
    ]  # fmt: skip
    assert reading.classes == ["cat", "dog"]


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_run_lengths_are_read_as_pycocotools_reads_them(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    pixels = np.random.default_rng(seed).random((10, 20)) < 0.4
    pixels[3, 4] = True
    packed = oracle.encode(np.asfortranarray(pixels.astype(np.uint8)))
    counts, value = [], 0
    for pixel in pixels.T.ravel().tolist():
        if pixel != value:
            counts, value = [*counts, 0] if counts or not pixel else [0, 0], pixel
        elif not counts:
            counts = [0]
        counts[-1] += 1
    compressed = {"size": [10, 20], "counts": packed["counts"].decode()}
    plain = {"size": [10, 20], "counts": counts}
    put(folder, annotation(1, segmentation=compressed), annotation(2, segmentation=plain, iscrowd=1))
    boxes = read(folder, images=folder)[0][0].item.boxes
    for box in boxes:
        assert np.array_equal(box.mask((20, 10)).array(), pixels)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bbox": [2, 3, -4, 5]}, "no area"),
        ({"bbox": [2, 3, 1e9, 5]}, "expected [x, y, width, height]"),
        ({"bbox": [2, 3, 30, 5]}, "outside its picture of 20 x 10 px"),
        ({"category_id": 7}, "points to category 7"),
        ({"category_id": [7]}, "points to category [7]"),
        ({"segmentation": [[1, 2, 3]]}, "at least three"),
        ({"segmentation": {"size": [10, 20], "counts": [3]}}, "cover 3 pixels"),
        ({"segmentation": "x"}, "of size None"),
        ({"image_id": 2}, "belongs to no image"),
        ({"image_id": [1]}, "belongs to no image"),
    ],
)
def test_a_bad_annotation_is_told_and_takes_its_picture_along(folder, change, said):
    put(folder, annotation(31, **change), annotation(32))
    reading = Reading(folder)
    found = list(coco.read(folder, reading))
    assert len(found) == (1 if "image_id" in change else 0)
    assert len(reading.problems) == 1
    assert said in str(reading.problems[0])
    assert "annotation 31" in str(reading.problems[0])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"id": 1, "file_name": "b.png"}, "no picture 'b.png'"),
        ({"id": 1, "file_name": "../../a.png"}, "outside the folder"),
        ({"id": 1, "file_name": "http://example.org/a.png"}, "is an address"),
        ({"id": 1, "file_name": "a.png", "width": 10, "height": 20}, "20 x 10 px, the labels say 10 x 20; its EXIF"),
        ({"id": 1}, "file_name missing"),
        ({"file_name": "a.png"}, "no id of its own"),
        (3, "no id of its own"),
    ],
)
def test_a_bad_image_is_told(folder, image, said):
    put(folder, images=[image])
    reading = Reading(folder)
    assert list(coco.read(folder, reading)) == []
    assert said in str(reading.problems[0])


def test_one_id_names_one_image(folder):
    put(folder, annotation(), images=[{"id": 1, "file_name": "a.png"}] * 2)
    reading = Reading(folder)
    assert len(list(coco.read(folder, reading))) == 1
    assert "no id of its own" in reading.problems[0].why


def test_a_hair_outside_is_cut_and_counted(folder):
    entries, reading = read(put(folder, annotation(bbox=[-0.5, 0, 21, 10])))
    assert entries[0].item.boxes[0].xyxy == (0, 0, 20, 10)
    assert reading.cut == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images": [], "images": []}', "stands twice"),
        ('{"images": [NaN]}', "NaN"),
        ('{"images": [' + "9" * 5000 + "]}", "5000 digits"),
        ("[" * 100_000, "nested too deep"),
        ('{"images": []}', "lacks a list"),
        ("\ufeff{", "no JSON"),
        ("", "no JSON"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="is no COCO file") as caught:
        read(tmp_path / "a.json", "coco")
    assert said in str(caught.value)
