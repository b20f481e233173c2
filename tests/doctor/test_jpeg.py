import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma.doctor.jpeg import decode_as_tensorflow

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def stored(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_flat_blocks_leave_no_room_for_the_dct(subsampling: str, width: int, height: int, seed: int) -> None:
    """Both DCTs agree on flat blocks, so smoothing and colour conversion must equal libjpeg's, at every edge."""
    colours = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    array = np.kron(colours, np.ones((16, 16, 1), np.uint8))[:height, :width]
    data = stored(array, quality=100, subsampling=SUBSAMPLINGS[subsampling])
    # The encoder fills blocks that stick out with copies of the edge, so these stay flat too.
    difference = np.abs(decode_as_tensorflow(data).astype(int) - by_pillow(data))
    assert difference.max() <= 1


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_real_pictures_differ_by_the_dct_only(subsampling: str, progressive: bool) -> None:
    y, x = np.mgrid[0:75, 0:101]
    array = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), (x * y) % 256], axis=-1).astype(np.uint8)
    data = stored(array, quality=85, subsampling=SUBSAMPLINGS[subsampling], progressive=progressive)
    difference = np.abs(decode_as_tensorflow(data).astype(int) - by_pillow(data))
    assert 0 < difference.mean() < 1.5
    assert difference.max() <= 12


def test_grey_files_become_rgb() -> None:
    data = stored(np.arange(64, dtype=np.uint8).reshape(8, 8))
    got = decode_as_tensorflow(data)
    assert got.shape == (8, 8, 3)
    assert (got == got[..., :1]).all()
    assert np.abs(got.astype(int) - by_pillow(data)).max() <= 3
