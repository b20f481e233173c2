import random

import numpy as np
import pytest

from paligemma.scenes.backgrounds import GRID, GROUNDS, draw_ground, grain, grain_level, jitter, octaves


@pytest.mark.parametrize("kind", GROUNDS)
def test_a_ground_is_the_same_again_and_alike_at_every_size(kind: str):
    for seed in range(6):
        large = draw_ground(random.Random(seed), 224, kind)
        assert np.array_equal(large.image, draw_ground(random.Random(seed), 224, kind).image)
        small = draw_ground(random.Random(seed), 112, kind)
        assert small.image.size == (112, 112)
        assert (small.base, small.other) == (large.base, large.other)
        shrunk = np.asarray(large.image.reduce(2), float)
        assert np.abs(np.asarray(small.image, float) - shrunk).mean() < 2.5


@pytest.mark.parametrize("kind", GROUNDS)
def test_a_ground_leaves_the_generator_in_one_state_whatever_the_size(kind: str):
    states = []
    for size in (48, 224):
        rng = random.Random(5)
        draw_ground(rng, size, kind)
        states.append(rng.random())
    assert states[0] == states[1]


@pytest.mark.parametrize("kind", GROUNDS)
def test_a_ground_stays_near_its_two_colors(kind: str):
    for seed in range(10):
        ground = draw_ground(random.Random(seed), 112, kind)
        middle = (np.array(ground.base) + ground.other) / 2
        assert np.abs(np.asarray(ground.image, float).mean(axis=(0, 1)) - middle).max() < 60


def _spread(kind: str, seed: int) -> float:
    return float(np.asarray(draw_ground(random.Random(seed), 64, kind).image).std(axis=(0, 1)).max())


def test_only_a_plain_ground_has_one_color():
    for kind in GROUNDS:
        spreads = sorted(_spread(kind, seed) for seed in range(9))
        assert (spreads[-1] == 0) if kind == "plain" else (spreads[4] > 2)


def test_kinds_come_with_their_shares():
    counts = dict.fromkeys(GROUNDS, 0)
    for seed in range(600):
        counts[draw_ground(random.Random(seed), 32).kind] += 1
    assert sum(share for _, share in GROUNDS.values()) == pytest.approx(1)
    for kind, (_, share) in GROUNDS.items():
        assert counts[kind] / 600 == pytest.approx(share, abs=0.05)


def test_value_noise_has_unit_spread_and_is_smooth_where_coarse():
    noise = octaves(np.random.default_rng(3), ((4, 4), (8, 8)), 0.5, channels=200)
    assert noise.shape == (GRID, GRID, 200)
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.diff(noise, axis=0)).mean() < 0.15


def test_grain_moves_pixels_by_at_most_twice_the_level_and_none_at_zero():
    image = draw_ground(random.Random(1), 64, "plain").image
    assert grain(random.Random(2), image, 0.0) is image
    moved = np.asarray(grain(random.Random(2), image, 4.0), int) - np.asarray(image)
    assert 6 <= np.abs(moved).max() <= 8
    assert abs(moved.mean()) < 1


def test_most_pictures_have_no_grain():
    levels = [grain_level(random.Random(seed)) for seed in range(300)]
    assert 0.5 < sum(level == 0 for level in levels) / 300 < 0.7
    assert all(level == 0 or 2 <= level <= 10 for level in levels)


def test_jitter_stays_in_range():
    for seed in range(50):
        assert all(0 <= value <= 255 for value in jitter(random.Random(seed), (3, 250, 128), 40))
