import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.formats.made import close, data_sets, drawn_boxes, masked_boxes, plain_boxes, round_trip, same_pixels

from paligemma.data.formats import detect, read
from paligemma.data.formats.labelstudio import SERVED, brush_mask
from paligemma.errors import InputError
from paligemma.results import Mask
from paligemma.results.labelstudio import brush_runs


@given(data_sets(plain_boxes, drawn_boxes, masked_boxes))
@settings(max_examples=12)
def test_pictures_come_back(pictures):
    with round_trip(pictures, "labelstudio") as pairs:
        for mine, theirs in pairs:
            for a, b in zip(mine.boxes, theirs.boxes, strict=True):
                assert a.label == b.label
                if a.polygons is not None and len(a.polygons) == 1:
                    assert close(a.polygons[0], b.polygons[0], 1e-5)
                else:
                    assert same_pixels(a, b, mine.size_px)
                if a.polygons is None or len(a.polygons) == 1:  # else parts become pixels, the box theirs
                    assert close(a.xyxy, b.xyxy, 1e-5)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6))
@settings(max_examples=30)
def test_brush_strokes_are_exact(width, height, seed):
    pixels = np.random.default_rng(seed).random((height, width)) < 0.5
    assert np.array_equal(brush_mask(brush_runs(Mask.from_array(pixels)), (width, height)), pixels)


def packed(bits):
    return list(int(bits, 2).to_bytes((len(bits) + 7) // 8, "big"))


HEAD = f"{2 * 2 * 4:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))


def test_values_one_by_one_are_read_too():
    values = [0, 0, 0, 255, 9, 9, 9, 200, 0, 0, 0, 100, 0, 0, 0, 0]
    bits = HEAD + f"0{1:02b}{15:04b}" + "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    assert brush_mask(packed(bits), (2, 2)).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize(
    "rle", [None, [], [1, 2], [256] * 40, ["1"] * 40, packed(HEAD + "0" * 3), packed(HEAD + "1" * 19), [255] * 100]
)
def test_strokes_that_are_none(rle):
    with pytest.raises(InputError):
        brush_mask(rle, (2, 2))


def region(kind="rectanglelabels", **value):
    place = {"x": 10, "y": 20, "width": 50, "height": 40, "rotation": 0}
    return {"id": "r", "type": kind, "value": {**(place if kind == "rectanglelabels" else {}), kind: ["cat"], **value}}


def put(folder, *regions, image="a.png", **task):
    Image.new("RGB", (100, 50)).save(folder / "a.png")
    given = {"id": 4, "data": {"image": image}, "annotations": [{"result": list(regions)}]} | task
    (folder / "export.json").write_text(json.dumps([given]))
    return folder


def test_percents_become_pixels(tmp_path):
    entries, _ = read(put(tmp_path, region()))
    assert entries[0].item.boxes[0].xyxy == (10, 10, 60, 30)
    assert detect(tmp_path) == "labelstudio"


def test_a_turned_rectangle_is_a_polygon(tmp_path):
    (box,) = read(put(tmp_path, region(x=50, width=30, rotation=90)))[0][0].item.boxes
    assert close(box.xyxy, (30, 10, 50, 40), 1e-6)
    assert close(box.polygons[0], (50, 10, 50, 40, 30, 40, 30, 10), 1e-6)


@pytest.mark.parametrize(
    "image",
    [
        "a.png",
        f"{SERVED}upload/3/0a1b2c3d-a.png",
        f"{SERVED}local-files/?d=a.png",
        f"{SERVED}local-files/?d=in%2Fa.png",
    ],
)
def test_where_pictures_are(tmp_path, image):
    assert read(put(tmp_path, image=image))[0][0].item.path.name == "a.png"


def test_the_annotation_that_counts(tmp_path):
    several = [
        {"result": [region(rectanglelabels=["cancelled"])], "was_cancelled": True},
        {"result": [region(rectanglelabels=["first"])]},
        {"result": [region(rectanglelabels=["truth"])], "ground_truth": True},
    ]
    entries, reading = read(put(tmp_path, annotations=several))
    assert entries[0].item.labels == ["truth"]
    assert reading.ignored["further annotations of a task"] == 1
    entries, _ = read(put(tmp_path, annotations=several[:2]))
    assert entries[0].item.labels == ["first"]
    entries, _ = read(put(tmp_path, annotations=[], predictions=[{"result": [region()]}]))
    assert entries[0].item.labels == ["cat"]


def test_other_regions_are_counted(tmp_path):
    entries, reading = read(put(tmp_path, region(), {"type": "choices", "value": {}}, {"type": "ellipselabels"}, {}))
    assert len(entries[0].item.boxes) == 1
    assert sum(reading.ignored.values()) == 3


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (region(x="1"), "expected percents"),
        (region(x=200), "outside its picture"),
        (region(rectanglelabels=[]), "no label under"),
        (region(rectanglelabels="cat"), "no label under"),
        (region("polygonlabels", points=[[0, 0], [1, 1]]), "at least three"),
        (region("polygonlabels", points=[[0, 0], [1, 1], [1, None]]), "at least three"),
        (region("brushlabels", format="png", rle=[]), "expected 'rle'"),
        (region("brushlabels", format="rle", rle=[0, 0]), "does not belong"),
        ({**region(), "image_rotation": 90}, "turned in Label Studio"),
        ({**region(), "value": 3}, "expected an object"),
    ],
)
def test_bad_regions_are_told(tmp_path, one, said):
    entries, reading = read(put(tmp_path, one))
    assert entries == []
    assert said in str(reading.problems[0])
    assert "task 4" in str(reading.problems[0])


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"data": 3}, "expected an object with the picture's name"),
        ({"data": {}}, "file name is expected"),
        ({"data": {"image": "https://example.org/a.png"}}, "is an address"),
        ({"data": {"image": f"{SERVED}upload/1/../../../b.png"}}, "no picture"),
        ({"annotations": 3}, "expected a list of objects"),
        ({"annotations": [{"result": 3}]}, "expected a list of regions"),
    ],
)
def test_bad_tasks_are_told(tmp_path, task, said):
    _, reading = read(put(tmp_path, **task))
    assert said in str(reading.problems[0])


@pytest.mark.parametrize(("text", "said"), [("{}", "a list of tasks"), ("[", "no JSON")])
def test_a_file_that_is_none(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=said):
        read(tmp_path, "labelstudio")
