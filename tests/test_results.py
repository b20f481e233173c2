"""Results are plain data: coordinates, JSON, and a plot that shows every box and label at any size."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.results import Answer, Box, Detections, Notice


def picture(width: int, height: int, shade: int = 255) -> Image.Image:
    return Image.new("RGB", (width, height), (shade, shade, shade))


def detections(width: int, height: int, *boxes: tuple[str, tuple[float, float, float, float]], shade: int = 255):
    return Detections(
        text="", raw="", task="detect", prompt="detect x", image_size_px=(width, height),
        images=(picture(width, height, shade),),
        boxes=tuple(Box(label=label, box_yxyx_norm=box, image_size_px=(width, height)) for label, box in boxes),
    )  # fmt: skip


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


def test_answer_json_has_no_pictures_and_tokens_only_when_asked():
    answer = Answer(
        text="eine Straße", raw="eine Straße", task="caption", prompt="caption de", finish_reason="length",
        warnings=(Notice("cut", "cut off"),), tokens=(5, 6), logprobs=(-0.5, -1.0), timing={"generate": 0.25},
        images=(picture(7, 5),), paths=("a.png",),
    )  # fmt: skip
    row = json.loads(answer.to_json())
    assert row["text"] == "eine Straße"
    assert "Straße" in answer.to_json()
    assert row["truncated"] is True
    assert row["images"] == [{"path": "a.png", "width": 7, "height": 5}]
    assert row["warnings"] == [{"code": "cut", "message": "cut off"}]
    assert row["timing"] == {"generate": 0.25}
    assert "tokens" not in row
    full = json.loads(answer.to_json(with_tokens=True))
    assert (full["tokens"], full["logprobs"]) == ([5, 6], [-0.5, -1.0])
    assert str(answer) == "eine Straße"


def test_detections_are_a_sequence():
    found = detections(64, 48, ("cat", (0, 0, 0.5, 0.5)), ("dog", (0.5, 0.5, 1, 1)))
    assert len(found) == 2
    assert [box.label for box in found] == ["cat", "dog"]
    assert found[1].label == "dog"
    assert [box.label for box in found[1:]] == ["dog"]
    assert isinstance(found[:1], Detections)
    assert len(found.to_dict()["boxes"]) == 2
    assert not detections(8, 8)


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


def test_save_by_suffix(tmp_path):
    found = detections(50, 40, ("cat", (0, 0, 1, 1)))
    assert json.loads(found.save(tmp_path / "a.json").read_text())["task"] == "detect"
    assert Image.open(found.save(tmp_path / "a.png")).size == found.plot().size
    assert found.save(tmp_path / "a.TXT").read_text() == "\n"
    with pytest.raises(UsageError, match=r"end it in \.png"):
        found.save(tmp_path / "a.docx")
    with pytest.raises(ResourceError, match="cannot write"):
        found.save(tmp_path / "missing" / "a.png")


def test_labels_are_readable_with_any_fonts(monkeypatch):
    import paligemma.results as results

    def has_glyph(name, character):
        return character.isascii() or (name == "DejaVuSans.ttf" and character == "\u00e9")

    monkeypatch.setattr(results, "_has_glyph", has_glyph)
    monkeypatch.setattr(results, "_named_font", lambda name, size: name if name in ("", "DejaVuSans.ttf") else None)
    assert results._readable("cat", 14) == ("cat", "")
    assert results._readable("\u00e9t\u00e9 \u732b", 14) == ("\u00e9t\u00e9 \u732b", "DejaVuSans.ttf")
    monkeypatch.setattr(results, "_named_font", lambda name, size: None if name else "")
    assert results._readable("\u00e9t\u00e9", 14) == ("ete", "")
