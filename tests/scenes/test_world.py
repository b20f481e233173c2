import random
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma.errors import UsageError
from paligemma.scenes import COLORS, LABELS, SHARES, Scene, draw_scene
from paligemma.scenes.backgrounds import draw_ground
from paligemma.scenes.world import KINDS, _in_front, mask_box, paint_things, place_beside, pose_thing

PRINT = """
import hashlib
from paligemma.scenes import draw_scene
for seed in range(3):
    print(hashlib.sha256(draw_scene(seed, 64).image.tobytes()).hexdigest())
"""
SCENES = [draw_scene(seed, 112, "objects") for seed in range(150)]


def _same(a: Scene, b: Scene) -> bool:
    masks = all(np.array_equal(s.mask, t.mask) for s, t in zip(a.things, b.things, strict=True))
    return a == b and masks and np.array_equal(a.image, b.image)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_scene(kind: str):
    for seed in (0, 1, 2):
        assert _same(draw_scene(seed, 64, kind), draw_scene(seed, 64, kind))


def test_any_whole_number_is_a_seed_and_each_gives_another_scene():
    seeds = (0, 1, -1, 2**64, -(2**64), 10**40)
    pictures = {draw_scene(seed, 64).image.tobytes() for seed in seeds}
    assert len(pictures) == len(seeds)


def test_another_process_draws_the_same():
    runs = [
        subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True).stdout for _ in "ab"
    ]
    assert runs[0] == runs[1] != ""


def test_kinds_come_with_their_shares_and_the_seed_says_which():
    assert sum(SHARES.values()) == pytest.approx(1)
    assert set(SHARES) == set(KINDS)
    counts = dict.fromkeys(KINDS, 0)
    for seed in range(400):
        scene = draw_scene(seed, 32)
        written = any(line.handwritten for line in scene.lines)
        kind = "chart" if scene.chart else "table" if scene.table else "objects" if scene.things else None
        counts[kind or ("hand" if written else "text")] += 1
    for kind, share in SHARES.items():
        assert counts[kind] / 400 == pytest.approx(share, abs=0.06), kind


def test_a_drawn_kind_is_the_asked_kind():
    scene = next(scene for scene in map(draw_scene, range(9)) if scene.things)
    seed = next(seed for seed in range(9) if draw_scene(seed).things)
    assert _same(scene, draw_scene(seed, kind="objects"))


def test_masks_boxes_and_words_are_true():
    for scene in SCENES:
        for thing in scene.things:
            assert thing.label in LABELS
            assert thing.color in COLORS
            assert thing.mask.shape == (112, 112)
            assert thing.mask.sum() > 30
            assert thing.box == mask_box(thing.mask)
            assert 0 <= min(thing.box) < max(thing.box) <= 1
            assert 0 <= thing.hidden <= 0.35


def test_a_thing_has_its_color_in_the_picture():
    for scene in SCENES[:60]:
        picture = np.asarray(scene.image, int)
        for thing in scene.things:
            off = np.abs(picture[thing.mask] - COLORS[thing.color]).sum(axis=1)
            assert (off < 110).mean() > 0.2, (thing.label, thing.color)


def test_things_stand_apart_or_one_hides_a_part_of_another():
    occluded = 0
    for scene in SCENES:
        covered = np.sum([thing.mask for thing in scene.things], axis=0)
        assert covered.max() == 1
        hidden = [thing for thing in scene.things if thing.hidden > 0]
        occluded += bool(hidden)
        assert len(hidden) <= 1
        overlaps = [
            (a, b)
            for k, a in enumerate(scene.things)
            for b in scene.things[k + 1 :]
            if min(a.box[2], b.box[2]) > max(a.box[0], b.box[0]) and min(a.box[3], b.box[3]) > max(a.box[1], b.box[1])
        ]
        assert len(overlaps) <= len(hidden)
    assert 0.06 < occluded / len(SCENES) < 0.22


def test_nothing_is_hidden_altogether_by_something_large():
    ground = draw_ground(random.Random(0), 64)
    found = 0
    for seed in range(60):
        rng = random.Random(seed)
        small = place_beside(rng, pose_thing(rng, ground, [], (0.15, 0.16)), [], [])
        large = pose_thing(rng, ground, [], (0.5, 0.5))
        assert small is not None
        placed = _in_front(rng, large, small, [0.5])
        if placed is not None:
            back, front = paint_things(Image.new("RGB", (96, 96)), [small, placed])
            assert 0 < max(back.hidden, front.hidden) <= 0.35
            found += 1
    assert found > 10


def test_from_left_to_right_with_a_gap():
    for scene in SCENES:
        for left, right in pairwise(scene.things):
            assert right.center_x - left.center_x > 0.06


def test_numbers_of_things_sizes_twins_and_words():
    counts = [len(scene.things) for scene in SCENES]
    assert set(counts) == {1, 2, 3, 4}
    assert 0.15 < counts.count(1) / 150 < 0.36
    assert counts.count(4) / 150 > 0.06
    twins = [
        len({thing.label for thing in scene.things}) < len(scene.things) for scene in SCENES if len(scene.things) > 1
    ]
    assert 0.3 < np.mean(twins) < 0.7
    assert 0.1 < np.mean([bool(scene.lines) for scene in SCENES]) < 0.3
    sides = [thing.box[k + 2] - thing.box[k] for scene in SCENES for thing in scene.things for k in (0, 1)]
    assert min(sides) > 0.06
    assert max(sides) < 0.8


def test_every_label_and_color_occurs():
    things = [thing for seed in range(500) for thing in draw_scene(seed, 32, "objects").things]
    assert {thing.label for thing in things} == set(LABELS)
    assert {thing.color for thing in things} == set(COLORS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scene_at_another_size(kind: str):
    for seed in range(8):
        small, large = draw_scene(seed, 112, kind), draw_scene(seed, 224, kind)
        assert small.image.size == (112, 112)
        assert (small.chart, small.table) == (large.chart, large.table)
        assert [line.text for line in small.lines] == [line.text for line in large.lines]
        assert [(t.label, t.color) for t in small.things] == [(t.label, t.color) for t in large.things]
        for a, b in zip(small.things + small.lines, large.things + large.lines, strict=True):
            assert np.allclose(a.box, b.box, atol=1.6 / 112)


def test_words_do_not_touch_things():
    for scene in SCENES:
        for line in scene.lines:
            y0, x0, y1, x1 = (round(value * 112) for value in line.box)
            assert not any(thing.mask[y0:y1, x0:x1].any() for thing in scene.things)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(), size=st.integers(32, 150))
def test_any_seed_and_size_is_drawn(seed: int, size: int):
    scene = draw_scene(seed, size)
    assert scene.image.size == (size, size)
    assert scene.image.mode == "RGB"
    assert scene.things or scene.lines


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UsageError, match="objects, text"):
        draw_scene(0, kind="landscape")
    with pytest.raises(UsageError, match="32 px"):
        draw_scene(0, 8)


def test_a_scene_does_not_touch_the_shared_generator():
    random.seed(7)
    before = random.getstate()
    draw_scene(3, 64)
    assert random.getstate() == before
