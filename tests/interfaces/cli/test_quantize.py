"""`paligemma quantize` in the terminal and as JSON."""

import json
from pathlib import Path

from paligemma.interfaces.cli import main

SOURCE = str(Path(__file__).parents[2] / "data" / "golden" / "hf-pg2-tiny")


def test_json_has_every_matrix_worst_first(capsys, tmp_path):
    assert main(["quantize", SOURCE, str(tmp_path / "q"), "--method", "lm=int4,head=int8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["methods"] == {"lm": "int4", "head": "int8"}
    errors = [row["error"] for row in told["matrices"]]
    assert errors == sorted(errors, reverse=True)
    assert {row["part"]: row["method"] for row in told["matrices"]} == told["methods"]
    assert told["bytes"] == sum(row["bytes"] for row in told["matrices"]) < told["num_bytes"]


def test_the_table_shows_the_head_and_every_kind_of_matrix(capsys, tmp_path):
    assert main(["quantize", SOURCE, str(tmp_path / "q")]) == 0
    out = capsys.readouterr().out
    assert "vision int8, lm int4, head int4, the rest float32" in out
    for kind in ("language_model.embed_tokens", "vision_tower.layers.*.mlp.fc2", "language_model.layers.*.mlp.up_proj"):
        assert sum(line.startswith(f"{kind} ") for line in out.splitlines()) == 1


def test_refusals(capsys, tmp_path):
    target = str(tmp_path / "q")
    assert main(["quantize", SOURCE, target]) == 0
    capsys.readouterr()
    for arguments, said in (
        ([SOURCE, target], "already holds"),
        ([target, str(tmp_path / "more")], "quantised already"),
        ([SOURCE, target, "--method", "int5"], "unknown quantize 'int5'"),
    ):
        assert main(["quantize", *arguments]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.strip().splitlines()) == 1
