import sys

import numpy as np
import pytest
from PIL import Image

from paligemma.data.hub import open_dataset
from paligemma.data.listed import BadRow
from paligemma.data.mixture import Mixture
from paligemma.errors import UnavailableError, UsageError
from paligemma.images import open_image

datasets = pytest.importorskip("datasets")


def picture(number):
    return Image.fromarray(np.full((4, 6, 3), number, dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    rows = {
        "photo": [picture(i) for i in range(5)],
        "question": [f"which {i}?" for i in range(5)],
        "label": [i % 2 for i in range(5)],
        "number": list(range(5)),
    }
    features = datasets.Features(
        photo=datasets.Image(), question=datasets.Value("string"), label=datasets.ClassLabel(names=["cat", "dog"]),
        number=datasets.Value("int64"),
    )  # fmt: skip
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(root / "one")
    datasets.DatasetDict(train=made, test=made.select(range(2))).save_to_disk(root / "splits")
    made.to_parquet(root / "rows.parquet")
    return root


@pytest.mark.parametrize("kind", ["one", "splits", "rows.parquet"])
def test_columns_are_found_by_type_and_name(folder, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    source = open_dataset(str(folder / kind), name="pets")
    assert len(source) == 5
    example = source[3]
    assert (example.id, example.prefix, example.suffix, example.source) == ("pets:3", "which 3?", "dog", "pets")
    assert np.array_equal(np.asarray(open_image(example.images[0])), np.asarray(picture(3)))
    assert source[3] == example


def test_columns_can_be_said_and_prompts_made_of_them(folder):
    source = open_dataset(str(folder / "one"), name="pets", prefix="answer en {question}", options={"suffix": "number"})
    assert (source[2].prefix, source[2].suffix) == ("answer en which 2?", "2")
    with pytest.raises(BadRow, match="did you mean 'question'"):
        open_dataset(str(folder / "one"), name="pets", prefix="answer en {questions}")[0]


def test_splits(folder):
    assert len(open_dataset(str(folder / "splits"), split="test", name="pets")) == 2
    with pytest.raises(UsageError, match="no split 'validation'"):
        open_dataset(str(folder / "splits"), split="validation", name="pets")


def test_fingerprints_are_of_the_rows(folder):
    one = open_dataset(str(folder / "one"), name="a").fingerprint
    assert one == open_dataset(str(folder / "splits"), name="b").fingerprint
    assert one != open_dataset(str(folder / "splits"), split="test", name="a").fingerprint
    assert one != open_dataset(str(folder / "one"), name="a", prefix="caption en").fingerprint


def test_a_stream_gives_the_same_rows_and_begins_again(folder):
    rows = open_dataset(str(folder / "one"), name="pets")
    stream = open_dataset(str(folder / "one"), name="pets", streaming=True)
    numbers = [0, 1, 3, 2, 7, 11, 4, 5, 1]
    assert [stream[i].suffix for i in numbers] == [rows[i % 5].suffix for i in numbers]
    late = open_dataset(str(folder / "one"), name="pets", streaming=True)
    assert late[13].prefix == rows[3].prefix
    mixture = Mixture([(open_dataset(str(folder / "one"), name="pets", streaming=True), 1.0)], seed=0)
    assert [mixture[i].prefix for i in range(7)] == [rows[i % 5].prefix for i in range(7)]


@pytest.mark.parametrize(
    ("options", "told"),
    [({"images": "photo"}, "did you mean 'image'"), ({"suffix": "labels"}, "did you mean 'label'")],
)
def test_unknown_words_are_told(folder, options, told):
    with pytest.raises(UsageError, match=told):
        open_dataset(str(folder / "one"), name="pets", options=options)


def test_columns_that_cannot_be_guessed_are_asked_for(tmp_path):
    datasets.Dataset.from_dict({"image": [b"1"], "a": ["x"], "b": ["y"]}).save_to_disk(tmp_path)
    with pytest.raises(UsageError, match=r"which column .* is the suffix"):
        open_dataset(str(tmp_path), name="x")
    source = open_dataset(str(tmp_path), name="x", options={"prefix": "a", "suffix": "b"})
    assert (source[0].prefix, source[0].suffix) == ("x", "y")


def test_rows_that_are_none_are_told(tmp_path):
    rows = {"image": ["no file", None], "prefix": ["a", "b"], "suffix": [["x"], ["y"]]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path)
    source = open_dataset(str(tmp_path), name="x")
    with pytest.raises(BadRow, match="expected a picture") as caught:
        source[0]
    assert caught.value.field == "image"


def test_the_network_is_never_reached_unless_the_name_says_so(monkeypatch):
    with pytest.raises(UnavailableError, match="not in the cache"):
        open_dataset("nobody/nothing-of-this-name", name="x")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE"):
        open_dataset("nobody/nothing-of-this-name", name="x", streaming=True)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnavailableError, match=r"paligemma\[train\]"):
        open_dataset("a", name="x")
