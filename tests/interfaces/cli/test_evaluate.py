import json

import pytest
from PIL import Image

from paligemma.interfaces.cli import main

FEW = ["evaluate", "--limit", "2", "--kinds", "caption,detect", "--size-px", "64"]


def test_one_object_on_stdout(capsys):
    assert main([*FEW, "--json", "--languages", "en"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["limit"] == 2
    assert told["n"]["caption_exact"] == 2
    assert told["ok"] is True
    assert said.err == ""


def test_for_people_with_a_report(tmp_path, capsys):
    assert main([*FEW, "--save", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "nano-mix-224 on scenes:" in said.out
    assert "caption_exact" in said.out
    assert f"wrote {tmp_path / 'out' / 'report.md'}" in said.err
    report = tmp_path / "out" / "report.json"
    assert main([*FEW, "--beside", str(report), "--quiet"]) == 0
    assert "nano-mix-224  nano-mix-224" in capsys.readouterr().out
    assert main([*FEW, "--beside", str(report), "--seed", "7"]) == 2
    assert "seed is 0 and 7" in capsys.readouterr().err


def test_a_missed_mark_is_exit_code_7_and_one_object(capsys):
    assert main([*FEW, "--json", "--require", "miou=0.5, caption_exact=0"]) == 7
    said = capsys.readouterr()
    assert json.loads(said.out)["ok"] is False
    assert "miou is not measured" in said.err
    assert "caption_exact is" not in said.err


def test_rows_of_ones_own(tmp_path, capsys):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    row = {"image": "a.png", "prefix": "answer en how many?", "suffix": "none at all"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert main(["evaluate", "--task", str(tmp_path / "rows.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["question_accuracy"] == 0


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--kinds", "captoin"], 2, "did you mean 'caption'"),
        (["--languages", "xx"], 2, "unknown language"),
        (["--limit", "0"], 2, "--limit 0 is too small"),
        (["--require", "ap50"], 2, "write NAME=NUMBER"),
        (["--require", "ap51=1"], 2, "did you mean 'ap50'"),
        (["--beside", "nowhere.json"], 4, "no report of an evaluation"),
        (["--task", "nowhere.jsonl"], 4, "nowhere.jsonl"),
        (["--model", "no-such-model"], 3, "no-such-model"),
    ],
)
def test_what_cannot_be_done(words, status, sentence, capsys):
    assert main(["evaluate", *words]) == status
    assert sentence in capsys.readouterr().err
