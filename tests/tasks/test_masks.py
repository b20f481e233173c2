"""Masks -> codes -> masks, with the reference's crop and the golden codec."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.checkpoints import load_codec
from paligemma.errors import InputError, UsageError
from paligemma.model.mask_codec import MaskCodec, MaskCodecConfig
from paligemma.results import Mask
from paligemma.tasks.masks import crop_region, decoder, encode_masks, round_trip, squeezed
from paligemma.tasks.segment import format_segments, parse_segments

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "vae"
NANO = Path(__file__).parents[2] / "src" / "paligemma" / "checkpoints" / "nano" / "mask_codec.npz"
SMALL = MaskCodecConfig(embedding_dim=6, encoder_widths=(2, 3, 4, 6), decoder_widths=(6, 6, 5, 4, 3))


@pytest.fixture(scope="module")
def codec():
    """A small codec with random weights."""
    torch.manual_seed(0)
    codec = MaskCodec(SMALL).eval()
    torch.nn.init.normal_(codec.embedding)
    return codec


@pytest.fixture(scope="module")
def nano():
    return load_codec(NANO)


def disc(width, height, x, y, radius):
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def test_suffixes_of_the_reference():
    codec = load_codec(next(GOLDEN.glob("vae-*.npz")))
    cases = json.loads((GOLDEN / "text_cases.json").read_text())["mask2str"]
    masks = np.load(GOLDEN / "expected.npz")["mask2str.masks"]
    chosen = [i for i, mask in enumerate(masks) if mask.any()]
    boxes = encode_masks(
        codec, (masks[i] for i in chosen), boxes_yxyx_norm=[tuple(cases[i]["bbox_yxyx"]) for i in chosen], batch_size=2
    )
    assert [format_segments([box], labels=False) for box in boxes] == [cases[i]["suffix"] for i in chosen]


def test_the_crop_is_rounded_half_to_even():
    assert crop_region((0.25, 0.5, 0.2505, 0.75), (130, 90)) == (22, 65, 23, 98)
    assert crop_region((0.05, 0.15, 1, 1), (10, 10)) == (0, 2, 10, 10)


def test_resizing_averages():
    checks = np.indices((128, 192)).sum(axis=0) % 2
    assert torch.allclose(squeezed(checks), torch.full((64, 64), 0.5), atol=0.05)
    assert torch.equal(squeezed(np.ones((1, 3))), torch.ones(64, 64))


def test_the_bundled_codec_keeps_what_it_is_given(nano):
    masks = [disc(200, 160, 100, 80, 60), disc(200, 160, 40, 120, 30), disc(200, 160, 180, 20, 50)]
    result = round_trip(nano, masks, ["sun", "ball", "moon"])
    assert result.worst > 0.9
    again = parse_segments(format_segments(result.boxes), (200, 160), decode=decoder(nano))
    for box, mask, iou in zip(again.boxes, masks, result.ious, strict=True):
        assert box.mask.iou(Mask.from_array(mask)) == pytest.approx(iou)
    assert [box.label for box in again.boxes] == ["sun", "ball", "moon"]


def test_the_report_counts(codec):
    masks = [disc(50, 40, 25, 20, r) for r in (5, 10, 18)]
    result = round_trip(codec, masks, "a")
    assert result.mean == pytest.approx(sum(result.ious) / 3)
    assert result.worst == min(result.ious)
    assert result.below_half == len([iou for iou in result.ious if iou < 0.5])
    at = result.ious.index(result.worst)
    assert (
        f"3 masks, round-trip IoU: mean {result.mean:.3f}, worst {result.worst:.3f} (mask {at} a)" in result.to_text()
    )
    assert result.to_dict() == {
        "masks": 3, "mean": result.mean, "worst": result.worst, "below_half": result.below_half,
    }  # fmt: skip
    with pytest.raises(InputError, match="no mask"):
        round_trip(codec, [])


def test_batches_change_nothing(codec):
    masks = [disc(90, 70, 10 + 7 * i, 30, 4 + i) for i in range(7)]
    one = encode_masks(codec, masks, batch_size=1)
    assert one == encode_masks(codec, iter(masks), batch_size=3) == encode_masks(codec, masks)
    codes = [box.mask_codes for box in one]
    assert np.allclose(decoder(codec, 2)(codes), decoder(codec)(codes), atol=1e-6)
    assert decoder(codec)([]).shape == (0, 64, 64)


def test_every_form_gives_the_same_tokens(codec):
    mask = disc(60, 50, 30, 25, 12)
    whole = Mask.from_array(mask)
    forms = [mask, mask.astype(np.uint8) * 255, whole, whole.rle(), whole.polygons(0)]
    boxes = encode_masks(codec, forms, image_size_px=(60, 50))
    assert len({format_segments([box]) for box in boxes}) == 1


def test_a_decoded_mask_can_be_encoded_again(nano):
    (box,) = encode_masks(nano, [disc(100, 100, 50, 50, 30)])
    (decoded,) = parse_segments(format_segments([box]), (100, 100), decode=decoder(nano)).boxes
    assert round_trip(nano, [decoded.mask]).worst > 0.9


def test_empty_masks_and_wrong_boxes_are_refused(codec):
    mask = disc(50, 40, 10, 10, 5)
    with pytest.raises(InputError, match="mask 1 dog is empty"):
        encode_masks(codec, [mask, np.zeros((40, 50), bool)], ["cat", "dog"])
    with pytest.raises(InputError, match="mask 0 has no pixel in its box"):
        encode_masks(codec, [mask], boxes_yxyx_norm=[(0.8, 0.8, 1.0, 1.0)])
    for wrong in [(0.5, 0.1, 0.4, 0.9), (0.0, 0.0, 1.1, 1.0), (0.0, float("nan"), 1.0, 1.0)]:
        with pytest.raises(InputError, match="the box of mask 0"):
            encode_masks(codec, [mask], boxes_yxyx_norm=[wrong])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_label_and_one_box_for_each_mask(codec, count):
    masks = [disc(50, 40, 10, 10, 5)] * 2
    with pytest.raises(UsageError, match=f"{count} labels"):
        encode_masks(codec, masks, ["x"] * count)
    with pytest.raises(UsageError, match=f"{count} boxes"):
        encode_masks(codec, masks, boxes_yxyx_norm=[(0.0, 0.0, 1.0, 1.0)] * count)


@pytest.mark.parametrize("divisor", [1023, 1024])
@pytest.mark.parametrize("at", [(0, 0), (1000, 2999), (17, 4095)])
def test_an_object_thinner_than_a_token_gets_a_box(nano, divisor, at):
    mask = np.zeros((3000, 4096), bool)
    mask[at[1] if at[1] < 3000 else -1, at[0]] = True
    (box,) = encode_masks(nano, [mask], "dot", divisor=divisor)
    y1, x1, y2, x2 = box.loc
    assert (y2 - y1, x2 - x1) == (1, 1)
    assert (
        parse_segments(format_segments([box], divisor=divisor), (4096, 3000), divisor=divisor).boxes[0].loc == box.loc
    )


@settings(max_examples=25)
@given(data=st.data())
def test_any_mask_round_trips_as_text(data, codec):
    width, height = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    mask = np.zeros((height, width), bool)
    mask[y1 : data.draw(st.integers(y1 + 1, height)), x1 : data.draw(st.integers(x1 + 1, width))] = True
    (box,) = encode_masks(codec, [mask], "x")
    (again,) = parse_segments(format_segments([box]), (width, height)).boxes
    assert again == box


def test_overlap_is_that_of_whole_pictures():
    a, b = disc(50, 40, 20, 20, 12), disc(50, 40, 30, 15, 9)
    assert Mask.from_array(a).iou(Mask.from_array(b)) == pytest.approx((a & b).sum() / (a | b).sum())
    assert Mask.from_array(a).iou(Mask.from_array(disc(50, 40, 45, 3, 4))) == 0
    assert re.match(r"0\.0", str(Mask.from_array(np.zeros((40, 50), bool)).iou(Mask.from_array(a))))
