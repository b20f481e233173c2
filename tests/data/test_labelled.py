import numpy as np
import pytest

from paligemma.data import LabelledImage, TrueBox
from paligemma.errors import InputError
from paligemma.results import rle

SIZE = (40, 30)


def test_labels_come_once_in_order():
    boxes = tuple(TrueBox(label=label, xyxy=(0, 0, 5, 5)) for label in ("dog", "cat", "dog"))
    assert LabelledImage(path="a.png", boxes=boxes, size_px=SIZE).labels == ["dog", "cat"]


def test_a_box_without_shape_has_no_mask():
    box = TrueBox(label="cat", xyxy=(0, 0, 5, 5))
    assert not box.has_mask
    assert box.mask(SIZE) is None


def test_both_kinds_of_shapes_become_pixels():
    pixels = np.zeros(SIZE[::-1], dtype=bool)
    pixels[5:20, 10:30] = True
    ring = (10.0, 5.0, 30.0, 5.0, 30.0, 20.0, 10.0, 20.0)
    runs = TrueBox(label="cat", xyxy=(10, 5, 30, 20), runs=rle.encode(pixels)["counts"])
    drawn = TrueBox(label="cat", xyxy=(10, 5, 30, 20), polygons=(ring,))
    assert runs.has_mask
    assert drawn.has_mask
    for box in (runs, drawn):
        assert np.array_equal(box.mask(SIZE).array(), pixels)
        assert box.mask(SIZE).image_size_px == SIZE


def test_a_shape_of_another_picture_is_refused():
    runs = rle.encode(np.ones((5, 5), dtype=bool))["counts"]
    with pytest.raises(InputError, match="cover 25 pixels"):
        TrueBox(label="cat", xyxy=(0, 0, 5, 5), runs=runs).mask(SIZE)
