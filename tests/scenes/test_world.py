import numpy as np
import pytest

from paligemma.scenes import MAX_OBJECTS, draw_scene
from paligemma.scenes.world import MIN_GAP

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
        assert all(b - a > MIN_GAP / 2 for a, b in zip(centers, centers[1:], strict=False))


def test_boxes_are_where_the_ink_is():
    """What a box encloses differs from the background; the ring around it does not hold more of the object."""
    for seed in SEEDS:
        scene = draw_scene(seed, 224)
        picture = np.asarray(scene.image, float)
        for thing in scene.things:
            y0, x0, y1, x1 = (round(c * 224) for c in thing.box)
            inside = picture[y0:y1, x0:x1]
            background = np.median(picture.reshape(-1, 3), axis=0)
            strong = np.abs(inside - background).sum(-1) > 45
            assert strong.mean() > 0.1
            for edge in (strong[:2], strong[-2:], strong[:, :2], strong[:, -2:]):
                assert edge.any(), (seed, thing)


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
