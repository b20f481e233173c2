from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from paligemma.checkpoints import find_codec, load_codec, resolve
from paligemma.data.augment import LEAST_LEFT, augmented
from paligemma.data.example import Example
from paligemma.tasks import TASKS
from paligemma.tasks.grammar import box_to_text
from paligemma.tasks.masks import decoder, encode_masks
from paligemma.tasks.segment import format_segments, parse_segments

COLORS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "cup": (30, 30, 200)}
SIZE = (240, 160)


@dataclass(frozen=True, kw_only=True)
class How:
    flip: float = 0.0
    crop: float = 0.0
    min_crop: float = 0.6
    scale: float = 0.0
    color: float = 0.0


def drawn(objects, order=None):
    """A picture with one filled box per label (left, top, right, bottom in px), and what to ask about it."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    places = []
    for label, (left, top, right, bottom) in objects.items():
        draw.rectangle((left, top, right - 1, bottom - 1), fill=COLORS[label])
        width, height = SIZE
        places.append((box_to_text((top / height, left / width, bottom / height, right / width)), label))
    prefix = "detect " + " ; ".join(objects)
    return Example(
        id="a:1", images=(image,), prefix=prefix, suffix=" ; ".join(f"{place} {label}" for place, label in places)
    )


def seen(image, label):
    """Left, top, right, bottom of a label's pixels, in fractions; None where there are none."""
    near = np.abs(np.asarray(image).astype(int) - COLORS[label]).max(axis=-1) < 20
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if not len(rows):
        return None
    width, height = image.size
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def boxes_of(example):
    reading = TASKS["detect"].parse(example.suffix, example.images[0].size)
    assert not reading.warnings
    return {box.label: box for box in reading.boxes}


OBJECTS = {"cat": (20, 30, 80, 90), "dog": (100, 10, 140, 150), "cup": (180, 60, 230, 120)}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["flip", "crop", "scale", "all"]))
def test_boxes_follow_the_pixels(seed, step):
    how = How(flip=1, crop=1, scale=1, min_crop=0.5) if step == "all" else How(**{step: 1}, min_crop=0.5)
    changed = augmented(drawn(OBJECTS), how, seed=seed, epoch=0)
    image, boxes = changed.images[0], boxes_of(changed)
    assert boxes
    for label, box in boxes.items():
        width, height = image.size
        slack = np.array([1 / width, 1 / height] * 2) + 2 / 1023
        assert np.all(np.abs(np.array(seen(image, label)) - box.xyxyn) <= slack)


def test_all_objects_stay_unless_they_are_cut():
    changed = augmented(drawn(OBJECTS), How(flip=1, scale=1), seed=1, epoch=0)
    assert set(boxes_of(changed)) == set(OBJECTS)


def test_of_which_too_little_is_left_is_no_longer_asked_for():
    dropped = 0
    for seed in range(200):
        changed = augmented(drawn(OBJECTS), How(crop=1, min_crop=0.4), seed=seed, epoch=0)
        image, boxes = changed.images[0], boxes_of(changed)
        for label, (left, top, right, bottom) in OBJECTS.items():
            found = seen(image, label)
            if found is None:
                assert label not in boxes
                continue
            shown = (found[2] - found[0]) * image.width * (found[3] - found[1]) * image.height
            share = shown / ((right - left) * (bottom - top))
            if abs(share - LEAST_LEFT) > 0.02:
                assert (label in boxes) == (share > LEAST_LEFT)
            dropped += label not in boxes
    assert dropped > 20


def test_a_mirrored_picture_is_exact():
    example = drawn({"cat": (20, 30, 80, 90)})
    changed = augmented(example, How(flip=1), seed=0, epoch=0)
    assert np.array_equal(np.asarray(changed.images[0]), np.asarray(example.images[0])[:, ::-1])
    y1, x1, y2, x2 = (int(example.suffix[i : i + 4]) for i in (4, 13, 22, 31))
    assert changed.suffix == f"<loc{y1:04d}><loc{1023 - x2:04d}><loc{y2:04d}><loc{1023 - x1:04d}> cat"


def test_lists_from_left_to_right_stay_so():
    changed = augmented(drawn(OBJECTS), How(flip=1), seed=0, epoch=0)
    assert list(boxes_of(changed)) == ["cup", "dog", "cat"]
    mixed = {name: OBJECTS[name] for name in ("dog", "cat", "cup")}
    assert list(boxes_of(augmented(drawn(mixed), How(flip=1), seed=0, epoch=0))) == ["dog", "cat", "cup"]


def test_lists_sorted_within_each_label_stay_so():
    place = "<loc0100><loc{:04d}><loc0200><loc{:04d}>"
    boxes = [(500, 600, "cat"), (800, 900, "cat"), (100, 200, "dog"), (300, 400, "dog")]
    suffix = " ; ".join(f"{place.format(a, b)} {label}" for a, b, label in boxes)
    example = Example(id="a", images=(Image.new("RGB", (9, 9)),), prefix="detect cat ; dog", suffix=suffix)
    changed = augmented(example, How(flip=1), seed=0, epoch=0)
    reading = TASKS["detect"].parse(changed.suffix, (9, 9))
    assert [(box.label, box.loc[1]) for box in reading.boxes] == [
        ("cat", 123),
        ("cat", 423),
        ("dog", 623),
        ("dog", 823),
    ]


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected"),
    [
        ("answer en where is the cat?", "left of the dog", "right of the dog"),
        ("answer en what is left of the dog?", "a cat", "a cat"),
        (
            "detect left cat",
            "<loc0100><loc0200><loc0300><loc0400> left cat", "<loc0100><loc0623><loc0300><loc0823> right cat",
        ),
    ],
)  # fmt: skip
def test_words_follow_the_mirror(prefix, suffix, expected):
    example = Example(id="a", images=(Image.new("RGB", (8, 8)),), prefix=prefix, suffix=suffix)
    changed = augmented(example, How(flip=1), seed=0, epoch=0)
    assert changed.suffix == expected
    assert changed.prefix == prefix.replace("left", "right")


