"""Every form a mask is kept in gives the same pixels; what is none is refused in one sentence."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco

from paligemma.errors import InputError, UsageError
from paligemma.results import Mask
from paligemma.tasks.mask_sources import fill_polygons, mask_of, read_instances

RING = np.zeros((40, 60), dtype=bool)
RING[5:30, 10:50] = True
RING[12:20, 20:35] = False


def png(array, mode=None, **options):
    stream = io.BytesIO()
    Image.fromarray(array, mode).save(stream, "PNG", **options)
    return stream.getvalue()


def palette(ids, colors):
    image = Image.fromarray(ids.astype(np.uint8)).convert("P")
    image = Image.frombytes("P", image.size, ids.astype(np.uint8).tobytes())
    image.putpalette(colors)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def uncompressed(mask):
    flat = mask.T.ravel()
    runs, value = [0], False
    for pixel in flat:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def cutout(mask):
    return np.dstack([np.full((*mask.shape, 3), 90, np.uint8), np.where(mask, 255, 0).astype(np.uint8)])


FORMS = {
    "Mask": lambda m: Mask.from_array(m),
    "bool": lambda m: m,
    "0/255": lambda m: (m * 255).astype(np.uint8),
    "0/1": lambda m: m.astype(np.uint8),
    "uint16": lambda m: m.astype(np.uint16) * 7,
    "RLE": lambda m: coco.encode(np.asfortranarray(m.astype(np.uint8))),
    "RLE text": lambda m: Mask.from_array(m).rle(),
    "RLE plain": uncompressed,
    "PNG L": lambda m: png((m * 255).astype(np.uint8)),
    "PNG ids": lambda m: png((m * 3).astype(np.uint8)),
    "PNG 1": lambda m: Image.fromarray(m),
    "PNG 16": lambda m: png(m.astype(np.uint16) * 65535),
    "PNG RGB grey": lambda m: png(np.repeat((m * 255).astype(np.uint8)[..., None], 3, axis=2)),
    "PNG RGB color": lambda m: png(m[..., None] * np.array([200, 0, 30], np.uint8)),
    "PNG palette": lambda m: palette(m, [0, 0, 0, 128, 0, 0]),
    "PNG alpha": lambda m: png(cutout(m)),
    "file": lambda m: io.BytesIO(png((m * 255).astype(np.uint8))),
    "polygons": lambda m: Mask.from_array(m).polygons(0),
    "polygons flat": lambda m: [p.ravel().tolist() for p in Mask.from_array(m).polygons(0)],
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_agree(form):
    size = (RING.shape[1], RING.shape[0])
    assert np.array_equal(mask_of(FORMS[form](RING), size).array(), RING)


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_outlines_fill_to_the_same_pixels(mask):
    size = (mask.shape[1], mask.shape[0])
    assert np.array_equal(fill_polygons(Mask.from_array(mask).polygons(0), size), mask)
    assert np.array_equal(mask_of(uncompressed(mask)).array(), mask)


def test_paths_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png((RING * 255).astype(np.uint8)))
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(mask_of(path).array(), RING)


def test_soft_edges_stay_soft():
    levels = np.zeros((8, 8), np.uint8)
    levels[2:6, 2:6], levels[2, 2], levels[3, 3] = 255, 130, 100
    mask = mask_of(levels)
    assert np.array_equal(mask.array(), levels > 127)
    assert np.abs(mask.soft() * 255 - levels).max() < 1e-3


def grown(mask):
    """With the eight neighbours of every pixel."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def test_polygons_are_those_of_coco_to_a_pixel():
    generator = np.random.default_rng(3)
    for _ in range(20):
        center, radius = generator.uniform(20, 80, 2), generator.uniform(15, 40, 12)
        angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        points = np.stack([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=1)
        ours = fill_polygons([points], (100, 90))
        runs = coco.merge(coco.frPyObjects([points.ravel().tolist()], 90, 100))
        theirs = mask_of(runs).array()
        assert (ours ^ theirs).sum() < 0.015 * ours.sum()
        assert not (theirs & ~grown(ours)).any()  # a pixel only they have touches one of ours
        assert not (ours & ~grown(theirs)).any()


def test_parts_are_united_and_the_outside_is_cut():
    a, b = [2, 2, 8, 2, 8, 8, 2, 8], [5, 5, 30, 5, 30, 30, 5, 30]
    filled = fill_polygons([a, b], (10, 12))
    expected = np.zeros((12, 10), bool)
    expected[2:8, 2:8] = expected[5:, 5:] = True
    assert np.array_equal(filled, expected)
    assert np.array_equal(fill_polygons(a, (10, 12)), fill_polygons([a], (10, 12)))
    assert not fill_polygons([[20, 20, 30, 20, 30, 30], [-9, -9, -1, -9, -1, -1]], (10, 12)).any()
    assert fill_polygons([[-1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300]], (3, 2)).all()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (np.zeros((2, 2, 2), bool), r"bool array \[2, 2, 2\]"),
        (np.zeros((2, 2)), "float64 array"),
        (7, "a mask is a int"),
        ({"counts": "x"}, "size None"),
        ({"size": [2, 2]}, "counts of type NoneType"),
        ({"size": [2, "2"], "counts": [4]}, "run lengths"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "50,000,000 pixels"),
        ({"size": [2, 2], "counts": [1, 1]}, "cover 2 pixels"),
        ([[1, 2, 3]], "no list of x, y pairs"),
        ([[1, 2, 3, 4]], "2 points, expected at least 3"),
        ([[1, 2, 3, 4, float("nan"), 6]], "all finite"),
        ([["a", "b"]], "no list of x, y pairs"),
        (b"no picture", "expected JPEG, PNG"),
        (png(RING.astype(np.uint8)[:9]), r"\(60, 9\) px where the picture has \(60, 40\)"),
    ],
)
def test_what_is_no_mask(source, said):
    with pytest.raises(InputError, match=said):
        mask_of(source, (60, 40))


