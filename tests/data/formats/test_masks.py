import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from tests.data.formats.made import data_sets, masked_boxes, round_trip

from paligemma.data.formats import Entry, detect, read, write
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import InputError


@given(data_sets(masked_boxes))
@settings(max_examples=12)
def test_masks_come_back(pictures):
    with round_trip(pictures, "masks") as pairs:
        for mine, theirs in pairs:
            assert sorted(map(repr, theirs.boxes)) == sorted(map(repr, mine.boxes))


@pytest.mark.parametrize("label", [".", "..", "a/b", "%41", "nul\\", "7", "cat 1", "-", "Straße: <x>"])
def test_any_label_fits_a_file_name(tmp_path, label):
    entries = [picture(tmp_path, label)]
    write(entries, "masks", tmp_path / "out")
    assert read(tmp_path / "out")[0][0].item.labels == [label]


def picture(folder, label="cat", **box):
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    box = {"polygons": ((2.0, 2.0, 8.0, 2.0, 8.0, 6.0, 2.0, 6.0),)} | box
    return Entry(
        "",
        LabelledImage(path=folder / "a.png", boxes=(TrueBox(label=label, xyxy=(2, 2, 8, 6), **box),), size_px=(20, 10)),
    )


def put(folder, name, values, mode="L"):
    for place in ("images", "masks"):
        (folder / place).mkdir(exist_ok=True)
    Image.new("RGB", (20, 10)).save(folder / "images" / "a.png")
    pixels = np.zeros((10, 20), dtype=np.uint8)
    for value, (x1, y1, x2, y2) in values.items():
        pixels[y1:y2, x1:x2] = value
    file = folder / "masks" / name
    file.parent.mkdir(exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(pixels, "L").convert("P")
        image.putdata(pixels.ravel().tolist())
    image.save(file)
    return folder


@pytest.mark.parametrize("name", ["a/red cat-01.png", "red cat/a.png", "red cat/a_2.png", "a-01-red cat-mask.png"])
def test_one_object_a_file(tmp_path, name):
    put(tmp_path, name, {255: (3, 2, 9, 7)})
    assert detect(tmp_path) == "masks"
    entries, reading = read(tmp_path)
    assert reading.problems == []
    assert [(box.label, box.xyxy) for box in entries[0].item.boxes] == [("red cat", (3, 2, 9, 7))]


@pytest.mark.parametrize("name", ["a.png", "a_mask.png"])
def test_pictures_of_numbers(tmp_path, name):
    put(tmp_path, name, {1: (0, 0, 5, 5), 2: (5, 0, 9, 5)})
    assert "--label" in read(tmp_path)[1].problems[0].why
    boxes = read(tmp_path, label="cell")[0][0].item.boxes
    assert [(box.label, box.xyxy) for box in boxes] == [("cell", (0, 0, 5, 5)), ("cell", (5, 0, 9, 5))]
    (tmp_path / "masks" / "classes.txt").write_text("cat\ndog\n")
    entries, reading = read(tmp_path)
    assert entries[0].item.labels == ["cat", "dog"]
    assert reading.classes == ["cat", "dog"]
    (tmp_path / "masks" / "classes.txt").write_text("cat\n")
    assert "holds number 2" in read(tmp_path)[1].problems[0].why


def test_the_border_of_a_palette_is_no_object(tmp_path):
    put(tmp_path, "a.png", {1: (0, 0, 5, 5), 255: (5, 0, 6, 5)}, mode="P")
    assert len(read(tmp_path, label="x")[0][0].item.boxes) == 1


def test_soft_edges_are_no_numbers(tmp_path):
    put(tmp_path, "a.png", {255: (0, 0, 5, 5), 100: (5, 0, 6, 5)})
    assert "look like soft edges" in read(tmp_path, label="x")[1].problems[0].why


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("b.png", {1: (0, 0, 5, 5)}, "belongs to no picture"),
        ("a/cat.png", {}, "the mask is empty"),
        ("a/1.png", {255: (0, 0, 5, 5)}, "nothing says what its objects are"),
    ],
)
def test_bad_masks_are_told(tmp_path, name, values, said):
    assert said in read(put(tmp_path, name, values))[1].problems[0].why


def test_a_mask_of_another_size(tmp_path):
    put(tmp_path, "a/cat.png", {255: (0, 0, 5, 5)})
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "a.png")
    assert "expected the picture's 40 x 20" in read(tmp_path)[1].problems[0].why


def test_links_out_are_not_followed(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    put(inside, "a/cat.png", {255: (0, 0, 5, 5)})
    (inside / "masks" / "a" / "cat.png").rename(tmp_path / "cat.png")
    (inside / "masks" / "a" / "cat.png").symlink_to(tmp_path / "cat.png")
    assert "outside the folder" in read(inside)[1].problems[0].why
    assert len(read(inside, allow_outside=True)[0][0].item.boxes) == 1


def test_boxes_alone_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="has no mask"):
        write([picture(tmp_path, polygons=None)], "masks", tmp_path / "out")
    with pytest.raises(InputError, match="holds no folder"):
        read(tmp_path, "masks")
