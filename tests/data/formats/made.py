"""Labelled pictures made for tests: drawn by hypothesis, with their files, and how to compare two of them."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from paligemma.data.example import Example
from paligemma.data.formats import FORMATS, Entry, Reading, write
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.results import rle

SPLITS = ("train", "valid", "test")
words = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=6)
labels = st.lists(words, min_size=1, max_size=2).map(" ".join)
texts = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12)


@st.composite
def plain_boxes(draw, size):
    width, height = size
    left, top = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
    right, bottom = draw(st.floats(left + 0.5, width)), draw(st.floats(top + 0.5, height))
    return TrueBox(label=draw(labels), xyxy=(left, top, right, bottom))


@st.composite
def drawn_boxes(draw, size, parts=2):
    """An object of triangles; its box is theirs."""
    width, height = size
    rings = []
    for _ in range(draw(st.integers(1, parts))):
        x1, y1 = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
        x2, y2 = draw(st.integers(x1 + 3, width)), draw(st.integers(y1 + 3, height))
        rings.append((float(x1), float(y1), float(x2), float(y1), float(x1), float(y2)))
    x, y = [v for ring in rings for v in ring[::2]], [v for ring in rings for v in ring[1::2]]
    return TrueBox(label=draw(labels), xyxy=(min(x), min(y), max(x), max(y)), polygons=tuple(rings))


@st.composite
def masked_boxes(draw, size):
    """An object of random pixels, perhaps in several parts and with holes; its box is the tightest."""
    width, height = size
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    pixels = random.random((height, width)) < draw(st.sampled_from([0.02, 0.5, 0.98]))
    pixels[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    corners = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return TrueBox(label=draw(labels), xyxy=corners, runs=rle.encode(pixels)["counts"])


@st.composite
def data_sets(draw, *kinds):
    """(split, size, boxes) of up to four pictures, with boxes of the given kinds."""
    found = []
    for split in draw(st.lists(st.sampled_from(SPLITS), min_size=1, max_size=4)):
        size = (draw(st.integers(8, 40)), draw(st.integers(8, 40)))
        boxes = st.one_of(*(kind(size) for kind in kinds))
        found.append((split, size, tuple(draw(st.lists(boxes, max_size=3)))))
    return sorted(found, key=lambda entry: SPLITS.index(entry[0]))


@contextmanager
def on_disk(pictures):
    """The entries of a data set whose pictures lie in a folder of its own, and an empty folder beside it."""
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        photos.mkdir()
        entries = []
        for number, (split, size, boxes) in enumerate(pictures):
            path = photos / f"{number:02d}.png"
            Image.new("RGB", size, (number, 0, 0)).save(path)
            entries.append(Entry(split, LabelledImage(path=path, boxes=boxes, size_px=size)))
        yield entries, Path(name) / "out"


@contextmanager
def round_trip(pictures, format):
    """(written, read) pictures, pair by pair, after a format was written and read in a folder that then moved."""
    with on_disk(pictures) as (entries, out):
        write(entries, format, out)
        moved = out.rename(out.with_name("moved"))
        reading = Reading(moved)
        found = list(FORMATS[format].read(moved, reading))
        assert reading.problems == []
        by_picture = sorted(found, key=lambda entry: (SPLITS.index(entry.split), entry.item.path.name))
        assert [entry.split for entry in by_picture] == [entry.split for entry in entries]
        pairs = [(mine.item, theirs.item) for mine, theirs in zip(entries, by_picture, strict=True)]
        for mine, theirs in pairs:
            assert theirs.size_px == mine.size_px
            assert theirs.path.read_bytes() == mine.path.read_bytes()
        yield pairs


def close(one, other, within):
    """Whether all edges agree within pixels."""
    return all(abs(a - b) <= within for a, b in zip(one, other, strict=True))


def same_pixels(one, other, size):
    """Whether two objects have the same mask, or neither has one."""
    masks = [box.mask(size) for box in (one, other)]
    if None in masks:
        return masks[0] is masks[1]
    return np.array_equal(masks[0].array(), masks[1].array())


def example(path, prefix="caption en", suffix="a cat"):
    """A training row."""
    return Example(id="1", images=(path,), prefix=prefix, suffix=suffix)
