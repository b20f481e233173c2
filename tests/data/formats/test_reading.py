import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from paligemma.data.formats import Reading
from paligemma.data.formats.reading import (
    as_object,
    as_polygons,
    as_runs,
    extents,
    label_files,
    pictures_in,
    split_of,
    split_of_folder,
    upright_size,
)
from paligemma.errors import InputError
from paligemma.results import rle

SIZE = (100, 50)


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "data"
    inside.mkdir()
    for place in (tmp_path, inside):
        Image.new("RGB", SIZE).save(place / "a.png")
    return inside


def test_pictures_lie_below_the_data(folder):
    reading = Reading(folder)
    assert reading.picture("a.png", folder) == folder / "a.png"
    (folder / "images").mkdir()
    assert reading.picture("../a.png", folder / "images") == folder / "images" / "../a.png"
    for name in ("../a.png", str(folder.parent / "a.png"), "x/../../a.png", "..\\a.png"):
        with pytest.raises(InputError, match="outside the folder"):
            reading.picture(name, folder)
        if "\\" not in name and not name.startswith("x"):
            assert Reading(folder, allow_outside=True).picture(name, folder).is_file()


def test_links_are_followed_before_they_are_judged(folder):
    (folder / "out.png").symlink_to(folder.parent / "a.png")
    (folder / "in.png").symlink_to(folder / "a.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "away").symlink_to(folder.parent, target_is_directory=True)
    reading = Reading(folder)
    assert reading.picture("in.png", folder).is_file()
    for name in ("out.png", "away/a.png"):
        with pytest.raises(InputError, match="outside the folder"):
            reading.picture(name, folder)
    with pytest.raises(InputError, match="there is no picture"):
        reading.picture("loop.png", folder)


def test_a_folder_of_pictures_that_was_named_is_trusted(folder):
    assert Reading(folder, images=folder.parent).picture("a.png", folder) == folder.parent / "a.png"
    (folder.parent / "secret").mkdir()
    with pytest.raises(InputError, match="no picture"):
        Reading(folder, images=folder.parent).picture("b.png", folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("http://127.0.0.1/a.png", "is an address"),
        ("file:///a.png", "is an address"),
        ("s3://b/a.png", "is an address"),
        ("data:image/png;base64,xx", "is an address"),
        ("", "name the file"),
        ("a\0.png", "name the file"),
        (None, "name the file"),
        (["a.png"], "name the file"),
        ("x" * 5000, "too long"),
        (".", "no picture"),
    ],
)
def test_names_that_are_none(folder, name, said):
    reading = Reading(folder)
    assert reading.attempt("here", reading.picture, name, folder) is None
    assert reading.problems[0].where == "here"
    assert said in reading.problems[0].why


def test_windows_separators(folder):
    (folder / "sub").mkdir()
    Image.new("RGB", SIZE).save(folder / "sub" / "b.png")
    assert Reading(folder).picture("sub\\b.png", folder) == folder / "sub" / "b.png"


def test_only_regular_files_are_opened(folder):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(InputError, match="there is no picture"):
        Reading(folder).picture("pipe.png", folder)


def test_sizes_are_of_the_upright_picture(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(folder / "turned.jpg", exif=exif)
    assert upright_size(folder / "a.png") == SIZE
    assert upright_size(folder / "turned.jpg") == SIZE[::-1]
    with pytest.raises(InputError, match="its EXIF turns it"):
        Reading(folder).size(folder / "turned.jpg", SIZE)
    assert Reading(folder).size(folder / "a.png", (0, None)) == SIZE
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:20])
    (folder / "c.png").write_bytes(b"%PDF-1.4")
    for name in ("b.png", "c.png"):
        with pytest.raises(InputError, match="no picture that can be read"):
            upright_size(folder / name)


def test_too_many_pixels_are_refused(folder, monkeypatch):
    monkeypatch.setattr("paligemma.data.formats.reading.MAX_PIXELS", 4999)
    with pytest.raises(InputError, match="at most 4,999"):
        upright_size(folder / "a.png")