def test_polygons_need_the_size():
    with pytest.raises(UsageError, match="image_size_px"):
        mask_of([[0, 0, 1, 0, 1, 1]])
    with pytest.raises(InputError, match="pixels"):
        fill_polygons([], (10**6, 10**6))


# --- pictures of instance ids ----------------------------------------------------------------------------------------

IDS = np.zeros((20, 30), dtype=np.int64)
IDS[1:5, 2:9], IDS[6:9, 3:20], IDS[10:, 25:] = 5, 2, 255


@pytest.mark.parametrize(
    "source",
    [
        IDS,
        png(IDS.astype(np.uint8)),
        png(IDS.astype(np.uint16)),
        palette(IDS, list(range(256)) * 3),
        png(np.dstack([IDS, np.zeros_like(IDS), np.zeros_like(IDS)]).astype(np.uint8)),
    ],
    ids=["array", "L", "I;16", "P", "RGB"],
)
def test_instances(source):
    found = read_instances(source)
    assert list(found) == [2, 5, 255]
    for value, mask in found.items():
        assert np.array_equal(mask.array(), value == IDS)
    assert list(read_instances(source, background=(0, 255))) == [2, 5]


def test_panoptic_colors_are_numbers():
    colors = np.zeros((4, 4, 3), np.uint8)
    colors[1, 1] = (1, 2, 3)
    assert list(read_instances(png(colors))) == [1 + 2 * 256 + 3 * 65536]


def test_no_instances_and_no_ids():
    assert read_instances(np.zeros((3, 3), int)) == {}
    with pytest.raises(InputError, match="integers"):
        read_instances(np.zeros((3, 3)))
    with pytest.raises(InputError, match="mode F"):
        read_instances(Image.fromarray(np.zeros((3, 3), np.float32)))
