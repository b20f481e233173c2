import errno
import json
import os

import pytest
from PIL import Image
from tests.data.formats.made import example

from paligemma.data.formats import Entry, Problem, Writing, by_split
from paligemma.data.formats.writing import labelled, write_rejects
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import InputError, ResourceError, UsageError


@pytest.fixture
def photos(tmp_path):
    for name, colour in (("x/a.png", "red"), ("y/a.png", "blue"), ("x/a.jpg", "red")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    return tmp_path


def test_a_picture_inside_is_named_where_it_lies(photos):
    writing = Writing(photos)
    assert writing.picture(photos / "x" / "a.png") == "x/a.png"
    assert writing.picture(photos / "x" / ".." / "y" / "a.png") == "y/a.png"
    assert not (photos / "images").exists()


@pytest.mark.parametrize("copy", [False, True])
def test_a_picture_from_elsewhere_is_brought_once(photos, copy):
    writing = Writing(photos / "out", copy=copy)
    names = [writing.picture(photos / name) for name in ("x/a.png", "y/a.png", "x/a.png", "x/a.jpg")]
    assert names == ["images/a.png", "images/a-2.png", "images/a.png", "images/a-3.jpg"]
    placed = photos / "out" / "images" / "a-2.png"
    assert placed.read_bytes() == (photos / "y" / "a.png").read_bytes()
    assert os.path.samefile(placed, photos / "y" / "a.png") == (not copy)
    again = Writing(photos / "out", copy=copy)
    assert [again.picture(photos / name) for name in ("x/a.png", "y/a.png")] == names[:2]
    assert len(list((photos / "out" / "images").iterdir())) == 3


def test_each_call_may_get_a_name_of_its_own(photos):
    writing = Writing(photos)
    names = [writing.picture(photos / "x" / "a.png", "z", always=True) for _ in range(2)]
    assert names == ["z/a.png", "z/a-2.png"]


def test_a_file_that_is_there_stays(photos):
    (photos / "out" / "images").mkdir(parents=True)
    (photos / "out" / "images" / "a.png").write_text("mine")
    assert Writing(photos / "out").picture(photos / "x" / "a.png") == "images/a-2.png"
    assert (photos / "out" / "images" / "a.png").read_text() == "mine"


def test_two_disks_need_copies(photos, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ResourceError, match=r"cross-device link.*give --copy"):
        Writing(photos / "out").picture(photos / "x" / "a.png")
    assert Writing(photos / "out", copy=True).picture(photos / "x" / "a.png") == "images/a.png"
    with pytest.raises(InputError, match="there is no picture"):
        Writing(photos / "out").picture(photos / "nowhere.png")


def test_files_are_called_by_their_splits(photos):
    writing = Writing(photos)
    assert writing.file("", ".json", 1) == photos / "train.json"
    assert writing.file("test", ".json", 2) == photos / "test.json"
    assert Writing(photos / "new" / "mine.json").file("test", ".json", 1) == photos / "new" / "mine.json"
    with pytest.raises(UsageError, match="2 splits"):
        Writing(photos / "mine.json").file("test", ".json", 2)
    with pytest.raises(UsageError, match=r"ending in \.json"):
        Writing(photos / "mine.csv").file("test", ".json", 1)


def test_splits_are_in_order(photos):
    entries = [Entry(split, example(photos / "x" / "a.png")) for split in ("test", "", "own", "valid", "train")]
    assert {split: len(found) for split, found in by_split(entries).items()} == {
        "train": 2, "valid": 1, "test": 1, "own": 1,
    }  # fmt: skip
    assert list(by_split(entries)) == ["train", "valid", "test", "own"]


def test_crowds_stay_where_a_format_can_mark_them(photos):
    boxes = tuple(TrueBox(label="cat", xyxy=(0, 0, 1, 1), crowd=crowd) for crowd in (False, True))
    entry = Entry("", LabelledImage(path=photos / "x" / "a.png", boxes=boxes, size_px=(4, 4)))
    assert len(labelled(entry).boxes) == 1
    assert len(labelled(entry, crowds=True).boxes) == 2


def test_rejects_are_lines(tmp_path):
    file = write_rejects([Problem(where="a.json, image 3", why="é is bad")], tmp_path / "rejects.jsonl")
    assert json.loads(file.read_text(encoding="utf-8")) == {"where": "a.json, image 3", "why": "é is bad"}
