import json

import pytest
from hypothesis import given, settings
from PIL import Image
from tests.data.formats.made import data_sets, drawn_boxes, masked_boxes, plain_boxes, round_trip

from paligemma.data.formats import Reading, boxes


@given(data_sets(plain_boxes, drawn_boxes, masked_boxes))
@settings(max_examples=12)
def test_nothing_is_lost(pictures):
    with round_trip(pictures, "boxes") as pairs:
        for mine, theirs in pairs:
            assert theirs.boxes == mine.boxes


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ({"polygons": [[1, 2, 3, 4]]}, "at least three"),
        ({"polygons": [[1, 2, 3, 4, 5, "6"]]}, "at least three"),
        ({"polygons": []}, "at least three"),
        ({"mask": {"size": [8, 9], "counts": "0"}}, r"of size \[8, 9\]"),
        ({"mask": {"size": [8, 8], "counts": [64]}}, "expected 64 and an object"),
        ({"mask": {"size": [8, 8], "counts": "o" * 2000}}, "run lengths"),
        ({"mask": 3}, "of size None"),
        ({"mask": {"size": [8, 8], "counts": [0, 64]}, "polygons": [[1, 2, 3, 4, 5, 6]]}, "one of them"),
        ({"crowd": 1}, "true or false"),
        ({"box": "1234"}, "four numbers"),
        ({"box": [0, 0, 40, 8]}, "outside its picture"),
    ],
)
def test_bad_objects_are_told(tmp_path, box, said):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"image": "a.png", "boxes": [{"label": "cat", "box": [0, 0, 4, 4], **box}]}))
    reading = Reading(tmp_path)
    assert list(boxes.read(file, reading)) == []
    with pytest.raises(ValueError, match=said):
        reading.stop_if_bad()
