import json
import signal

import numpy as np
import pytest
from PIL import Image

from paligemma.errors import DivergedError
from paligemma.interfaces.cli import main
from paligemma.train import run
from paligemma.train.process import Stopped
from paligemma.train.records import Best, Summary


@pytest.fixture
def data(tmp_path):
    """Six pictures of noise with their names: four to learn, two to be judged on."""
    rows = []
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"image": f"{i}.png", "prefix": "caption en", "suffix": f"picture number {i}"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows[:4]))
    (tmp_path / "held_out.jsonl").write_text("\n".join(rows[4:]))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What was handed to the trainer, which does nothing but end."""
    calls = []

    def train(config, **more):
        calls.append((config, more))
        return Summary(
            steps=3, stopped="done", best=Best(step=2, figures={"loss": 0.5}), last={"loss": 0.7}, skipped=1,
            examples=96, tokens=9, seconds=2.0,
        )  # fmt: skip

    monkeypatch.setattr(run, "train", train)
    return calls


def test_a_whole_run(data, capsys):
    out = data / "run"
    words = ["--data", str(data / "rows.jsonl"), "--val", str(data / "held_out.jsonl"), "--out", str(out), "--lora"]
    more = ["--steps", "2", "--batch-size", "2", "--precision", "fp32", "--set", "data.workers=0", "--rank", "2"]
    assert main(["train", *words, *more, "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["steps"], told["examples"], told["out"]) == (2, 4, str(out))
    assert told["best"]["figures"]["loss"] > 0
    assert "step 2/2" in said.err
    for name in ("config.yaml", "trainable.txt", "metrics.jsonl", "curves.png", "summary.json", "MODEL_CARD.md"):
        assert (out / name).is_file(), name
    assert (out / "best" / "adapter_model.safetensors").is_file()
    assert (out / "samples" / "step_00000002" / "00-caption.png").is_file()
    assert main(["train", *words, *more]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_drawn_scenes_are_learnt_as_they_come(tmp_path, capsys):
    """One row in a thousand has more than the usual tokens: of the first 200, which are looked at, number 53."""
    words = ["--data", "scenes", "--val", "scenes", "--steps", "1", "--batch-size", "2", "--precision", "fp32"]
    more = ["--eval-limit", "1", "--set", "data.workers=0", "--set", "data.check=60", "--out", str(tmp_path / "run")]
    assert main(["train", *words, *more]) == 0
    capsys.readouterr()
    report = (tmp_path / "run" / "data_report.txt").read_text()
    assert "0 errors" in report
    assert "256" in report


def test_for_people(asked, capsys):
    assert main(["train", "--data", "a", "b", "--out", "x", "--steps", "3"]) == 0
    said = capsys.readouterr().out
    assert "3 steps, 96 examples in 2 s: x" in said
    assert "best (step 2): loss 0.5" in said
    assert "1 steps were skipped" in said
    assert "--model x/best" in said
    config, more = asked[0]
    assert [source.path for source in config.data.train] == ["a", "b"]
    assert more["resume"] is False


def test_an_adapter_is_used_with_its_base(asked, capsys):
    assert main(["train", "--data", "a", "--out", "x", "--steps", "3", "--lora"]) == 0
    assert "--model nano --adapter x/best" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_says_how_to_go_on(monkeypatch, capsys, number, status):
    def train(config, **more):
        raise Stopped(number, 7)

    monkeypatch.setattr(run, "train", train)
    assert main(["train", "--data", "a", "--out", "x", "--steps", "9"]) == status
    said = capsys.readouterr().err
    assert "after step 7, which is saved" in said
    assert "paligemma train --resume --out x" in said


def test_a_dry_run_shows_the_rows_and_ends(data, capsys):
    out = data / "run"
    words = ["--data", str(data / "rows.jsonl"), "--out", str(out), "--batch-size", "2", "--precision", "fp32"]
    assert main(["train", *words, "--steps", "1", "--set", "data.workers=0", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out == f"nothing is wrong with the first rows; {out / 'examples.html'} shows them\n"
    assert "i image  p prompt  s answer" in said.err
    assert "dry run: " in said.err
    assert not (out / "metrics.jsonl").exists()


def test_divergence_is_exit_code_8(monkeypatch, capsys):
    def train(config, **more):
        raise DivergedError("three steps had no gradient; lower the rate")

    monkeypatch.setattr(run, "train", train)
    assert main(["train", "--data", "a", "--steps", "9"]) == 8
    assert "three steps had no gradient" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--steps", "3"], 2, "nothing to train on"),
        (["--data", "nowhere.jsonl", "--steps", "3"], 4, "nowhere.jsonl"),
        (["--data", "a", "--rank", "3"], 2, "give --lora as well"),
        (["--data", "a", "--set", "optim.lrr=3"], 2, "did you mean 'lr'"),
        (["--data", "a", "--resume"], 2, "give its folder as --out"),
        (["--data", "a", "--overfit", "0"], 2, "--overfit 0 is too small"),
        (["--data", "a", "--stage", "9"], 2, "stage 9"),
        (["--data", "a", "--optimizer", "adam"], 2, "adamw"),
        (["--data", "scenes", "--steps", "3", "--model", "no-such"], 3, "no-such"),
    ],
)
def test_what_cannot_be_done(words, status, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == status
    assert sentence in capsys.readouterr().err
