"""Whatever stands in a file of labels, a reader gives pictures or a sentence; it never falls over."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma.data.convert import Rules, from_rows, to_rows
from paligemma.data.formats import FORMATS, Reading
from paligemma.errors import InputError
from paligemma.results import Mask
from paligemma.results.labelstudio import brush_runs

RING = [1, 1, 9, 1, 9, 6]
BRUSH = brush_runs(Mask.from_array([[False] * 10] * 4 + [[True] * 10] * 4))
REGIONS = [
    {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["a"]}},
    {"type": "polygonlabels", "value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["a"]}},
    {"type": "brushlabels", "value": {"format": "rle", "rle": BRUSH, "brushlabels": ["a"]}},
]  # fmt: skip
SOUND = {
    "coco": {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 5], "segmentation": [RING]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 8],
             "segmentation": {"size": [8, 10], "counts": [0, 80]}, "iscrowd": 1},
        ],
    },
    "labelstudio": [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": REGIONS}]}],
    "boxes": {"image": "a.png", "boxes": [{"label": "a", "box": [1, 1, 9, 6], "polygons": [RING], "crowd": False}]},
    "jsonl": {"image": "a.png", "prefix": "detect cat", "suffix": "<loc0001><loc0002><loc0500><loc0600> cat"},
}  # fmt: skip

numbers = st.sampled_from([0, -1, 1.5, 1e308, 10**17, -(10**17), 1e-300])
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=4) | st.sampled_from(["a.png", "//[", "{x}", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)


def places(value, path=()):
    """The way to every part of a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def changed(value, path, other):
    """A copy with another value in one place."""
    if not path:
        return other
    whole = copy.deepcopy(value)
    part = whole
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = other
    return whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    Image.new("RGB", (10, 8)).save(folder / "a.png")
    return folder


def read_all(name, file):
    """Reads a file and makes rows of what it holds and pictures of these: only sentences may come out."""
    reading = Reading(file.parent)
    try:
        entries = list(FORMATS[name].read(file, reading))
    except InputError:
        return reading, []
    from_rows(to_rows(entries, reading, Rules(ask="all")).entries, reading)
    return reading, entries


@pytest.mark.parametrize("name", SOUND)
def test_what_is_changed_here_is_sound(name, folder):
    file = folder / f"{name}.{'jsonl' if name in ('boxes', 'jsonl') else 'json'}"
    file.write_text(json.dumps(SOUND[name]))
    reading, entries = read_all(name, file)
    assert reading.problems == []
    assert len(entries) == 1


@pytest.mark.parametrize("name", SOUND)
@given(st.data())
@settings(max_examples=60)
def test_any_value_in_any_place(name, folder, data):
    where = data.draw(st.sampled_from(list(places(SOUND[name]))))
    value = changed(SOUND[name], where, data.draw(values))
    file = folder / f"{name}-changed.{'jsonl' if name in ('boxes', 'jsonl') else 'json'}"
    file.write_text(json.dumps(value))
    read_all(name, file)


TEXTS = {
    "yolo": ("data.yaml", "names: [cat]\n"),
    "voc": ("a.xml", "<annotation><filename>a.png</filename><object><name>a</name></object></annotation>"),
    "csv": ("t.csv", "image,caption\na.png,a cat\n"),
    "jsonl": ("t.jsonl", json.dumps(SOUND["jsonl"]) + "\n"),
    "coco": ("t.json", json.dumps(SOUND["coco"])),
}


@pytest.mark.parametrize("name", TEXTS)
@given(st.integers(0, 10**4), st.binary(max_size=4), st.integers(0, 3))
@settings(max_examples=60)
def test_any_bytes_in_any_place(name, tmp_path_factory, at, junk, taken):
    folder = tmp_path_factory.mktemp("bytes")
    Image.new("RGB", (10, 8)).save(folder / "a.png")
    if name == "yolo":
        (folder / "a.txt").write_bytes(b"0 .5 .5 .2 .2\n" + junk)
    file, text = TEXTS[name]
    data = text.encode()
    at %= len(data)
    (folder / file).write_bytes(data[:at] + junk + data[at + taken :])
    read_all(name, folder / file)
