"""Objects cut out of their picture."""

import numpy as np
import pytest
from PIL import Image
from tests.results.made import detections, segmented

from paligemma.errors import ResourceError, UsageError
from paligemma.results import Answer, Box, Detections
from paligemma.results.cutouts import crop


def gradient(width=60, height=40):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, x + y], axis=2).astype(np.uint8))


def test_a_crop_is_that_part_of_the_picture():
    box = Box(label="cat", box_yxyx_norm=(0.25, 0.5, 0.75, 1.0), image_size_px=(60, 40))
    assert np.array_equal(np.asarray(crop(gradient(), box)), np.asarray(gradient())[10:30, 30:60])
    wider = crop(gradient(), box, margin=0.1)
    assert wider.size == (33, 24)  # the picture ends at its right
    assert np.array_equal(np.asarray(wider), np.asarray(gradient())[8:32, 27:60])
    for corners in [(1, 1, 1, 1), (0, 0, 0, 0), (0.5, 0.5, 0.5, 0.5)]:
        assert crop(gradient(), Box(label="", box_yxyx_norm=corners, image_size_px=(60, 40))).size == (1, 1)


def test_masked_crops_are_transparent_outside():
    box = segmented()[0]
    cut = crop(gradient(), box, masked=True)
    x1, y1, x2, y2 = (round(v) for v in box.xyxy)
    assert np.array_equal(np.asarray(cut)[:, :, 3] > 127, box.mask.array()[y1:y2, x1:x2])


def test_crops_and_masks_are_files_named_by_picture_number_and_label(tmp_path):
    found = segmented()
    crops = found.save_crops(tmp_path / "crops", margin=0.2)
    assert [path.name for path in crops] == ["a-01-cat.png", "a-02-grüner_Hund.png", "a-03-cat.png"]
    masks = found.save_masks(tmp_path / "crops")
    assert [path.name for path in masks] == ["a-01-cat-mask.png", "a-02-grüner_Hund-mask.png"]
    assert np.array_equal(np.asarray(Image.open(masks[1])), found[1].mask.array() * 255)
    assert all(path.exists() for path in [*crops, *masks])
    assert Image.open(crops[2]).size == (36, 28)


def test_any_label_gives_a_file(tmp_path):
    labels = ["../../x", "a/b:c", "", "...", "x" * 300, "\x00", "猫 と 犬"]
    paths = detections(20, 20, *((label, (0, 0, 1, 1)) for label in labels)).save_crops(tmp_path)
    assert all(path.parent == tmp_path and path.exists() for path in paths)
    assert len(set(paths)) == len(labels)


def test_what_cannot_be_cut_is_told(tmp_path):
    blank = Detections(text="", raw="", task="detect", prompt="detect x")
    with pytest.raises(UsageError, match="holds no picture to cut"):
        blank.save_crops(tmp_path)
    assert blank.save_masks(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        segmented().save_crops(tmp_path / "file")
    assert not hasattr(Answer, "save_crops")