def test_a_place_in_the_prompt_follows_too():
    example = Example(
        id="a",
        images=(Image.new("RGB", (8, 8)),),
        prefix="caption <loc0100><loc0000><loc0300><loc0400>",
        suffix="a cat",
    )
    changed = augmented(example, How(flip=1), seed=0, epoch=0)
    assert changed.prefix == "caption <loc0100><loc0623><loc0300><loc1023>"
    assert augmented(example, How(crop=1, min_crop=0.5), seed=0, epoch=0).images[0].size == (8, 8)


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("ocr", "left luggage"),
        ("answer en what word is on the sign?", "stop"),
        ("answer fr où?", "le côté droit"),
        ("detect cat", "nonsense"),
        ("caption en", "a cat <loc0001>"),
        ("caption <loc0001>", "a cat"),
    ],
)
def test_what_could_go_wrong_is_not_mirrored(prefix, suffix):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    example = Example(id="a", images=(image,), prefix=prefix, suffix=suffix)
    changed = augmented(example, How(flip=1), seed=0, epoch=0)
    assert (changed.prefix, changed.suffix) == (prefix, suffix)
    assert np.array_equal(np.asarray(changed.images[0]), np.asarray(image))


def test_captions_are_never_cut():
    example = Example(id="a", images=(Image.new("RGB", (80, 60)),), prefix="caption en", suffix="two cats")
    for seed in range(20):
        assert augmented(example, How(crop=1), seed=seed, epoch=0).images[0].size == (80, 60)


def test_several_pictures_only_change_their_colours_and_all_alike():
    image = Image.new("RGB", (8, 8), (100, 120, 140))
    example = Example(id="a", images=(image, image), prefix="caption en", suffix="left of it")
    changed = augmented(example, How(flip=1, crop=1, scale=1, color=0.5), seed=0, epoch=0)
    first, second = map(np.asarray, changed.images)
    assert changed.suffix == "left of it"
    assert np.array_equal(first, second)
    assert not np.array_equal(first, np.asarray(image))


def test_the_same_example_changes_the_same_way_and_otherwise_next_epoch():
    how = How(crop=1, color=0.4)

    def pixels(**changes):
        given = {"seed": 1, "epoch": 0} | changes
        return np.asarray(augmented(drawn(OBJECTS), how, **given).images[0])

    assert np.array_equal(pixels(), pixels())
    for other in ({"epoch": 1}, {"seed": 2}):
        assert pixels().shape != pixels(**other).shape or not np.array_equal(pixels(), pixels(**other))


def test_probabilities_are_kept():
    example = drawn({"cat": (20, 30, 80, 90)})
    flipped = sum(augmented(example, How(flip=0.3), seed=seed, epoch=0).suffix != example.suffix for seed in range(400))
    assert 80 < flipped < 160


def test_without_changes_nothing_is_opened(tmp_path):
    example = Example(id="a", images=(tmp_path / "missing.png",), prefix="caption en", suffix="a cat")
    assert augmented(example, How(), seed=0, epoch=0) is example


@pytest.fixture(scope="module")
def codec():
    return load_codec(find_codec(resolve("nano")))


def lopsided():
    """A mask that is no mirror image of itself: a triangle."""
    y, x = np.mgrid[:160, :240]
    return (x > 60) & (x < 160) & (y > 40) & (y < 120) & (x - 60 < (y - 40) * 1.25)


def segment_example(codec):
    boxes = encode_masks(codec, [lopsided()], "cat")
    image = Image.fromarray(np.where(lopsided()[..., None], COLORS["cat"], (255, 255, 255)).astype(np.uint8))
    return Example(id="s:1", images=(image,), prefix="segment cat", suffix=format_segments(boxes))


def mask_of(codec, example):
    return parse_segments(example.suffix, example.images[0].size, decode=decoder(codec)).boxes[0].mask.array()


@pytest.mark.parametrize("step", ["flip", "crop", "scale"])
def test_masks_follow_the_pixels(codec, step):
    example = segment_example(codec)
    for seed in range(6):
        changed = augmented(example, How(**{step: 1}, min_crop=0.5), seed=seed, epoch=0, codec=codec)
        assert changed.suffix != example.suffix
        red = np.abs(np.asarray(changed.images[0]).astype(int) - COLORS["cat"]).max(axis=-1) < 20
        found = mask_of(codec, changed)
        assert (red & found).sum() / (red | found).sum() > 0.6


def test_without_a_codec_masks_stay_whole(codec):
    example = segment_example(codec)
    assert augmented(example, How(flip=1), seed=0, epoch=0).suffix == example.suffix
    for seed in range(8):
        changed = augmented(example, How(crop=1, min_crop=0.3), seed=seed, epoch=0)
        assert changed.suffix.partition("<seg")[2] == example.suffix.partition("<seg")[2]
