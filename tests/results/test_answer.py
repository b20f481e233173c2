"""An answer is plain data that writes itself."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.results.made import detections, picture

from paligemma.errors import ResourceError, UsageError
from paligemma.results import Answer, Notice


def test_answer_json_has_no_pictures_and_tokens_only_when_asked():
    answer = Answer(
        text="eine Straße", raw="eine Straße", task="caption", prompt="caption de", finish_reason="length",
        warnings=(Notice("cut", "cut off"),), tokens=(5, 6), logprobs=(-0.5, -1.0), timing={"generate": 0.25},
        images=(picture(7, 5),), paths=("a.png",),
    )  # fmt: skip
    row = json.loads(answer.to_json())
    assert row["text"] == "eine Straße"
    assert "Straße" in answer.to_json()
    assert row["truncated"] is True
    assert row["images"] == [{"path": "a.png", "width": 7, "height": 5}]
    assert row["warnings"] == [{"code": "cut", "message": "cut off"}]
    assert row["timing"] == {"generate": 0.25}
    assert (row["score"], "tokens" in row) == (None, False)
    full = json.loads(answer.to_json(with_tokens=True))
    assert (full["tokens"], full["logprobs"]) == ([5, 6], [-0.5, -1.0])
    assert str(answer) == "eine Straße"


def test_save_by_suffix(tmp_path):
    found = detections(50, 40, ("cat", (0, 0, 1, 1)))
    assert json.loads(found.save(tmp_path / "a.json").read_text())["task"] == "detect"
    assert Image.open(found.save(tmp_path / "a.png")).size == found.plot().size
    assert found.save(tmp_path / "a.TXT").read_text() == "\n"
    with pytest.raises(UsageError, match=r"end it in \.png"):
        found.save(tmp_path / "a.docx")
    with pytest.raises(ResourceError, match="cannot write"):
        found.save(tmp_path / "missing" / "a.png")


def test_sizes_are_known_without_the_pictures():
    answer = Answer(text="", raw="", task="ask", prompt="", image_size_px=(7, 5), paths=("a.png", "b.png"), score=0.5)
    assert answer.to_dict()["images"] == [
        {"path": "a.png", "width": 7, "height": 5}, {"path": "b.png", "width": None, "height": None},
    ]  # fmt: skip
    assert answer.to_dict()["score"] == 0.5
    assert Answer(text="", raw="", task="ask", prompt="").to_dict()["images"] == []


def test_csv_and_crisp_jpegs_are_saved(tmp_path):
    found = detections(900, 700, ("cat", (0.1, 0.1, 0.5, 0.5)))
    assert found.save(tmp_path / "a.csv").read_text() == found.to_csv()
    drawn = np.asarray(found.plot()).astype(int)
    saved = np.asarray(Image.open(found.save(tmp_path / "a.jpg"))).astype(int)
    assert np.abs(saved - drawn).mean() < 1


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(Answer, "to_json", lambda *a, **b: 7)
    with pytest.raises(TypeError):
        Answer(text="", raw="", task="ask", prompt="").save(path)
    assert path.read_text() == "old"
