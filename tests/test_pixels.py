import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paligemma.errors import UsageError
from paligemma.pixels import DEFAULT_RESIZE, RESIZES, resize_float, to_pixels

FLOAT = ("bilinear-antialias-float", "bilinear-float")
TRUNCATED = ("bilinear", "bilinear-antialias", "bicubic-truncated")
SIDES = st.integers(1, 60)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def levels(image: Image.Image, size_px: int, resize: str) -> np.ndarray:
    """float64[S, S, 3] in 0..255."""
    return (to_pixels(image, size_px, resize).double().movedim(0, -1).numpy() + 1) * 127.5


def filter_matrix(source: int, target: int, kernel: str, antialias: bool) -> np.ndarray:
    """float64[target, source]: a resampling filter by its definition, half-pixel centres, rows that sum to 1."""
    stretch = max(source / target, 1.0) if antialias else 1.0
    centres = (np.arange(target) + 0.5) * source / target
    if not antialias:
        centres = centres.clip(0.5, source - 0.5)  # the edge pixel is repeated
    x = np.abs(np.arange(source) + 0.5 - centres[:, None]) / stretch
    if kernel == "bilinear":
        weights = (1 - x).clip(0)
    else:  # Keys, a = -0.5
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def by_definition(image: Image.Image, size_px: int, kernel: str, antialias: bool) -> np.ndarray:
    array = np.array(image).astype(np.float64)
    rows = filter_matrix(image.height, size_px, kernel, antialias)
    columns = filter_matrix(image.width, size_px, kernel, antialias)
    return np.einsum("yh,hwc,xw->yxc", rows, array, columns)


@pytest.mark.parametrize("resize", RESIZES)
@settings(max_examples=25, deadline=None)
@given(SIDES, SIDES, st.integers(1, 40))
def test_shape_type_and_range(resize: str, width: int, height: int, size_px: int) -> None:
    pixels = to_pixels(picture(width, height), size_px, resize)
    assert pixels.shape == (3, size_px, size_px)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert -1 - 1e-6 <= pixels.min() <= pixels.max() <= 1 + 1e-6


@pytest.mark.parametrize("resize", RESIZES)
@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3), SIDES, SIDES, st.integers(1, 40))
def test_flat_pictures_keep_their_colour(
    resize: str, colour: tuple[int, int, int], width: int, height: int, size_px: int
) -> None:
    got = levels(Image.new("RGB", (width, height), colour), size_px, resize)
    assert np.abs(got - colour).max() < 1e-3


@pytest.mark.parametrize("resize", RESIZES)
def test_a_picture_of_the_right_size_is_only_rescaled(resize: str) -> None:
    image = picture(28, 28)
    expected = torch.from_numpy(np.array(image)).movedim(-1, 0) / 127.5 - 1
    assert torch.allclose(to_pixels(image, 28, resize), expected, atol=1e-6)


@pytest.mark.parametrize("resize", [name for name in RESIZES if name not in FLOAT])
def test_eight_bit_resizers_give_whole_levels(resize: str) -> None:
    got = levels(picture(33, 50), 20, resize)
    assert np.abs(got - np.rint(got)).max() < 1e-4


@pytest.mark.parametrize("resize", FLOAT)
@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.integers(1, 40), st.integers(0, 99))
def test_float_resizers_equal_the_definition(resize: str, width: int, height: int, size_px: int, seed: int) -> None:
    image = picture(width, height, seed)
    expected = by_definition(image, size_px, "bilinear", antialias="antialias" in resize)
    assert np.abs(levels(image, size_px, resize) - expected).max() < 2e-3


@pytest.mark.parametrize("resize", TRUNCATED)
@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.integers(1, 40), st.integers(0, 99))
def test_truncated_resizers_cut_the_fraction_off(resize: str, width: int, height: int, size_px: int, seed: int) -> None:
    image = picture(width, height, seed)
    kernel, antialias = resize.split("-")[0], resize != "bilinear"
    expected = by_definition(image, size_px, kernel, antialias).clip(0, 255)
    got = levels(image, size_px, resize)
    assert (got <= expected + 1e-2).all()
    assert (got > expected - 1 - 1e-2).all()


