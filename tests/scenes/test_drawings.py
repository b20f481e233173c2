from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from paligemma.scenes.catalog import LABELS
from paligemma.scenes.drawings import DRAWINGS, figure, widest_outline
from paligemma.scenes.pen import OPAQUE, Pose, paint, posed

RGB = (40, 85, 215)


def _tile(label: str, size_px: int = 100, size: float = 0.4) -> Image.Image:
    shape = figure(label)
    return paint(shape, posed(shape, Pose(size=size)), RGB, size_px=size_px)


def _silhouette(label: str, side: int = 32) -> np.ndarray:
    """As fractions of the longer side, so that proportions count too."""
    tile = _tile(label, 200)
    box = tile.getchannel("A").getbbox()
    assert box is not None
    alpha = tile.getchannel("A").crop(box)
    square = Image.new("L", (max(alpha.size),) * 2)
    square.paste(alpha, ((square.width - alpha.width) // 2, (square.height - alpha.height) // 2))
    return np.asarray(square.resize((side, side), Image.Resampling.BOX)) >= OPAQUE


def test_every_label_has_a_drawing_and_the_reverse():
    assert sorted(DRAWINGS) == list(LABELS)


@pytest.mark.parametrize("label", LABELS)
def test_a_drawing_fills_its_box_and_is_of_one_main_color(label: str):
    tile = np.asarray(_tile(label))
    solid = tile[..., 3] >= OPAQUE
    assert 0.12 < solid.mean() < 0.97
    assert (np.abs(tile[solid][:, :3].astype(int) - RGB).sum(axis=1) < 90).mean() > 0.35
    near = tile[..., :3][solid]
    assert (near[:, 2] >= near[:, 0]).mean() > 0.99  # shades of blue stay blue, up to white and black


@pytest.mark.parametrize("label", LABELS)
def test_most_of_a_drawing_hangs_together(label: str):
    """Growing one pixel outwards from the middle of the pixels reaches (nearly) all of it."""
    solid = _silhouette(label, 48)
    reached = np.zeros_like(solid)
    rows, columns = np.nonzero(solid)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    reached[rows[nearest], columns[nearest]] = True
    for _ in range(solid.size):
        padded = np.pad(reached, 1)
        grown = solid & np.max([padded[y : y + 48, x : x + 48] for y in range(3) for x in range(3)], axis=0)
        if grown.sum() == reached.sum():
            break
        reached = grown
    assert reached.sum() > 0.97 * solid.sum()


def test_no_two_silhouettes_are_alike_mirrored_or_not():
    shapes = {label: _silhouette(label) for label in LABELS}
    for a, b in combinations(LABELS, 2):
        for mirrored in (shapes[b], shapes[b][:, ::-1]):
            iou = (shapes[a] & mirrored).sum() / (shapes[a] | mirrored).sum()
            assert iou < 0.8, (a, b, iou)


def test_a_figure_is_made_once():
    assert figure("cat") is figure("cat")


@pytest.mark.parametrize("label", LABELS)
def test_the_widest_outline_leaves_most_of_the_inside(label: str):
    shape = figure(label)
    pose = Pose(size=0.4)
    tile = paint(shape, posed(shape, pose), (255, 60, 60), size_px=200, outline=widest_outline(label) * pose.size)
    plain = paint(shape, posed(shape, pose), (255, 60, 60), size_px=200)
    solid = np.asarray(tile.getchannel("A")) >= OPAQUE
    changed = np.abs(np.asarray(tile, int) - np.asarray(plain, int)).sum(axis=2) > 30
    assert changed[solid].mean() < 0.5
    assert changed.any() == (widest_outline(label) > 0)
