import subprocess
from pathlib import Path

import pytest

from paligemma.train.config import DataConfig, LoraConfig, SourceConfig, TrainConfig
from paligemma.train.reports.card import NAME, git_state, licence_of, versions, write_card

DATA = DataConfig(train=(SourceConfig(path="birds.jsonl", weight=2), SourceConfig(path="x", name="more")))


def card(folder, **more):
    counts, figures = more.pop("counts", {}), more.pop("figures", {})
    path = write_card(
        folder, TrainConfig(out=folder / "birds", data=DATA, **more), figures, counts=counts, trained="lm"
    )
    assert path == folder / NAME
    return path.read_text()


def test_what_a_card_tells(tmp_path):
    text = card(
        tmp_path, model="paligemma2-3b-pt-224", lora=LoraConfig(rank=4), quantize="nf4", stage=3,
        counts={"birds.jsonl": 1200, "more": 7}, figures={"best": {"loss": 0.51234, "ap50": float("nan")}, "steps": 10},
    )  # fmt: skip
    assert text.startswith("---\nlibrary_name: paligemma\n")
    assert 'license: gemma\nbase_model: "google/paligemma2-3b-pt-224"' in text
    assert "adapters of rank 4 on lm over a base in nf4" in text
    assert "stage 3" in text
    assert f'load("paligemma2-3b-pt-224", adapter="{tmp_path}/birds/best")' in text
    assert "| train |" not in text  # nothing but the adapters moves
    assert "| training | `birds.jsonl` | 2 | 1,200 |" in text
    assert "| training | `x` | 1 | 7 |" in text
    assert "| best.loss | 0.5123 |" in text
    assert "| best.ap50 | not finite |" in text
    assert "| optim.lr | 1e-05 |" in text
    assert "| torch | " in text
    assert "Gemma is provided under and subject to the Gemma Terms of Use" in text
    assert "```text\nlm\n```" in text


def test_nano_is_free_and_scratch_is_nobody_elses(tmp_path):
    text = card(tmp_path, model="nano")
    assert "license: apache-2.0" in text
    assert "Apache License 2.0" in text
    assert "| training | `x` | 1 | unknown |" in text
    assert "None were measured" in text
    text = card(tmp_path, model="scratch:nano-pt-112")
    assert "license:" not in text
    assert "random numbers" in text


def test_a_licence_is_handed_down(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    card(first, model="paligemma-3b-pt-224")
    assert licence_of(str(first)) == "gemma"
    assert licence_of(str(first / "best")) == "gemma"  # the card lies beside the weights' folder
    assert "license: gemma" in card(tmp_path, model=str(first / "best"))


@pytest.mark.parametrize(
    "head", ["", "---\n---\nlicense: gemma\n", "# no head\nlicense: gemma\n", "---\nlicense: mit\n---"]
)
def test_an_unknown_licence_is_said_to_be_unknown(tmp_path, head):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text(head)
    assert licence_of(str(folder)) == "other"
    assert "whose licence this program does not know" in card(tmp_path, model=str(folder))


def test_the_state_of_the_repository(tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    assert git_state(tmp_path) is None
    git("init", "-q")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "one")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert not state["changed"]
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path)["changed"]


def test_without_git_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_versions_name_no_machine():
    found = versions()
    assert found["paligemma"]
    assert str(Path.home()) not in str(found)
