"""Run lengths equal pycocotools', text for text, and come back."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from paligemma.errors import InputError
from paligemma.results import rle

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70))


@given(masks)
def test_runs_are_those_of_pycocotools_and_come_back(mask):
    ours = rle.encode(mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    assert np.array_equal(rle.decode(ours), mask)
    assert np.array_equal(rle.decode(theirs), mask)


@given(masks, st.tuples(st.integers(0, 9), st.integers(0, 9)), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_mask_inside_a_larger_picture(mask, left_top, right_bottom):
    whole = np.pad(mask, ((left_top[1], right_bottom[1]), (left_top[0], right_bottom[0])))
    runs = rle.runs_of(mask, (whole.shape[1], whole.shape[0]), left_top)
    assert rle.counts_text(runs) == rle.encode(whole)["counts"]


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_long_runs_come_back(runs):
    assert rle.counts_runs(rle.counts_text(np.array(runs))) == runs


def test_plain_runs_are_read_too():
    assert rle.decode({"size": [2, 2], "counts": [1, 2, 1]}).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("counts", ["", "0", [1, 2], [-1, 5], "0p", "~~", "P"])
def test_damaged_runs_are_told(counts):
    with pytest.raises(InputError, match="mask runs"):
        rle.decode({"size": [2, 2], "counts": counts})
