import numpy as np
import pytest

from paligemma.scenes.first.drawings import COLORS, DRAWINGS, LABELS, draw


def test_there_are_enough_kinds_of_objects_and_names_are_sorted():
    assert len(LABELS) >= 12
    assert list(LABELS) == sorted(LABELS)


@pytest.mark.parametrize("label", LABELS)
def test_a_drawing_is_cut_tightly_and_has_its_colour(label):
    picture = np.asarray(draw(label, 60, COLORS["green"]))
    opaque = picture[..., 3] >= 128
    for edge in (opaque[0], opaque[-1], opaque[:, 0], opaque[:, -1]):
        assert edge.any()
    red, green, blue = picture[opaque][:, :3].mean(0)
    assert green > red
    assert green > blue


@pytest.mark.parametrize("label", LABELS)
def test_the_natural_shape_is_kept_at_every_size(label):
    _, aspect = DRAWINGS[label]
    for height in (20, 80):
        picture = draw(label, height, COLORS["red"])
        assert picture.height <= height + 1
        assert picture.width / picture.height == pytest.approx(aspect, rel=0.25)


def test_flipping_mirrors():
    plain, mirrored = (np.asarray(draw("fish", 40, COLORS["blue"], flip=flip)) for flip in (False, True))
    assert plain.shape == mirrored.shape
    assert not np.array_equal(plain, mirrored)
    assert np.abs(plain[:, ::-1].astype(int) - mirrored).mean() < 12


def test_no_two_kinds_look_the_same():
    pictures = {label: np.asarray(draw(label, 40, COLORS["red"]).resize((40, 40)), float) for label in LABELS}
    for one in LABELS:
        for other in LABELS:
            if one < other:
                assert np.abs(pictures[one] - pictures[other]).mean() > 10, (one, other)