@pytest.mark.parametrize("resize", ["bicubic", "bicubic-torch"])
def test_rounded_bicubic_is_near_the_definition_on_smooth_pictures(resize: str) -> None:
    """Both round after each axis, so half a level twice; overshoot, which they cut after the first axis, is absent."""
    ramp = np.add.outer(np.linspace(20, 120, 70), np.linspace(0, 100, 50))
    image = Image.fromarray(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8))
    for size_px in (14, 90):
        expected = by_definition(image, size_px, "bicubic", antialias=True)
        assert np.abs(levels(image, size_px, resize) - expected).max() <= 1.0 + 1e-3


def test_the_default_is_pillows_bicubic() -> None:
    image = picture(90, 61)
    expected = np.array(image.resize((28, 28), Image.Resampling.BICUBIC))
    assert np.abs(levels(image, 28, DEFAULT_RESIZE) - expected).max() < 1e-4
    assert torch.equal(to_pixels(image, 28), to_pixels(image, 28, "bicubic"))


def test_antialias_matters_when_shrinking_only() -> None:
    large, small = picture(200, 200), picture(20, 20)
    shrunk = [levels(large, 28, name) for name in ("bilinear", "bilinear-antialias")]
    grown = [levels(small, 56, name) for name in ("bilinear", "bilinear-antialias")]
    assert np.abs(shrunk[0] - shrunk[1]).mean() > 20
    assert np.abs(grown[0] - grown[1]).max() <= 1 + 1e-4


def test_axes_and_channels_keep_their_place() -> None:
    array = np.zeros((40, 60, 3), np.uint8)
    array[:20, :30, 0], array[:20, 30:, 1], array[20:, :30, 2] = 255, 255, 255
    for resize in RESIZES:
        pixels = to_pixels(Image.fromarray(array), 8, resize)
        assert [int(pixels[c, y, x] > 0.99) for c, y, x in ((0, 0, 0), (1, 0, 7), (2, 7, 0))] == [1, 1, 1]
        assert pixels[:, 7, 7].max() < -0.99


def test_resize_float_takes_more_than_eight_bits() -> None:
    wide = np.full((5, 9, 1), 60_000, np.uint16)
    assert torch.allclose(resize_float(wide, 3, "bilinear", antialias=True), torch.tensor(60_000.0))


def test_wrong_calls_say_what_is_right() -> None:
    with pytest.raises(UsageError, match="did you mean 'bicubic'"):
        to_pixels(picture(4, 4), 28, "bicubik")
    with pytest.raises(UsageError, match="mode L, expected RGB"):
        to_pixels(Image.new("L", (4, 4)), 28)
    with pytest.raises(UsageError, match="at least 1"):
        to_pixels(picture(4, 4), 0)


def test_a_tall_picture_is_resized_in_pillow_13s_order_by_any_pillow() -> None:
    """Golden rows are Pillow 13's; where it begins with the height, and where not, measured on it."""
    black_and_white = np.random.default_rng(0).integers(0, 2, (130, 100, 3), dtype=np.uint8) * np.uint8(255)
    for width, height_first in ((80, True), (92, True), (93, False), (100, False)):
        image = Image.fromarray(np.ascontiguousarray(black_and_white[:, :width]))
        steps = [(width, 56), (56, 56)] if height_first else [(56, 130), (56, 56)]
        for size in steps:
            image = image.resize(size, Image.Resampling.BICUBIC)
        got = levels(Image.fromarray(np.ascontiguousarray(black_and_white[:, :width])), 56, "bicubic")
        assert np.abs(got - np.asarray(image)).max() < 1e-3
