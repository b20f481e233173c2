"""Outlines filled again give the mask: exactly without simplification, nearly with it."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from tests.results.made import blob, filled

from paligemma.results.outlines import area, outlines

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


@given(masks)
def test_outlines_filled_again_are_the_mask(mask):
    rings = outlines(mask)
    assert np.array_equal(filled(rings, mask.shape), mask)
    assert sum(area(ring) for ring in rings) == mask.sum()
    assert all(ring.dtype == np.float64 and area(ring) > 0 for ring in rings)


def test_one_outline_for_each_part_and_its_hole_inside():
    mask = np.zeros((9, 12), dtype=bool)
    mask[1:8, 1:8] = True
    mask[3:6, 3:6] = False
    mask[4, 4] = True  # an island in the hole
    mask[2:4, 9:11] = True
    assert sorted(area(ring) for ring in outlines(mask)) == [1, 4, 49 - 9]
    assert outlines(mask[:0]) == []
    assert outlines(np.zeros((3, 3), dtype=bool)) == []


def test_a_rectangle_has_four_corners():
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:5, 3:9] = True
    assert sorted(map(tuple, outlines(mask)[0])) == [(3, 2), (3, 5), (9, 2), (9, 5)]


@pytest.mark.parametrize("side", [40, 150, 400])
@pytest.mark.parametrize("seed", range(4))
def test_simplified_outlines_keep_the_shape_in_far_fewer_corners(side, seed):
    mask = blob(side, side, seed)
    exact, simple = outlines(mask), outlines(mask, 0.75)
    again = filled(simple, mask.shape)
    assert (again & mask).sum() / (again | mask).sum() > 1 - 3.0 / side
    assert sum(map(len, simple)) < 0.5 * sum(map(len, exact))
