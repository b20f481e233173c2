"""The table of formats, and `read_labelled`, which takes any of them."""

import json

import pytest
from PIL import Image

from paligemma.data import LabelledImage, TrueBox, read_labelled
from paligemma.data.example import Example
from paligemma.data.formats import FORMATS, Entry, detect, read, write
from paligemma.errors import InputError, UsageError

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
        LabelledImage(path=folder / "a.png", boxes=(TrueBox(label="cat", xyxy=(1, 2, 30, 40)),), size_px=(64, 48)),
        LabelledImage(path=folder / "images" / "b.png", boxes=(), size_px=(64, 48)),
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
        ("{", "no JSON"),
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
        ({"categories": []}, "annotation 1: points to category 3"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 3}]}, "annotation 1: bbox missing"),
        (
            {"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2]}]},
            "expected [x, y, width, height]",
        ),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 0, 4]}]}, "no area"),
        ({"annotations": [7]}, "annotation [0]: belongs to no image"),
        ({"images": [], "annotations": []}, "lists no picture"),
    ],
)
def test_a_bad_coco_file_is_explained(folder, changes, said):
    (folder / "c.json").write_text(json.dumps(coco(**changes)))
    with pytest.raises(InputError) as caught:
        read_labelled(folder / "c.json")
    assert said in str(caught.value)


def test_one_file_of_labels_must_be_meant(folder):
    with pytest.raises(InputError, match="none of the known formats"):
        read_labelled(folder)
    for name in ("a.json", "b.jsonl"):
        (folder / name).write_text("{}")
    with pytest.raises(InputError, match=r"could be boxes or coco; name the format or the file"):
        read_labelled(folder)
    with pytest.raises(InputError, match="no file or folder"):
        read_labelled(folder / "nowhere")
    (folder / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_labelled(folder / "a.json")


def test_everything_wrong_is_told_at_once(folder):
    bad = [{"image": f"{i}.png", "boxes": []} for i in range(12)]
    with pytest.raises(InputError) as caught:
        read_labelled(write_jsonl(folder, *bad, {"image": "a.png", "boxes": [CAT]}))
    assert "12 entries cannot be used" in str(caught.value)
    assert "line 10" in str(caught.value)
    assert "line 11" not in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_rows_of_text_are_no_labelled_pictures(folder):
    file = write_jsonl(folder, {"image": "a.png", "prefix": "caption en", "suffix": "a cat"})
    assert detect(file) == "jsonl"
    with pytest.raises(InputError, match="rows of text"):
        read_labelled(file)


def test_splits_are_chosen_by_name(folder):
    for split in ("train", "valid"):
        (folder / f"_annotations.{split}.jsonl").write_text(json.dumps({"image": "a.png", "boxes": []}))
    assert [entry.split for entry in read(folder)[0]] == ["train", "valid"]
    assert [entry.split for entry in read(folder, split="valid")[0]] == ["valid"]
    with pytest.raises(InputError, match=r"no split .test.*found train, valid"):
        read(folder, split="test")
    file = write_jsonl(folder, {"image": "a.png", "boxes": []})
    assert [entry.split for entry in read(file, split="test")[0]] == ["test"]


def test_unknown_names_are_refused(folder):
    with pytest.raises(UsageError, match="did you mean 'coco'"):
        read(folder, "coko")
    with pytest.raises(UsageError, match="unknown format"):
        write([], "nothing", folder)
    with pytest.raises(InputError, match="no folder"):
        read(folder, "boxes", images=folder / "nowhere")
    with pytest.raises(InputError, match="there is no file"):
        read(folder / "nowhere", "boxes")


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_says_whether_it_holds_rows(name, folder, tmp_path):
    """What it holds is written and found again; what it does not hold is refused in a sentence."""
    row = Example(id="1", images=(folder / "a.png",), prefix="caption en", suffix="a cat")
    ring = (5.0, 5.0, 20.0, 5.0, 20.0, 25.0, 5.0, 25.0)
    box = TrueBox(label="cat", xyxy=(5, 5, 20, 25), polygons=(ring,))
    picture = LabelledImage(path=folder / "a.png", boxes=(box,), size_px=(64, 48))
    right, wrong = (row, picture) if FORMATS[name].rows else (picture, row)
    out = tmp_path / "out"
    write([Entry("", right)], name, out)
    entries, reading = read(out, detect(out))
    assert [(entry.split, type(entry.item)) for entry in entries] == [("train", type(right))]
    assert reading.problems == []
    with pytest.raises(UsageError):
        write([Entry("", wrong)], name, tmp_path / "other")
