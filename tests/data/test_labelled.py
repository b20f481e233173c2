import json

import pytest
from PIL import Image

from paligemma.data import LabelledImage, TrueBox, read_labelled
from paligemma.errors import InputError

CAT = {"label": "cat", "box": [1, 2, 30, 40]}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "b.png")
    return tmp_path


def write_jsonl(folder, *rows):
    file = folder / "labels.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


def coco(**changes):
    tables = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 29, 38]},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        ],
    }
    return tables | changes


def test_both_formats_say_the_same(folder):
    expected = [
        LabelledImage(path=folder / "a.png", boxes=(TrueBox(label="cat", xyxy=(1, 2, 30, 40)),)),
        LabelledImage(path=folder / "images" / "b.png", boxes=()),
    ]
    file = write_jsonl(folder, {"image": "a.png", "boxes": [CAT]}, "", {"image": "b.png", "boxes": []})
    assert read_labelled(file) == expected
    assert read_labelled(folder) == expected
    file.unlink()
    (folder / "annotations.json").write_text(json.dumps(coco()))
    assert read_labelled(folder) == expected
    assert expected[0].labels == ["cat"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 1 is no JSON"),
        ([1], "expected an object with boxes, image"),
        ({"image": "a.png"}, "boxes missing"),
        ({"image": "a.png", "boxs": []}, "unknown key 'boxs'"),
        ({"image": "a.png", "boxes": {}}, "a list under 'boxes'"),
        ({"image": "c.png", "boxes": []}, "no picture 'c.png'"),
        ({"image": "../a.png", "boxes": []}, "outside the folder"),
        ({"image": "a.png", "boxes": [{**CAT, "box": [1, 2, 3]}]}, "box 1: found the box"),
        ({"image": "a.png", "boxes": [{**CAT, "box": [1, 2, "3", 4]}]}, "expected four numbers"),
        ({"image": "a.png", "boxes": [{**CAT, "box": [10, 10, 5, 5]}]}, "no area"),
        ({"image": "a.png", "boxes": [{**CAT, "label": " "}]}, "expected words"),
        ({"image": "a.png", "boxes": [{**CAT, "score": 1}]}, "unknown key 'score'"),
    ],
)
def test_a_bad_line_is_named(folder, row, said):
    with pytest.raises(InputError) as caught:
        read_labelled(write_jsonl(folder, row))
    assert said in str(caught.value)
    assert "labels.jsonl, line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "lacks a list of images"),
        ({"categories": []}, "points to a category or image"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 3}]}, "lacks 'bbox'"),
        (
            {"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2]}]},
            "expected [x, y, width, height]",
        ),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 0, 4]}]}, "no area"),
        ({"annotations": [7]}, "is no COCO file"),
        ({"images": [], "annotations": []}, "lists no picture"),
    ],
)
def test_a_bad_coco_file_is_explained(folder, changes, said):
    (folder / "c.json").write_text(json.dumps(coco(**changes)))
    with pytest.raises(InputError) as caught:
        read_labelled(folder / "c.json")
    assert said in str(caught.value)


def test_one_file_of_labels_must_be_meant(folder):
    with pytest.raises(InputError, match="found none"):
        read_labelled(folder)
    for name in ("a.json", "b.jsonl"):
        (folder / name).write_text("{}")
    with pytest.raises(InputError, match=r"found a\.json, b\.jsonl; name the file"):
        read_labelled(folder)
    with pytest.raises(InputError, match="no file or folder"):
        read_labelled(folder / "nowhere")
    (folder / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        read_labelled(folder / "a.json")
