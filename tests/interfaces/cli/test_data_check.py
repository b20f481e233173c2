import json

import numpy as np
import pytest
from PIL import Image

from paligemma.data.shards import ShardSource
from paligemma.interfaces.cli import main


@pytest.fixture
def folder(tmp_path):
    """Six rows: the third has no picture, the fourth a box without area, the fifth is too long for 60 tokens."""
    rows = [{"image": f"{i}.png", "prefix": "caption en", "suffix": f"picture {i}"} for i in range(6)]
    rows[3] |= {"prefix": "detect cat", "suffix": "<loc0300><loc0200><loc0100><loc0400> cat"}
    rows[4] |= {"suffix": "word " * 30}
    for i in range(6):
        coarse = np.random.default_rng(i).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((72, 64)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").unlink()
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "good.jsonl").write_text("\n".join(map(json.dumps, [rows[0], rows[1], rows[5]])))
    (tmp_path / "overlap.jsonl").write_text(json.dumps(rows[1]))
    return tmp_path


def answer(capsys):
    printed = capsys.readouterr()
    return json.loads(printed.out)


def test_every_bad_row_is_told_and_the_exit_code_says_so(folder, capsys):
    assert main(["data", "check", str(folder / "train.jsonl"), "--max-tokens", "60", "--json"]) == 4
    found = answer(capsys)
    assert (found["rows"], found["bad_rows"], found["errors"]) == (6, 3, 3)
    told = {finding["row"]: finding["code"] for finding in found["findings"] if finding["severity"] == "error"}
    assert told == {"train.jsonl:3": "bad_row", "train.jsonl:4": "bad_boxes", "train.jsonl:5": "too_long"}


def test_as_text(folder, capsys):
    assert main(["data", "check", str(folder / "train.jsonl"), "--max-tokens", "60", "--skip-bad"]) == 0
    text = capsys.readouterr().out
    assert "6 rows looked at, 3 errors in 3 rows" in text
    assert text.partition("left out:\n")[2].split() == ["train.jsonl:3", "train.jsonl:4", "train.jsonl:5"]


def test_sound_rows_are_fine(folder, capsys):
    assert main(["data", "check", str(folder / "good.jsonl")]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_rows_shared_with_held_out_data(folder, capsys):
    path, other = str(folder / "good.jsonl"), str(folder / "overlap.jsonl")
    assert main(["data", "check", path, "--held-out", other, "--json"]) == 4
    assert [finding["row"] for finding in answer(capsys)["findings"]] == ["good.jsonl:2"]


def test_rejects_are_written(folder, capsys):
    rejects = folder / "rejects.jsonl"
    assert main(["data", "check", str(folder / "train.jsonl"), "--rejects", str(rejects), "--skip-bad", "--json"]) == 0
    assert answer(capsys)["left_out"] == ["train.jsonl:3", "train.jsonl:4"]
    assert [json.loads(line)["where"] for line in rejects.read_text().splitlines()] == [
        "train.jsonl:3",
        "train.jsonl:4",
    ]


def test_rows_are_shown_as_training_reads_them(folder, capsys):
    assert main(["data", "show", str(folder / "train.jsonl"), "--start", "1", "--rows", "2", "--json"]) == 0
    first, second = answer(capsys)["rows"]
    assert first | {"tokens": 0} == {
        "id": "train.jsonl:2", "sizes_px": [[72, 64]], "prefix": "caption en", "suffix": "picture 1", "tokens": 0,
    }  # fmt: skip
    assert "2.png" in second["error"]
    assert main(["data", "show", str(folder / "train.jsonl"), "--rows", "3"]) == 0
    text = capsys.readouterr().out
    assert "train.jsonl:1  72 x 64 px" in text
    assert "error: train.jsonl:3" in text
    assert main(["data", "show", str(folder / "train.jsonl"), "--start", "6"]) == 2
    assert "6 rows" in capsys.readouterr().err


def test_drawn_rows_are_shown(capsys):
    assert main(["data", "show", "scenes?asks=caption&languages=de", "--rows", "2"]) == 0
    assert capsys.readouterr().out.count("'caption de'") == 2


def test_a_mixture_becomes_shards(folder, capsys):
    good, other = str(folder / "good.jsonl"), str(folder / "overlap.jsonl")
    out = folder / "out"
    assert (
        main(["data", "shards", good, other, "--out", str(out), "--per-shard", "4", "--weights", "3,1", "--json"]) == 0
    )
    told = answer(capsys)
    assert told["examples"] == 4
    assert [source["share"] for source in told["sources"]] == [0.75, 0.25]
    assert len(ShardSource(str(out), name="x")) == 4
    assert main(["data", "shards", good, "--out", str(out), "--per-shard", "2"]) == 0
    assert "3 examples in 2 shards" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["check", "gone.jsonl"], 4, "no file"),
        (["check", "scenes", "--limit", "0"], 2, "--limit"),
        (["shards", "scenes", "--out", "o"], 2, "--count"),
        (["shards", "good.jsonl", "--out", "o", "--weights", "a"], 2, "--weights"),
        (["shards", "good.jsonl", "--out", "o", "--weights", "1,2"], 2, "--weights"),
        (["check", "good.jsonl", "--model", "gone"], 3, "gone"),
    ],
)
def test_what_is_wrong_is_told(folder, monkeypatch, capsys, words, status, told):
    monkeypatch.chdir(folder)
    assert main(["data", *words]) == status
    assert told in capsys.readouterr().err
