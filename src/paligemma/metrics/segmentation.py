"""How well masks cover what they should."""

import numpy as np
from numpy.typing import ArrayLike


def mask_iou(a: ArrayLike, b: ArrayLike) -> float:
    """Intersection over union of two masks bool[H, W]; 1 where both are empty.

    Raises:
        ValueError: of different sizes.
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if first.shape != second.shape:
        raise ValueError(f"masks of different sizes: {first.shape} and {second.shape}")
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0
