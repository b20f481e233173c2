"""Masks are pasted as both references paste them, and exchanged without loss."""

import json
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.results.made import blob, filled

from paligemma.errors import InputError, UsageError
from paligemma.model.mask_codec import MaskCodec, MaskCodecConfig
from paligemma.results.mask import Mask, pixel_box

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "vae"
CASES = json.loads((GOLDEN / "text_cases.json").read_text())
pictures = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@pytest.fixture(scope="module")
def decode():
    """The golden codec's decoder: 16 codes -> float32[64, 64]."""
    arrays = dict(np.load(GOLDEN / "vae-tiny-random.npz", allow_pickle=False))
    arrays["embedding"] = arrays.pop("_vq_vae._embedding")
    tensors = {name: torch.from_numpy(values) for name, values in arrays.items() if not name.startswith("_vq_vae.")}
    codec = MaskCodec(MaskCodecConfig.of({name: tensor.shape for name, tensor in tensors.items()}))
    codec.load_state_dict(tensors)

    def run(codes):
        with torch.inference_mode():
            return codec.decode(torch.tensor([codes]))[0].numpy()

    return run


def test_the_evaluators_masks(decode):
    height, width = CASES["image_hw"]
    golden = np.load(GOLDEN / "text_masks.npz", allow_pickle=False)
    packed, shape = golden["evaluator_masks"], golden["evaluator_masks_shape"]
    expected = np.unpackbits(packed, axis=-1)[..., : shape[-1]].astype(bool)
    seen = 0
    for case, want in zip(CASES["evaluator_objects"], expected, strict=True):
        y1, x1, y2, x2 = box = tuple(location / 1023 for location in case["loc"])
        left, top, right, bottom = pixel_box(box, (width, height))
        assert [top, left, bottom, right] == case["pixel_box_yxyx"]
        if y2 <= y1 or x2 <= x1:
            continue  # such a box is refused before it gets here
        mask = Mask(values=decode(case["seg"]), box_yxyx_norm=box, image_size_px=(width, height))
        assert (mask.array() != want).sum() <= 2
        assert abs(mask.area_px - case["mask_area"]) <= 2
        seen += 1
    assert seen


def test_the_demos_masks(decode):
    golden = np.load(GOLDEN / "text_masks.npz", allow_pickle=False)
    seen = 0
    for case in CASES["demo_parser"]:
        for thing in case["objs"]:
            if not thing.get("has_mask"):
                continue
            locations = [int(part[:4]) for part in thing["content"].split("<loc")[1:5]]
            codes = [int(part[:3]) for part in thing["content"].split("<seg")[1:17]]
            mask = Mask(
                values=decode(codes), box_yxyx_norm=tuple(location / 1024 for location in locations),
                image_size_px=(case["width"], case["height"]), convention="demo",
            )  # fmt: skip
            assert pixel_box(mask.box_yxyx_norm, mask.image_size_px, "demo") == tuple(thing["xyxy"])
            grey = np.rint(mask.soft() * 255)
            assert np.abs(grey - golden[thing["mask_key"]].astype(float)).max() <= 1
            seen += 1
    assert seen


def test_the_two_conventions_differ():
    values = np.where(blob(64, 64), 0.8, -0.9)
    made = [
        Mask(values=values, box_yxyx_norm=(0.11, 0.07, 0.89, 0.83), image_size_px=(130, 90), convention=c)
        for c in ("big_vision", "demo")
    ]
    assert 0 < (made[0].array() ^ made[1].array()).sum() < 400
    with pytest.raises(UsageError, match="unknown pasting"):
        pixel_box((0, 0, 1, 1), (4, 4), "other")


@given(pictures)
def test_a_drawn_mask_comes_back(picture):
    mask = Mask.from_array(picture)
    assert np.array_equal(mask.array(), picture)
    assert np.array_equal(mask.soft(), picture.astype(np.float32))
    assert mask.area_px == picture.sum()
    assert np.array_equal(Mask.from_rle(mask.rle()).array(), picture)
    assert Mask.from_rle(mask.rle()) == mask
    assert hash(Mask.from_rle(mask.rle())) == hash(mask)
    assert np.array_equal(filled(mask.polygons(tolerance_px=0), picture.shape), picture)
    assert mask.iou(mask) == (1.0 if picture.any() else 0.0)


@given(st.integers(1, 9000), st.data())
def test_boxes_of_drawn_masks_truncate_to_their_own_pixels(side, data):
    at = data.draw(st.integers(0, side - 1))
    picture = np.zeros((1, side), dtype=bool)
    picture[0, at] = True
    mask = Mask.from_array(picture)
    assert pixel_box(mask.box_yxyx_norm, mask.image_size_px)[::2] == (at, at + 1)


def test_values_become_soft_pixels_and_thresholds_cut_them():
    mask = Mask(
        values=np.array([[-3.0, -0.5], [0.5, 3.0]]), box_yxyx_norm=(0.25, 0.5, 0.75, 1.0), image_size_px=(4, 4),
    )  # fmt: skip
    assert mask.soft()[1:3, 2:].tolist() == [[0, 0.25], [0.75, 1]]
    assert mask.soft().sum() == 2
    assert [int(mask.array(t).sum()) for t in (0.1, 0.5, 0.9)] == [3, 2, 1]
    assert mask != Mask(values=mask.values, box_yxyx_norm=(0.25, 0.5, 0.75, 0.9), image_size_px=(4, 4))
    assert mask != "mask"
    assert "2 x 2" in repr(mask)


def test_a_mask_thinner_than_a_pixel_is_empty():
    mask = Mask(values=np.ones((64, 64)), box_yxyx_norm=(0.1, 0.3, 0.9, 0.305), image_size_px=(100, 80))
    assert mask.area_px == 0
    assert not mask.array().any()
    assert mask.polygons() == []
    assert Mask.from_rle(mask.rle()).area_px == 0


def test_overlap_and_what_is_no_mask():
    picture = blob(40, 50)
    one, other = Mask.from_array(picture), Mask.from_array(np.roll(picture, 3, axis=1))
    both = picture & np.roll(picture, 3, axis=1)
    assert one.iou(other) == pytest.approx(both.sum() / (picture | np.roll(picture, 3, axis=1)).sum())
    with pytest.raises(InputError, match="masks of pictures"):
        one.iou(Mask.from_array(picture[:-1]))
    with pytest.raises(InputError, match="a mask has shape"):
        Mask.from_array(np.zeros(3))
    with pytest.raises(InputError, match="a mask has shape"):
        Mask(values=np.zeros((2, 2, 2)), box_yxyx_norm=(0, 0, 1, 1), image_size_px=(2, 2))
