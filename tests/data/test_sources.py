import json

import pytest
from PIL import Image

from paligemma.data.digits import DigitsSource
from paligemma.data.example import ENDLESS
from paligemma.data.hub import DatasetSource
from paligemma.data.labelled_source import HeldSource
from paligemma.data.listed import ListedSource
from paligemma.data.scenes import SceneSource
from paligemma.data.shards import ShardSource, write_shards
from paligemma.data.sources import KINDS, open_source, usual_text_tokens
from paligemma.errors import InputError, PaliGemmaError, UsageError


@pytest.fixture
def folder(tmp_path):
    """One source of each kind that lies on a disk."""
    root = tmp_path / "pets"
    for split in ("train", "valid"):
        (root / split).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / split / "a.png")
        row = {"image": "a.png", "prefix": "caption en", "suffix": split}
        (root / split / "annotations.jsonl").write_text(json.dumps(row) + "\n")
    boxes = {"image": "train/a.png", "boxes": [{"label": "cat", "box": [1, 1, 5, 5]}]}
    (tmp_path / "boxes.jsonl").write_text(json.dumps(boxes | {"image": "pets/train/a.png"}))
    (tmp_path / "table.csv").write_text("image,caption\npets/train/a.png,a cat\n")
    rows = open_source(root)
    write_shards(rows.__getitem__, 1, tmp_path / "shards")
    return tmp_path


def test_every_kind_is_recognised(folder):
    import datasets

    datasets.Dataset.from_dict({"image": [b""], "suffix": ["a"], "prefix": ["b"]}).to_parquet(folder / "rows.parquet")
    datasets.Dataset.from_dict({"image": [b""], "suffix": ["a"], "prefix": ["b"]}).save_to_disk(folder / "saved")
    expected = {
        "scenes": SceneSource, "scenes:text": SceneSource, "digits": DigitsSource,
        folder / "pets": ListedSource, folder / "pets" / "train" / "annotations.jsonl": ListedSource,
        folder / "boxes.jsonl": HeldSource, folder / "table.csv": HeldSource,
        folder / "shards": ShardSource, folder / "shards" / "shard-*.tar": ShardSource,
        folder / "shards" / "shard-{000000..000000}.tar": ShardSource,
        folder / "rows.parquet": DatasetSource, folder / "saved": DatasetSource,
    }  # fmt: skip
    assert {path: type(open_source(path)) for path in expected} == expected
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_splits_of_a_folder(folder):
    assert open_source(folder / "pets")[0].suffix == "train"
    assert open_source(folder / "pets", split="validation")[0].suffix == "valid"
    with pytest.raises(InputError, match="no split 'test'"):
        open_source(folder / "pets", split="test")
    assert open_source(folder / "pets" / "valid" / "annotations.jsonl")[0].suffix == "valid"


def test_names_come_from_paths(folder):
    names = {open_source(folder / path).name for path in ("pets", "pets/train/annotations.jsonl", "table.csv")}
    assert names == {"pets", "train/annotations", "table"}
    assert open_source("scenes:text").name == "scenes:text"
    assert open_source("digits", name="mnist")[0].source == "mnist"


def test_options_reach_their_source(folder):
    assert open_source("digits?answers=numerals&side=16")[0].suffix in "0123456789"
    assert open_source("digits?side=16")[0].images[0].size == (16, 16)
    assert open_source("scenes?languages=de,fr&asks=caption&start=7", image_size_px=64)[0].id == "scenes:7"
    labelled = open_source(f"{folder / 'boxes.jsonl'}?per=label&ask=all&order=left")
    assert labelled[0].prefix == "detect cat"
    assert len(open_source("scenes")) == ENDLESS
    assert open_source("scenes", image_size_px=64)[0].images[0].size == (64, 64)


def test_a_file_with_a_question_mark_is_a_file(folder):
    (folder / "a?b=c.jsonl").write_text('{"image": "pets/train/a.png", "prefix": "a", "suffix": "b"}')
    assert open_source(folder / "a?b=c.jsonl")[0].suffix == "b"


@pytest.mark.parametrize(
    ("path", "given", "told"),
    [
        ("scenes?language=de", {}, "did you mean 'languages'"),
        ("scenes?languages", {}, "key=value"),
        ("scenes:word", {}, "unknown kind of scenes"),
        ("scenes", {"split": "dev"}, "unknown split"),
        ("scenes", {"prefix": "a"}, "their own questions"),
        ("scenes?start=-1", {}, "whole number"),
        ("digits?answers=word", {}, "did you mean 'words'"),
        ("digits?size=3", {}, "unknown option 'size'"),
        ("boxes.jsonl?task=detection", {}, "did you mean 'detect'"),
        ("boxes.jsonl?task=segment", {}, "no mask codec"),
        ("table.csv?a=b", {}, "unknown option 'a'"),
        ("gone", {}, "no file or folder"),
        ("gone.jsonl", {}, "no file"),
        ("gone-*.tar", {}, "no file fits"),
    ],
)
def test_what_is_wrong_is_told(folder, monkeypatch, path, given, told):
    monkeypatch.chdir(folder)
    with pytest.raises(PaliGemmaError, match=told) as caught:
        open_source(path, **given)
    assert isinstance(caught.value, UsageError | InputError)


def test_drawn_rows_may_be_longer(folder, monkeypatch):
    monkeypatch.chdir(folder)
    rows, scenes = open_source("boxes.jsonl"), open_source("scenes")
    assert (usual_text_tokens([rows]), usual_text_tokens([rows, scenes])) == (128, 256)
