import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.formats.made import example

from paligemma.data.example import Example
from paligemma.data.formats import Entry, Reading, jsonl, read, write
from paligemma.errors import InputError, UsageError

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in "ab":
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    return folder


@given(st.lists(st.tuples(st.sampled_from(["train", "valid", "test"]), anything, anything, st.booleans()), min_size=1))
@settings(max_examples=12)
def test_nothing_is_lost(tmp_path_factory, photos, rows):
    out = tmp_path_factory.mktemp("out")
    entries = [
        Entry(
            split, Example(id="", images=(photos / "a.png", photos / "b.png")[: 1 + two], prefix=prefix, suffix=suffix)
        )
        for split, prefix, suffix, two in rows
    ]
    write(entries, "jsonl", out)
    found, reading = read(out, "jsonl")
    assert reading.problems == []
    order = ["train", "valid", "test"]
    for mine, theirs in zip(sorted(entries, key=lambda entry: order.index(entry.split)),
                            sorted(found, key=lambda entry: order.index(entry.split)), strict=True):  # fmt: skip
        assert (mine.split, mine.item.prefix, mine.item.suffix) == (
            theirs.split,
            theirs.item.prefix,
            theirs.item.suffix,
        )
        assert [p.read_bytes() for p in mine.item.images] == [p.read_bytes() for p in theirs.item.images]


@pytest.mark.parametrize(
    "place", ["_annotations.{}.jsonl", "{}/annotations.jsonl", "{}/_annotations.{}.jsonl", "{}.jsonl", "x_{}.ndjson"]
)
def test_the_usual_layouts(tmp_path, photos, place):
    for split in ("train", "valid", "test"):
        file = tmp_path / place.format(split, split)
        file.parent.mkdir(exist_ok=True)
        (file.parent / "a.png").write_bytes((photos / "a.png").read_bytes())
        row = {"image": "a.png", "prefix": "caption en", "suffix": split}
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode() + b"\r\n\r\n")
    entries, reading = read(tmp_path)
    assert reading.problems == []
    assert {(entry.split, entry.item.suffix) for entry in entries} == {
        (split, split) for split in ("train", "valid", "test")
    }
    assert entries[0].item.id.endswith(":1")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "a.png", "prefix": "x", "sufix": "y"}, "unknown key 'sufix'"),
        ({"image": "a.png", "prefix": "x"}, "suffix missing"),
        ({"image": "a.png", "prefix": 3, "suffix": "y"}, "found prefix 3"),
        ({"image": "a.png", "prefix": "x", "suffix": None}, "found suffix None"),
        ({"image": [], "prefix": "x", "suffix": "y"}, "a list of them"),
        ({"image": 3, "prefix": "x", "suffix": "y"}, "a list of them"),
        ({"images": ["a.png", 3], "prefix": "x", "suffix": "y"}, "a list of them"),
        ({"image": "c.png", "prefix": "x", "suffix": "y"}, "no picture"),
        ({"image": "", "prefix": "x", "suffix": "y"}, "file name is expected"),
        (["a.png"], "expected an object"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path, photos, row, said):
    file = photos / "rows.jsonl"
    good = {"image": "a.png", "prefix": "x", "suffix": ""}
    file.write_text("\n".join(map(json.dumps, [good, row, good])))
    reading = Reading(photos)
    assert len(list(jsonl.read(file, reading))) == 2
    assert said in reading.problems[0].why
    assert reading.problems[0].where == f"{file}, line 2"


def test_files_that_are_not_told_apart_are_refused(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=r"found a\.jsonl, b\.jsonl"):
        read(tmp_path, "jsonl")


def test_pictures_must_be_files(tmp_path):
    entry = Entry("", Example(id="3", images=(b"",), prefix="", suffix=""))
    with pytest.raises(UsageError, match="picture of 3 is no file"):
        write([entry], "jsonl", tmp_path)


def test_one_split_may_be_a_file(tmp_path, photos):
    write([Entry("", example(photos / "a.png"))], "jsonl", tmp_path / "mine.jsonl")
    assert read(tmp_path / "mine.jsonl")[0][0].item.suffix == "a cat"
    entries = [Entry(split, example(photos / "a.png")) for split in ("train", "test")]
    with pytest.raises(UsageError, match="2 splits do not fit"):
        write(entries, "jsonl", tmp_path / "mine.jsonl")
    with pytest.raises(UsageError, match=r"ending in \.jsonl"):
        write(entries[:1], "jsonl", tmp_path / "mine.json")
