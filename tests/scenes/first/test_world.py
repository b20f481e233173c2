from itertools import pairwise

import numpy as np
import pytest

from paligemma.scenes.first import MAX_OBJECTS, draw_scene
from paligemma.scenes.first.world import MIN_GAP

SEEDS = range(5000, 5060)


def test_the_same_seed_gives_the_same_scene():
    one, other, third = draw_scene(3), draw_scene(3), draw_scene(4)
    assert np.array_equal(one.image, other.image)
    assert (one.things, one.text) == (other.things, other.text)
    assert not np.array_equal(one.image, third.image)


@pytest.mark.parametrize("size_px", [56, 112, 224])
def test_truth_lies_inside_the_picture_and_in_order(size_px):
    for seed in SEEDS:
        scene = draw_scene(seed, size_px)
        assert scene.image.size == (size_px, size_px)
        assert scene.image.mode == "RGB"
        assert len(scene.things) <= MAX_OBJECTS
        boxes = [thing.box for thing in scene.things] + ([scene.text.box] if scene.text else [])
        for y0, x0, y1, x1 in boxes:
            assert 0 <= y0 < y1 <= 1
            assert 0 <= x0 < x1 <= 1
        centers = [thing.center_x for thing in scene.things]
        assert all(b - a > MIN_GAP / 2 for a, b in pairwise(centers))


def test_boxes_are_where_the_ink_is():
    """Just inside each edge of a box something of the object shows that is not there just outside."""
    for seed in SEEDS:
        scene = draw_scene(seed, 224)
        picture = np.pad(np.asarray(scene.image, float), ((3, 3), (3, 3), (0, 0)), mode="edge")
        for thing in scene.things:
            y0, x0, y1, x1 = (round(c * 224) + 3 for c in thing.box)
            rows, columns = slice(y0, y1), slice(x0, x1)
            edges = {
                "top": (picture[y0 : y0 + 2, columns], picture[y0 - 3, columns][None], y0 > 6),
                "bottom": (picture[y1 - 2 : y1, columns], picture[y1 + 2, columns][None], y1 < 220),
                "left": (picture[rows, x0 : x0 + 2], picture[rows, x0 - 3][:, None], x0 > 6),
                "right": (picture[rows, x1 - 2 : x1], picture[rows, x1 + 2][:, None], x1 < 220),
            }
            for name, (inside, outside, off_the_frame) in edges.items():
                if off_the_frame:
                    assert np.abs(inside - outside).sum(-1).max() > 25, (seed, thing, name)


def test_characters_of_a_word_are_in_its_box_from_left_to_right():
    texts = [text for seed in SEEDS if (text := draw_scene(seed).text)]
    assert len(texts) > 10
    for text in texts:
        assert len(text.char_boxes) == len(text.word)
        lefts = [box[1] for box in text.char_boxes]
        assert lefts == sorted(lefts)


def test_counts_objects_and_words_vary():
    scenes = [draw_scene(seed) for seed in range(300)]
    assert {len(scene.things) for scene in scenes} >= {1, 2, 3, 4}
    assert 0.2 < sum(scene.text is not None for scene in scenes) / len(scenes) < 0.5
    twins = sum(len({thing.label for thing in scene.things}) < len(scene.things) for scene in scenes)
    assert twins > 40


def test_masks_fill_their_boxes_and_share_no_pixel():
    for seed in SEEDS:
        scene = draw_scene(seed, 112)
        covered = np.zeros((112, 112), int)
        for thing in scene.things:
            y0, x0, y1, x1 = (round(c * 112) for c in thing.box)
            rows, columns = np.nonzero(thing.mask)
            assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (y0, x0, y1, x1)
            covered += thing.mask
        assert covered.max() <= 1
