"""A box is plain data: stored as the model writes it, read in pixels."""

import json

import pytest

from paligemma.errors import InputError
from paligemma.results import Box


def test_a_box_is_stored_y_first_and_read_x_first_in_pixels():
    box = Box(label="cat", box_yxyx_norm=(0.1, 0.2, 0.5, 0.8), image_size_px=(200, 100))
    assert box.xyxyn == (0.2, 0.1, 0.8, 0.5)
    assert box.xyxy == pytest.approx((40, 10, 160, 50))
    assert box.xywh == pytest.approx((40, 10, 120, 40))


@pytest.mark.parametrize("corners", [(0.5, 0, 0.4, 1), (0, 0.5, 1, 0.4), (-0.1, 0, 1, 1), (0, 0, 1, 1.1)])
def test_a_box_outside_the_picture_is_refused(corners):
    with pytest.raises(InputError, match="does not lie in the picture"):
        Box(label="cat", box_yxyx_norm=corners, image_size_px=(10, 10))


def test_box_json_keeps_what_the_model_wrote():
    box = Box(
        label="cat", box_yxyx_norm=(0, 0, 1, 1), image_size_px=(30, 20), loc=(0, 0, 1023, 1023),
        mask_codes=tuple(range(16)),
    )  # fmt: skip
    row = json.loads(json.dumps(box.to_dict()))
    assert row == {
        "label": "cat", "box": [0, 0, 30, 20], "box_norm": [0, 0, 1, 1], "loc": [0, 0, 1023, 1023],
        "mask_codes": list(range(16)),
    }  # fmt: skip
