import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from paligemma.scenes.handwriting import CAP_PX, SMALLEST, draw_hand, draw_written, write, written
from paligemma.scenes.words import DIGITS, LETTERS

GROUND = (235, 235, 225)


def hand(seed: int, size_px: int = 224, taken=None):
    image = Image.new("RGB", (size_px, size_px), GROUND)
    return image, write(random.Random(seed), image, GROUND, [] if taken is None else taken)


@pytest.mark.parametrize("seed", range(40))
def test_lines_are_large_inside_in_order_and_handwritten(seed):
    _, lines = hand(seed)
    assert 1 <= len(lines) <= 2
    for line in lines:
        y0, x0, y1, x1 = line.box
        assert 0 < y0 < y1 < 1
        assert 0 < x0 < x1 < 1
        assert y1 - y0 <= 0.4
        assert line.handwritten
        assert len(line.char_boxes) == len(line.text)
        assert all(a[3] == b[1] and a[1] < a[3] for a, b in zip(line.char_boxes, line.char_boxes[1:], strict=False))
    if len(lines) == 2:
        assert lines[0].box[2] <= lines[1].box[0]


def test_most_lines_are_as_high_as_planned():
    heights = [line.box[2] - line.box[0] for seed in range(60) for line in hand(seed, 32)[1]]
    assert np.mean(np.array(heights) >= SMALLEST) > 0.9
    assert max(heights) > 0.3


def test_the_ink_fills_the_box():
    for seed in range(10):
        rng = random.Random(seed)
        made = written(rng, "A7", draw_hand(rng))
        assert made.coverage.getbbox() == (0, 0, *made.coverage.size)
        assert made.coverage.height > 0.7 * CAP_PX
        assert 0 < made.edges[1] < made.edges[2] == made.coverage.width
        for a, b in ((0, 1), (1, 2)):
            assert np.asarray(made.coverage)[:, round(made.edges[a]) : round(made.edges[b])].max() == 255


def test_no_two_hands_write_alike_and_one_hand_shakes():
    rng = random.Random(0)
    steady = replace(draw_hand(rng), shake=0.0, wander=0.0)
    shapes = [written(rng, "358", draw_hand(rng)).coverage.resize((60, 30)) for _ in range(5)]
    pairs = [(a, b) for k, a in enumerate(shapes) for b in shapes[k + 1 :]]
    assert all(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() > 5 for a, b in pairs)
    shaky = replace(steady, shake=0.3)
    assert (
        written(random.Random(1), "L", steady).coverage.tobytes()
        != written(random.Random(1), "L", shaky).coverage.tobytes()
    )


def test_another_size_is_written_the_same():
    for seed in range(5):
        small, at_112 = hand(seed, 112)
        large, at_336 = hand(seed, 336)
        assert at_112 == at_336
        shrunk = np.asarray(large.resize((112, 112), Image.Resampling.BOX), float)
        assert np.abs(shrunk - np.asarray(small, float)).mean() < 5


def test_nothing_is_written_where_something_is():
    taken = [(0.0, 0.0, 0.5, 1.0)]
    _, lines = hand(0, 112, taken)
    assert all(line.box[0] >= 0.5 for line in lines)
    assert len(taken) == 1 + len(lines)
    assert hand(0, 112, [(0.0, 0.0, 1.0, 1.0)])[1] == ()


def test_digits_and_letters_never_meet_in_a_line():
    rng = random.Random(0)
    texts = [draw_written(rng) for _ in range(500)]
    assert all(set(text) <= set(DIGITS) or set(text) <= set(LETTERS) for text in texts)
    assert {len(text) for text in texts} >= {1, 2, 3, 4, 5}
    assert not {"O", "I", "S", "Z"} & set(texts), "alone they could be digits"