@given(st.lists(st.floats(width=32), min_size=4, max_size=4))
def test_a_box_is_inside_or_refused(corners):
    reading = Reading(Path())
    try:
        box = reading.box("cat", corners, SIZE)
    except InputError:
        return
    left, top, right, bottom = box.xyxy
    assert 0 <= left < right <= SIZE[0]
    assert 0 <= top < bottom <= SIZE[1]
    assert reading.cut == (list(box.xyxy) != corners)
    assert all(abs(a - b) <= 2 for a, b in zip(box.xyxy, corners, strict=True))


def test_labels_have_single_spaces():
    assert Reading(Path()).name(" traffic \n light") == "traffic light"
    for label in ("", " \n", None, 3):
        with pytest.raises(InputError, match="expected words"):
            Reading(Path()).name(label)


def refuse(why):
    raise InputError(why)


def test_problems_are_told_together():
    reading = Reading(Path())
    reading.stop_if_bad()
    for number in range(3):
        reading.attempt(f"row {number}", refuse, "it is bad")
    with pytest.raises(InputError, match=r"(?s)3 entries.*row 0: it is bad\n.*row 2: it is bad"):
        reading.stop_if_bad()


def test_objects_are_checked_by_key():
    assert as_object({"a": 1, "b": 2}, ("a",), ("b",)) == {"a": 1, "b": 2}
    assert as_object({"a": 1, "z": 2}, ("a",), open_ended=True)["z"] == 2
    with pytest.raises(InputError, match="unknown key 'aa'"):
        as_object({"a": 1, "aa": 1}, ("a",))
    with pytest.raises(InputError, match="b missing"):
        as_object({"a": 1}, ("a", "b"))


def test_shapes():
    assert as_polygons([[0, 0, 4, 0, 4, 3]]) == ((0.0, 0.0, 4.0, 0.0, 4.0, 3.0),)
    assert extents(((0, 1, 4, 0, 4, 3), (2, 2, 9, 2, 2, 5))) == (0, 0, 9, 5)
    pixels = np.zeros((3, 2), dtype=bool)
    pixels[1, 0] = True
    runs = {"size": [3, 2], "counts": [1, 1, 4]}
    assert as_runs(runs, (2, 3)) == rle.encode(pixels)["counts"] == as_runs(rle.encode(pixels), (2, 3))
    for bad in ([1, 1], [1, -1, 6], [6], [True, 5], "zz", "~", 3, None):
        with pytest.raises(InputError):
            as_runs({"size": [3, 2], "counts": bad}, (2, 3))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_val2017", "valid"),
        ("train", "train"),
        ("_annotations.test", "test"),
        ("validation-set", "valid"),
        ("training", "train"),
        ("trainval", ""),
        ("train_test", ""),
        ("contest", ""),
        ("", ""),
    ],
)
def test_splits_are_read_from_names(name, split):
    assert split_of(name) == split


def test_files_of_labels(tmp_path):
    with pytest.raises(InputError, match="holds no"):
        label_files(tmp_path, (".json",))
    for name in ("train/x.json", "val/x.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    (tmp_path / "rejects.jsonl").write_text("")
    (tmp_path / ".hidden.json").write_text("")
    assert [split for split, _ in label_files(tmp_path, (".json", ".jsonl"))] == ["train", "valid"]
    assert label_files(tmp_path / "val", (".json",)) == [("", tmp_path / "val" / "x.json")]
    assert [split_of_folder(Path(name)) for name in ("a/val2017", "a/Test", "a/train_tracks", "test/a")] == [
        "valid", "test", "", "",
    ]  # fmt: skip
    assert label_files(tmp_path / "val" / "x.json", (".json",)) == [("valid", tmp_path / "val" / "x.json")]


def test_pictures_in_a_folder(folder):
    (folder / "notes.txt").write_text("")
    (folder / ".b.png").write_text("")
    assert pictures_in(folder) == [folder / "a.png"]
    assert pictures_in(folder / "nowhere") == []
