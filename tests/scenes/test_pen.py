import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.scenes.drawings import figure
from paligemma.scenes.pen import HOLE, OPAQUE, Pen, Pose, extent, paint, posed, shaded, turned

RGB = (200, 40, 40)


def _mask(pen: Pen, size: float = 0.5, **pose: float) -> np.ndarray:
    shape = pen.figure()
    corners = posed(shape, Pose(size=size, **pose))
    return np.asarray(paint(shape, corners, RGB, size_px=100).getchannel("A")) >= OPAQUE


def test_a_square_of_half_the_side_covers_its_pixels():
    pen = Pen(1.0)
    pen.box(0, 0, 1, 1)
    mask = _mask(pen)
    assert mask[:50, :50].all()
    assert mask.sum() == 2500


def test_a_disc_is_round_whatever_the_aspect():
    pen = Pen(2.0)
    pen.disc(0.5, 0.5, 0.5)
    assert _mask(pen).sum() == pytest.approx(np.pi * 25**2, rel=0.03)


def test_a_ring_has_a_hole_and_the_hole_bounds_nothing():
    pen = Pen(1.0)
    pen.ring(0.5, 0.5, 0.5, 0.2)
    pen.ellipse(-3, -3, -2, -2, HOLE)
    mask = _mask(pen)
    assert not mask[25, 25]
    assert mask.sum() == pytest.approx(np.pi * (25**2 - 15**2), rel=0.05)


def test_a_curve_is_as_thick_as_asked():
    pen = Pen(1.0)
    pen.curve([(0.0, 0.5), (0.5, 0.5), (1.0, 0.5)], 0.2)
    shape = pen.figure()
    width, height = extent(shape, posed(shape, Pose(size=0.5)))
    assert width / height == pytest.approx(1.2 / 0.2, rel=0.02)


def test_size_is_the_root_of_the_area_and_the_longest_side_is_bounded():
    pen = Pen(4.0)
    pen.box(0, 0, 1, 1)
    shape = pen.figure()
    assert extent(shape, posed(shape, Pose(size=0.2))) == pytest.approx((0.4, 0.1))
    assert extent(shape, posed(shape, Pose(size=0.5, longest=0.6))) == pytest.approx((0.6, 0.15))


def test_turning_is_clockwise_and_keeps_the_size():
    right = np.array([[1.0, 0.0]])
    assert turned(right, 90) == pytest.approx(np.array([[0.0, 1.0]]))
    pen = Pen(1.0)
    pen.box(0, 0, 1, 1)
    shape = pen.figure()
    assert extent(shape, posed(shape, Pose(size=0.2, turn=45))) == pytest.approx((0.2 * 2**0.5,) * 2)


def test_flip_mirrors():
    pen = Pen(1.0)
    pen.polygon((0, 0), (1, 1), (0, 1))
    assert np.array_equal(_mask(pen, flip=True)[:50, :50], _mask(pen)[:50, :50][:, ::-1])


@settings(max_examples=40, deadline=None)
@given(size=st.floats(0.15, 0.5), turn=st.floats(-25, 25), stretch=st.floats(0.8, 1.25), at=st.floats(0, 0.99))
def test_a_tile_holds_the_figure_and_its_mask_fills_the_extent(size: float, turn: float, stretch: float, at: float):
    shape = figure("crab")
    corners = posed(shape, Pose(size=size, turn=turn, stretch=stretch))
    width, height = extent(shape, corners)
    tile = paint(shape, corners, RGB, size_px=200, offset=(at, at))
    rows, columns = np.nonzero(np.asarray(tile.getchannel("A")) >= OPAQUE)
    assert abs(columns.max() + 1 - (width * 200 + at)) <= 1.5
    assert abs(rows.max() + 1 - (height * 200 + at)) <= 1.5
    assert columns.min() <= at + 1.5
    assert rows.min() <= at + 1.5


def test_an_outline_darkens_the_edge_and_adds_no_pixel():
    pen = Pen(1.0)
    pen.box(0, 0, 1, 1)
    shape = pen.figure()
    corners = posed(shape, Pose(size=0.5))
    plain, lined = (paint(shape, corners, RGB, size_px=100, outline=outline) for outline in (0.0, 0.04))
    assert np.array_equal(np.asarray(plain.getchannel("A")), np.asarray(lined.getchannel("A")))
    assert lined.getpixel((1, 25))[0] < 100
    assert lined.getpixel((25, 25)) == (*RGB, 255)


@pytest.mark.parametrize("rgb", [(25, 25, 28), (248, 248, 248), (130, 132, 135)])
@pytest.mark.parametrize("shade", [-0.7, -0.35, 0.45, 0.8])
def test_every_shade_can_be_told_from_the_colour(rgb: tuple[int, int, int], shade: float):
    assert sum(abs(p - q) for p, q in zip(shaded(rgb, shade), rgb, strict=True)) > 80
