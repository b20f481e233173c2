import json

import pytest
from PIL import Image

from paligemma.checkpoints import find_codec, load_codec, resolve
from paligemma.data.convert import Rules
from paligemma.data.labelled_source import open_labelled
from paligemma.data.listed import BadRow
from paligemma.errors import InputError, UsageError

SQUARE = [20, 10, 60, 10, 60, 50, 20, 50]


@pytest.fixture
def coco(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (80, 60)).save(tmp_path / name)
    tables = {
        "images": [
            {"id": i, "file_name": name, "width": 80, "height": 60} for i, name in enumerate(("a.png", "b.png"))
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "bbox": [20, 10, 40, 40], "segmentation": [SQUARE]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [20, 10, 40, 40], "segmentation": [SQUARE]},
        ],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(tables))
    return file


def test_labelled_pictures_become_rows(coco):
    source = open_labelled(coco, name="pets")
    assert [source[i].prefix for i in range(len(source))] == ["detect cat", "detect dog"]
    assert source[0].suffix == "<loc0170><loc0256><loc0852><loc0767> cat"
    assert {source[i].source for i in range(2)} == {"pets"}
    asked = open_labelled(coco, name="pets", rules=Rules(one_prompt_per="label", ask="all"))
    assert sorted(asked[i].suffix for i in range(len(asked)))[:2] == ["", ""]
    assert asked.fingerprint != source.fingerprint


def test_masks_need_a_codec(coco):
    with pytest.raises(UsageError, match="no mask codec"):
        open_labelled(coco, name="pets", rules=Rules(task="segment"))
    codec = load_codec(find_codec(resolve("nano")))
    source = open_labelled(coco, name="pets", rules=Rules(task="segment"), codec=codec)
    assert source[0].suffix.count("<seg") == 16


def test_tables_of_captions(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table = tmp_path / "captions.csv"
    table.write_text("image,caption\na.png,a cat\nb.png,a dog\n")
    source = open_labelled(table, name="pets", prefix="describe en")
    assert (source[0].prefix, source[0].suffix) == ("describe en", "a cat")
    assert len(source) == 2
    with pytest.raises(BadRow, match=r"b\.png"):
        source[1]


def test_nothing_is_told(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        open_labelled(tmp_path / "gone", name="x")
