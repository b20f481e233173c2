import json

import pytest

from paligemma.config import VARIANTS
from paligemma.interfaces.cli import main


def told(capsys, *words):
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_plan(capsys):
    words = ("--model", "google/paligemma2-3b-pt-224", "--method", "lora", "--batch-size", "8", "--tflops", "100")
    found = told(capsys, *words, "--gpu", "24GB", "--examples", "1000")
    assert found["parameters"] == VARIANTS["paligemma2-3b-pt-224"].config.num_parameters
    assert found["fits"] == (found["peak_bytes"] <= found["usable_bytes"])
    assert found["micro_batch_that_fits"] >= 1
    assert found["step_seconds"] == pytest.approx(found["step_flops"] / 50e12)
    assert found["seconds"] == pytest.approx(125 * found["step_seconds"])
    assert main(["plan", *words, "--gpu", "24GB"]) == 0
    text = capsys.readouterr().out
    assert "at most" in text
    assert "24GB          fits" in text


def test_what_does_not_fit_comes_with_what_would(capsys):
    words = ("--model", "paligemma2-10b-pt-448", "--method", "full", "--tflops", "1", "--gpu", "24GB")
    found = told(capsys, *words)
    assert not found["fits"]
    assert {"method": "qlora"} in found["advice"]
    assert main(["plan", *words]) == 0
    text = capsys.readouterr().out
    assert "does not fit" in text
    assert "fits with --method qlora" in text
    assert main(["plan", "--model", "paligemma2-28b-pt-896", "--tflops", "1", "--gpu", "2", "--method", "full"]) == 0
    assert "nothing fits" in capsys.readouterr().out


def test_a_table_of_one_model(capsys):
    found = told(capsys, "nano", "--train", "--gpu", "4")
    assert [one["method"] for one in found["plans"]] == ["full", "frozen", "attention", "lora", "qlora"]
    assert all(one["micro_batch_that_fits"] > 10 for one in found["plans"])
    assert main(["plan", "nano", "--train", "--gpu", "4GB"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split("  ")[-1].strip() == "at a time in 4GB"
    assert "--checkpointing" in said.err


def test_this_machine_is_measured(capsys):
    assert told(capsys, "--model", "nano", "--method", "full")["matrix_flops_per_s"] > 1e8


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train", "--precision", "int8"], "--precision int8 is for answering"),
        (["--model", "nano", "--method", "full", "--batch-size", "3", "--processes", "2"], "cannot be shared"),
        (["--train", "--optimizer", "adam"], "adamw"),
    ],
)
def test_what_cannot_be_planned(words, sentence, capsys):
    assert main(["plan", *words]) in (2, 3)
    assert sentence in capsys.readouterr().err
