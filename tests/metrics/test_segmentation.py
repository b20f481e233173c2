import numpy as np
import pytest

from paligemma.metrics import mask_iou


def test_shared_over_joined_area():
    a, b = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    a[:, :4] = b[:, 2:] = True
    assert mask_iou(a, b) == pytest.approx(8 / 24)
    assert mask_iou(a, a) == 1
    assert mask_iou(a, ~a) == 0
    assert mask_iou(a & ~a, b & ~b) == 1


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="different sizes"):
        mask_iou(np.ones((2, 2)), np.ones((2, 3)))
