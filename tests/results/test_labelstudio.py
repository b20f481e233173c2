"""Label Studio tasks: places in percent, brush masks in rle-pack's bits, a configuration that fits them."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.results.made import blob, detections, filled, segmented

from paligemma.errors import UsageError
from paligemma.results import Mask
from paligemma.results.labelstudio import brush_runs, labelling_config, to_labelstudio, write_labelstudio


def unpacked(data):
    """The values of rle-pack's bytes, read as its own page describes them, literal runs included."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def take(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        repeated, length = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * length if repeated else [take(word) for _ in range(length)]
    assert len(bits) - at < 8
    return values


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_brush_masks_unpack_to_the_mask(height, width, seed):
    mask = blob(height, width, seed)
    rgba = np.array(unpacked(brush_runs(Mask.from_array(mask)))).reshape(height, width, 4)
    assert np.array_equal(rgba, np.repeat(mask[:, :, None] * 255, 4, axis=2))


def test_long_runs_are_cut():
    mask = Mask.from_array(np.ones((200, 100), dtype=bool))
    assert len(unpacked(brush_runs(mask))) == 80000
    assert len(brush_runs(mask)) < 30


def test_places_are_percent_and_names_fit_the_configuration():
    found = segmented()
    task = to_labelstudio(found, url_prefix="https://example.org/")
    assert task["data"] == {"image": "https://example.org/shots/a.png"}
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("nano", 0.575)
    assert [region["type"] for region in prediction["result"]] == ["brushlabels", "brushlabels", "rectanglelabels"]
    assert len({region["id"] for region in prediction["result"]}) == 3
    last = prediction["result"][2]
    assert last["value"] == {"x": 50, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    assert (last["original_width"], last["original_height"]) == (60, 40)
    config = ElementTree.fromstring(labelling_config(found.labels.tolist()))
    tags = {tag.get("name"): tag for tag in config}
    for region in prediction["result"]:
        assert tags[region["from_name"]].get("toName") == region["to_name"] == "image"
        assert tags[region["from_name"]].tag.lower() == region["type"]
        assert region["value"][region["type"]][0] in [label.get("value") for label in tags[region["from_name"]]]


def test_polygons_and_rectangles_in_place_of_masks():
    found = segmented(size=(400, 300))
    for box, index in zip(found[:2], (1, 2), strict=True):
        regions = [
            r for r in found.to_labelstudio(masks="polygon")["predictions"][0]["result"] if r["id"][0] == str(index)
        ]
        rings = [np.array(region["value"]["points"]) * (4, 3) for region in regions]
        again, mask = filled(rings, (300, 400)), box.mask.array()
        assert (again & mask).sum() / (again | mask).sum() > 0.96
    kinds = [region["type"] for region in found.to_labelstudio(masks="none")["predictions"][0]["result"]]
    assert kinds == ["rectanglelabels"] * 3
    with pytest.raises(UsageError, match="unknown kind of masks"):
        found.to_labelstudio(masks="png")


def test_many_tasks_in_one_file(tmp_path):
    several = [segmented(), detections(8, 8)]
    tasks = json.loads(write_labelstudio(several, tmp_path / "tasks.json").read_text())
    assert tasks[0] == segmented().to_labelstudio()
    assert tasks[1]["predictions"][0]["result"] == []
    assert "score" not in tasks[1]["predictions"][0]
    assert tasks[1]["data"]["image"] == "image-000002.png"
    assert json.loads(write_labelstudio([], tmp_path / "none.json").read_text()) == []
