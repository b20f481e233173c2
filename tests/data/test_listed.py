import copy
import json

import pytest
from PIL import Image

from paligemma.data.listed import BadRow, ListedSource

ROW = {"image": "a.png", "prefix": "caption en", "suffix": "a cat"}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "b.png")
    return tmp_path


def source(folder, *rows, prefix=None):
    file = folder / "train.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return ListedSource(file, name="cats", prefix=prefix)


def test_rows_become_examples(folder):
    rows = source(folder, ROW, ROW | {"image": ["a.png", "b.png"], "suffix": ""})
    first, second = rows[0], rows[1]
    assert (first.id, first.source, first.prefix, first.suffix) == ("train.jsonl:1", "cats", "caption en", "a cat")
    assert first.images == (folder / "a.png",)
    assert second.images == (folder / "a.png", folder / "images" / "b.png")
    assert second.suffix == ""


@pytest.mark.parametrize(
    "row",
    [
        {"images": ["a.png"], "prefix": "caption en", "suffix": "a cat"},
        {"file_name": "a.png", "prefix": "caption en", "text": "a cat"},
        {"id": 7, **ROW},
        {"image": "a.png", "suffix": "a cat"},
    ],
)
def test_other_spellings_mean_the_same(folder, row):
    found = source(folder, row, prefix="caption en")[0]
    assert (found.images, found.prefix, found.suffix) == ((folder / "a.png",), "caption en", "a cat")


def test_a_prompt_of_its_own_is_kept(folder):
    assert source(folder, ROW, prefix="describe en")[0].prefix == "caption en"


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"sufix": "x"}, "sufix", "did you mean 'suffix'"),
        ({"prefix": None}, "prefix", "no prefix"),
        ({"suffix": 7}, "suffix", "expected a text"),
        ({"images": ["a.png"]}, "image", "both image and images"),
        ({"file_name": "a.png"}, "file_name", "same meaning"),
        ({"image": []}, "image", "empty list"),
        ({"image": "c.png"}, "image", "no picture"),
        ({"image": "../a.png"}, "image", "outside"),
        ({"image": "/etc/hostname"}, "image", "outside"),
        ({"image": "http://host/a.png"}, "image", "address"),
        ({"image": "file:///a.png"}, "image", "address"),
        ({"image": "images"}, "image", "no picture"),
        ({"image": "a.png\0"}, "image", "file name"),
        ({"image": 3}, "image", "file name"),
    ],
)
def test_a_bad_row_names_its_line_field_and_reason(folder, change, field, told):
    rows = source(folder, ROW, ROW | change)
    assert rows[0].suffix == "a cat"
    with pytest.raises(BadRow, match=told) as caught:
        rows[1]
    assert caught.value.field == field
    assert str(caught.value).startswith("train.jsonl:2: ")


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "c.png"
    Image.new("RGB", (8, 8)).save(outside)
    (folder / "c.png").symlink_to(outside)
    with pytest.raises(BadRow, match="outside"):
        source(folder, ROW | {"image": "c.png"})[0]


def test_no_image_at_all(folder):
    with pytest.raises(BadRow, match="neither image nor images"):
        source(folder, {"prefix": "a", "suffix": "b"})[0]


def test_the_error_survives_the_way_between_processes():
    error = copy.copy(BadRow("a.jsonl:1", "image", "gone"))
    assert (str(error), error.field) == ("a.jsonl:1: gone", "image")
