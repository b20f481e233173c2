"""Windows and merging: what must hold for every picture and every set of boxes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.api.tiling import MAX_WINDOWS, Boxes, Tiles, cut_sides, merge, windows
from paligemma.errors import UsageError

SIDES = st.integers(1, 3000)
OVERLAPS = st.floats(0, 0.9)


@st.composite
def tilings(draw):
    size = (draw(SIDES), draw(SIDES))
    overlap = draw(OVERLAPS)
    if draw(st.booleans()):
        least = max(20, max(size) // 15)
        tiles = Tiles(size_px=draw(st.integers(least, 3000)), overlap=min(overlap, 0.7))
    else:
        tiles = Tiles(
            rows=draw(st.integers(1, min(6, size[1]))), cols=draw(st.integers(1, min(6, size[0]))), overlap=overlap
        )
    return size, tiles


@given(tilings())
def test_windows_cover_the_picture_and_stay_in_it(tiling):
    size, tiles = tiling
    seen = np.zeros((size[1], size[0]), dtype=bool)
    for left, top, right, bottom in windows(size, tiles, 224):
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        seen[top:bottom, left:right] = True
    assert seen.all()


@given(tilings(), st.data())
def test_an_object_no_larger_than_the_overlap_lies_whole_in_a_window(tiling, data):
    size, tiles = tiling
    found = windows(size, tiles, 224)
    side = [found[0][2] - found[0][0], found[0][3] - found[0][1]]
    shared = [math.floor(tiles.overlap * s) for s in side]
    x, y = (data.draw(st.integers(0, size[i] - min(shared[i], size[i]))) for i in (0, 1))
    w, h = (data.draw(st.integers(0, min(shared[i], size[i]))) for i in (0, 1))
    assert any(left <= x and top <= y and x + w <= right and y + h <= bottom for left, top, right, bottom in found)


def test_windows_of_the_models_resolution_grow_before_they_are_too_many():
    assert windows((224, 224), Tiles(), 224) == [(0, 0, 224, 224)]
    assert windows((100, 50), Tiles(), 224) == [(0, 0, 100, 50)]
    assert len(windows((448, 224), Tiles(overlap=0.0), 224)) == 2
    assert len(windows((8000, 6000), Tiles(), 224)) <= MAX_WINDOWS
    assert len(windows((2240, 2240), Tiles(size_px=224, overlap=0), 224)) == 100


@pytest.mark.parametrize(
    ("value", "tiles"),
    [
        (None, None), (False, None), (True, Tiles()), ((2, 3), Tiles(rows=2, cols=3)), ([1, 1], Tiles(rows=1, cols=1)),
        (Tiles(size_px=50), Tiles(size_px=50)),
    ],
)  # fmt: skip
def test_ways_to_ask_for_tiles(value, tiles):
    assert Tiles.of(value) == tiles


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tiles.of(3), "give True"),
        (lambda: Tiles.of((2, 0)), "cols of the tiles is 0"),
        (lambda: Tiles(rows=2), "both rows and cols"),
        (lambda: Tiles(rows=2, cols=2, size_px=9), "leave the others out"),
        (lambda: Tiles(overlap=0.95), "overlap"),
        (lambda: Tiles(overlap=float("nan")), "overlap"),
        (lambda: windows((3, 3), Tiles(rows=4, cols=1), 224), "ask for fewer"),
    ],
)
def test_tiles_that_cannot_be(make, message):
    with pytest.raises(UsageError, match=message):
        make()


# --- merging ---


def boxes(*rows, cut=None, scores=None, labels=None):
    n = len(rows)
    return Boxes(
        np.array(rows, dtype=float).reshape(-1, 4),
        np.array(labels or [0] * n, dtype=np.int64),
        np.array(scores if scores is not None else [1.0] * n, dtype=float),
        np.array(cut if cut is not None else [[False] * 4] * n, dtype=bool).reshape(-1, 4),
        tuple((i,) for i in range(n)),
    )


@st.composite
def found_boxes(draw):
    n = draw(st.integers(0, 9))
    corner = st.integers(0, 30)
    rows = []
    for _ in range(n):
        x, y = draw(corner), draw(corner)
        rows.append((x, y, x + draw(st.integers(1, 20)), y + draw(st.integers(1, 20))))
    return boxes(
        *rows,
        cut=draw(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=n, max_size=n)),
        scores=draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=n, max_size=n)),
        labels=draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)),
    )


@given(found_boxes())
def test_merging_twice_is_merging_once(found):
    once = merge(found)
    twice = merge(once)
    for name in ("xyxy", "labels", "scores", "cut"):
        np.testing.assert_array_equal(getattr(once, name), getattr(twice, name))
    assert once.parts == twice.parts


@given(found_boxes())
def test_merging_invents_nothing(found):
    merged = merge(found)
    used = [i for parts in merged.parts for i in parts]
    assert len(used) == len(set(used))
    for i, parts in enumerate(merged.parts):
        own = found.xyxy[list(parts)]
        np.testing.assert_array_equal(merged.xyxy[i], [*own[:, :2].min(0), *own[:, 2:].max(0)])
        assert {merged.labels[i]} == set(found.labels[list(parts)])
    assert not len(found) or len(merged)


def test_repetitions_go_and_neighbours_stay():
    found = merge(boxes((0, 0, 10, 10), (1, 0, 11, 10), (30, 0, 40, 10), scores=[0.5, 0.9, 0.2]))
    assert [parts[0] for parts in found.parts] == [1, 2]
    assert len(merge(boxes((0, 0, 10, 10), (1, 0, 11, 10), labels=[0, 1]))) == 2


def test_a_cut_piece_yields_to_the_whole_however_certain_it_is():
    right = [False, False, True, False]
    found = merge(boxes((0, 0, 4, 10), (0, 0, 10, 10), scores=[0.9, 0.3], cut=[right, [False] * 4]))
    assert found.parts == ((1,),)
    # the same pieces uncut are two things, such as a wheel and its car
    assert len(merge(boxes((0, 0, 4, 10), (0, 0, 10, 10), scores=[0.9, 0.3]))) == 2


def test_facing_pieces_are_one_object_over_several_windows():
    right, left = [False, False, True, False], [True, False, False, False]
    both = [True, False, True, False]
    found = merge(boxes((0, 0, 10, 8), (8, 0, 20, 8), (18, 1, 25, 8), cut=[right, both, left], scores=[0.3, 0.6, 0.5]))
    np.testing.assert_array_equal(found.xyxy, [[0, 0, 25, 8]])
    assert found.parts[0][0] == 1
    assert found.scores.tolist() == [0.6]
    assert not found.cut.any()
    apart = merge(boxes((0, 0, 10, 8), (8, 7, 20, 15), cut=[right, left]))  # not in line
    assert len(apart) == 2


def test_only_inner_borders_cut():
    found = cut_sides(np.array([[0.0, 0, 50, 99], [51, 50, 99, 60]]), (0, 0, 100, 100), (200, 100))
    assert found.tolist() == [[False, False, False, False], [False, False, True, False]]
    assert cut_sides(np.zeros((0, 4)), (0, 0, 10, 10), (20, 20)).shape == (0, 4)
