import itertools
import random

import numpy as np
import pytest
from PIL import Image

from paligemma.scenes.faces import CHARACTERS
from paligemma.scenes.lettering import (
    CAP_PX,
    FONTS,
    HEIGHTS,
    INKS,
    MIN_CONTRAST,
    SIGNS,
    SMALLEST,
    apart,
    ink_on,
    line_at,
    luminance,
    place_lines,
    shape,
    stamp,
)
from paligemma.scenes.words import draw_texts

GROUND = (200, 205, 190)


def printed(seed: int, size_px: int, texts: list[str], taken=None):
    image = Image.new("RGB", (size_px, size_px), GROUND)
    return image, place_lines(random.Random(seed), image, GROUND, texts, [] if taken is None else taken)


@pytest.mark.parametrize("font", FONTS)
def test_a_capital_is_as_high_as_said_and_every_character_leaves_its_own_ink(font):
    high = shape("H", font).coverage.height
    assert high == pytest.approx(CAP_PX, abs=4)
    seen = set()
    for character in CHARACTERS:
        made = shape(character, font)
        assert made.coverage.getbbox() == (0, 0, *made.coverage.size), "cut tightly"
        seen.add((made.coverage.size, made.coverage.tobytes()))
    assert len(seen) == len(CHARACTERS)


@pytest.mark.parametrize("font", FONTS)
def test_edges_separate_the_characters(font):
    made = shape("AB 1", font)
    assert made.edges[0] == 0
    assert made.edges[-1] == made.coverage.width
    assert all(a < b for a, b in zip(made.edges, made.edges[1:], strict=False))
    ink = np.asarray(made.coverage)[CAP_PX // 3 : 2 * CAP_PX // 3]  # a slanted character leans over its edges
    middle = round((made.edges[2] + made.edges[3]) / 2)
    assert not ink[:, middle - 3 : middle + 3].any(), "the space"
    for a, b in ((0, 1), (1, 2), (3, 4)):
        assert ink[:, round(made.edges[a]) : round(made.edges[b])].any()


def test_fonts_look_different():
    assert len(FONTS) >= 6
    small = [np.asarray(shape("SEVEN", font).coverage.resize((80, 20)), float) / 255 for font in FONTS]
    for k, a in enumerate(small):
        for b in small[k + 1 :]:
            assert np.abs(a - b).mean() > 0.02


def test_a_stamp_fills_its_box_to_a_fraction_of_a_pixel():
    full = Image.new("L", (60, 60), 255)
    image = Image.new("RGB", (20, 20))
    stamp(image, full, (0.25, 0.125, 0.5, 0.5), (255, 255, 255))
    got = np.asarray(image)[..., 0] / 255
    assert got.sum() == pytest.approx(5 * 7.5, rel=0.07)  # from x 2.5 to 10
    assert got[7, 2] == pytest.approx(0.5, abs=0.1)
    assert got[7, 3:9] == pytest.approx(1, abs=0.08)
    assert not got[:4].any()


def test_stamps_may_touch_the_picture_s_edge():
    image = Image.new("RGB", (10, 10))
    stamp(image, Image.new("L", (30, 30), 255), (0, 0, 1, 1), (255, 255, 255))
    assert np.asarray(image).min() > 200


@pytest.mark.parametrize("seed", range(40))
def test_lines_are_tight_inside_apart_and_in_reading_order(seed):
    texts = draw_texts(random.Random(seed))
    _, lines = printed(seed, 224, texts)
    assert [line.text for line in lines] == texts[: len(lines)]
    assert lines
    for a, b in itertools.pairwise(lines):
        assert a.box[2] <= b.box[0]
    for line in lines:
        y0, x0, y1, x1 = line.box
        assert 0 < y0 < y1 < 1
        assert 0 < x0 < x1 < 1
        assert (y1 - y0) * 224 >= 19
        assert y1 - y0 < HEIGHTS[1][1] * 1.3
        assert len(line.char_boxes) == len(line.text)
        assert line.char_boxes[0][1] == x0
        assert line.char_boxes[-1][3] == pytest.approx(x1)
        assert all(a[3] == b[1] for a, b in zip(line.char_boxes, line.char_boxes[1:], strict=False))
        assert not line.handwritten


def test_the_ink_reaches_all_four_sides_of_a_line_s_box():
    for seed in range(12):
        made = shape("QUIZ", random.Random(seed).choice(list(FONTS)))
        image = Image.new("RGB", (224, 224))
        line = line_at("QUIZ", "x", made, (0.3, 0.2, 0.5, 0.8))
        stamp(image, made.coverage, line.box, (255, 255, 255))
        rows, columns = np.nonzero(np.asarray(image)[..., 0] > 60)
        found = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        assert found == pytest.approx([value * 224 for value in line.box], abs=1.5)


def test_another_size_prints_the_same():
    texts = ["COLD MILK", "24 & 7!", "EXIT"]
    small, at_112 = printed(3, 112, texts)
    large, at_448 = printed(3, 448, texts)
    assert at_112 == at_448
    shrunk = np.asarray(large.resize((112, 112), Image.Resampling.BOX), float)
    assert np.abs(shrunk - np.asarray(small, float)).mean() < 4
    assert printed(3, 112, texts)[0].tobytes() == small.tobytes()


def test_nothing_is_printed_where_something_is():
    busy = [(0.0, 0.0, 0.55, 1.0)]
    image, lines = printed(1, 112, ["STOP"], busy)
    assert lines[0].box[0] > 0.55
    assert np.asarray(image)[: int(0.55 * 112)].std((0, 1)).max() == 0, "no sign reaches over it either"
    assert len(busy) == 2
    assert not apart(busy[1], lines[0].box, 0)
    full = [(0.0, 0.0, 1.0, 1.0)]
    image, lines = printed(1, 112, ["STOP"], full)
    assert (lines, len(full)) == ((), 1)
    assert image.getcolors() == [(112 * 112, GROUND)]


def test_what_is_too_wide_is_left_out():
    assert printed(0, 112, ["W" * 40])[1] == ()
    assert [line.text for line in printed(0, 112, ["W" * 40, "GO"])[1]] == ["GO"]


def test_a_long_line_is_set_in_the_narrow_font_rather_than_smaller():
    for seed in range(20):
        (line,) = printed(seed, 224, ["MARKET MONDAYS"])[1]
        assert line.box[2] - line.box[0] >= SMALLEST * 0.99


def test_ink_can_be_read_on_every_ground():
    rng = random.Random(0)
    for ground in [*SIGNS, *((v, v, v) for v in range(0, 256, 5)), *INKS]:
        assert abs(luminance(ink_on(rng, ground)) - luminance(ground)) >= MIN_CONTRAST


def test_boxes_are_apart_with_a_gap():
    assert apart((0, 0, 0.4, 1), (0.5, 0, 1, 1))
    assert not apart((0, 0, 0.49, 1), (0.5, 0, 1, 1))
    assert apart((0, 0, 1, 0.2), (0, 0.5, 1, 1))
    assert not apart((0, 0, 1, 1), (0.2, 0.2, 0.3, 0.3))
