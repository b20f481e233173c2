"""A plot shows every box and label at any size, on every shade."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.results.made import detections, picture

from paligemma.errors import UsageError
from paligemma.results import Answer


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


def test_labels_are_readable_with_any_fonts(monkeypatch):
    from paligemma.results import drawing as results

    def has_glyph(name, character):
        return character.isascii() or (name == "DejaVuSans.ttf" and character == "\u00e9")

    monkeypatch.setattr(results, "_has_glyph", has_glyph)
    monkeypatch.setattr(results, "_named_font", lambda name, size: name if name in ("", "DejaVuSans.ttf") else None)
    assert results._readable("cat", 14) == ("cat", "")
    assert results._readable("\u00e9t\u00e9 \u732b", 14) == ("\u00e9t\u00e9 \u732b", "DejaVuSans.ttf")
    monkeypatch.setattr(results, "_named_font", lambda name, size: None if name else "")
    assert results._readable("\u00e9t\u00e9", 14) == ("ete", "")
