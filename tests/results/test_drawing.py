"""A plot shows every mask, box and label at any size, on every shade."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.results.made import detections, picture

from paligemma.errors import UsageError
from paligemma.results import Answer, Box, Mask, drawing, lettering
from paligemma.results.drawing import COLORS


@pytest.mark.parametrize("shade", [0, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (20, 200), (200, 20), (112, 112), (900, 700)])
def test_plot_shows_a_frame_that_stands_out_on_every_shade(size, shade):
    plot = detections(*size, ("cat", (0.25, 0.25, 0.75, 0.75)), shade=shade).plot()
    factor = plot.width // size[0]
    assert plot.size == (size[0] * factor, size[1] * factor)
    assert max(plot.size) >= 480
    row = np.asarray(plot)[round(plot.height * 0.6)].astype(int)
    edge = row[: plot.width // 2]
    assert np.abs(edge - shade).max() > 90  # the frame's left side differs from the background in some channel
    assert np.abs(np.diff(edge, axis=0)).max() > 60  # and crisply so


def test_plot_does_not_touch_the_picture_and_labels_get_one_colour_each():
    boxes = [("cat", (0.1, 0.1, 0.3, 0.3)), ("cat", (0.6, 0.6, 0.8, 0.8)), ("dog", (0.1, 0.6, 0.3, 0.8))]
    found = detections(600, 600, *boxes)
    plot = np.asarray(found.plot())
    assert np.asarray(found.images[0]).min() == 255
    colours = [tuple(plot[round(600 * (box[0] + 0.1)), round(600 * box[1]) + 1]) for _, box in boxes]
    assert colours[0] == colours[1] != colours[2]


unit = st.floats(0, 1)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    corners=st.lists(st.tuples(unit, unit, unit, unit), max_size=4),
    label=st.text(st.characters(), max_size=30)
    | st.sampled_from(["\x1e\x1b", "a\nb", "\ud800", "\u200d", "\U0010fffe"]),
)
def test_any_boxes_and_labels_can_be_drawn(size, corners, label):
    ordered = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    found = detections(*size, *((label, box) for box in ordered))
    assert found.plot().mode == "RGB"
    text = Answer(text=label, raw=label, task="ask", prompt=label, images=found.images)
    assert text.plot().height > found.images[0].height


def test_text_answers_are_drawn_below_the_picture():
    image = picture(600, 400, 0)
    short = Answer(text="a cat", raw="", task="caption", prompt="caption en", images=(image,)).plot()
    long = Answer(text="a cat and " * 60, raw="", task="caption", prompt="caption en", images=(image,)).plot()
    assert short.width == long.width == 600
    assert 400 < short.height < long.height
    assert np.asarray(short)[:400].max() == 0  # the picture itself is whole
    assert np.asarray(short)[400:].min() < 60  # dark letters on the light strip


def test_several_pictures_become_one_sheet_and_nothing_found_is_said():
    frames = tuple(picture(120, 90, shade) for shade in (0, 60, 120, 180, 240))
    plot = Answer(text="running", raw="", task="ask", prompt="answer en what?", images=frames).plot()
    assert plot.width >= 4 * 120
    empty = detections(600, 400).plot()
    assert empty.height > 400


def test_a_plot_without_picture_is_a_clear_error():
    with pytest.raises(UsageError, match="holds no picture"):
        Answer(text="x", raw="x", task="ask", prompt="answer en ?").plot()


def masked(pixels, label="cat", shade=255):
    mask = Mask.from_array(pixels)
    box = Box(label=label, box_yxyx_norm=mask.box_yxyx_norm, image_size_px=mask.image_size_px, mask=mask, score=0.934)
    return detections(*mask.image_size_px, shade=shade).with_boxes([box])


def disc(side=600, radius=200, hole=80):
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    distance = np.hypot(x, y)
    return (distance < radius) & (distance > hole)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_masks_are_translucent_with_a_crisp_edge_and_leave_holes_alone(shade):
    found = masked(disc(), shade=shade)
    plot = np.asarray(found.plot(boxes=False, labels=False)).astype(int)
    inside, outside, hole = plot[300, 440], plot[300, 580], plot[300, 300]
    assert outside.tolist() == hole.tolist() == [shade] * 3
    part = (inside - shade) / np.where(np.array(COLORS[0]) == shade, 1, np.array(COLORS[0]) - shade)
    assert 0.3 < part.max() < 0.6  # the picture shows through
    row = plot[300, 480:520]  # across the edge: the full colour within three pixels
    assert np.abs(row - COLORS[0]).sum(axis=1).min() < 12
    assert np.abs(np.abs(row - COLORS[0]).sum(axis=1).argmin() - 20) <= 3
    changed = (plot != shade).any(axis=2)
    assert changed[disc(radius=195, hole=85)].all()
    assert not changed[~disc(radius=206, hole=74)].any()


def test_each_part_of_a_plot_can_be_left_out():
    found = masked(disc())
    white = np.asarray(found.plot(boxes=False, masks=False, labels=False))
    assert white.min() == 255
    shown = {
        name: (np.asarray(found.plot(**{"boxes": False, "masks": False, "labels": False, name: True})) < 255).sum()
        for name in ("boxes", "masks", "labels")
    }
    assert min(shown.values()) > 500
    assert np.asarray(found.plot()).tobytes() != np.asarray(found.plot(scores=False)).tobytes()
    assert drawing._chip_text(found[0], 1, True) == "cat 0.93"
    assert drawing._chip_text(found[0], 1, False) == "cat"


def test_a_label_no_font_has_becomes_a_number(monkeypatch):
    monkeypatch.setattr(lettering, "drawable", lambda text: text != "\u732b")
    cat, dog = detections(9, 9, ("\u732b", (0, 0, 1, 1)), ("dog", (0, 0, 1, 1)))
    assert [drawing._chip_text(box, i, True) for i, box in enumerate((cat, dog), start=1)] == ["#1", "dog"]


def test_masks_of_one_label_differ_in_colour():
    pixels = np.zeros((600, 600), dtype=bool)
    pixels[100:250, 100:250] = True
    found = masked(pixels).with_boxes([masked(pixels)[0], masked(pixels[::-1])[0]])
    plot = np.asarray(found.plot(boxes=False, labels=False))
    assert plot[170, 170].tolist() != plot[430, 170].tolist()


@pytest.mark.parametrize("size", [(32, 32), (300, 20), (2400, 1800)])
def test_masks_lie_where_they_belong_at_every_size(size):
    width, height = size
    pixels = np.zeros((height, width), dtype=bool)
    pixels[height // 4 : 3 * height // 4, width // 4 : width // 2] = True
    plot = np.asarray(masked(pixels).plot(boxes=False, labels=False))
    factor = plot.shape[1] // width
    expected = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
    changed = (plot < 250).any(axis=2)
    reach = 2 + round(plot.shape[0] * plot.shape[1]) ** 0.5 * 0.008
    rows, columns = np.nonzero(changed)
    there, across = np.nonzero(expected)
    assert rows.min() == pytest.approx(there.min(), abs=reach)
    assert columns.max() == pytest.approx(across.max(), abs=reach)
    assert changed[expected].all()


def test_labels_of_many_boxes_lie_beside_each_other():
    places = [(0.1, 0.05, 0.3, 0.15)] * 4
    found = detections(900, 700, *((f"thing {i}", place) for i, place in enumerate(places)))
    plot = np.asarray(found.plot(boxes=False)).astype(int)
    for color in COLORS[:4]:
        assert (np.abs(plot - color).sum(axis=2) < 6).sum() > 300  # each chip is seen


@settings(max_examples=15)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)))
def test_any_mask_can_be_drawn(pixels):
    assert masked(pixels).plot().mode == "RGB"
