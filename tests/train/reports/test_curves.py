import sys

import numpy as np
import pytest
from PIL import Image
from tests.train.made import record, run_of, summary

from paligemma.errors import UnavailableError
from paligemma.train.reports.curves import Curves, draw_curves, is_score
from paligemma.train.reports.report import Journal


def test_a_picture_of_a_run(tmp_path):
    run_of(Journal(tmp_path), 200, evaluate_every=50)
    path = draw_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[0] > 500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".png"] == ["curves.png"]


def test_it_changes_with_the_run(tmp_path):
    journal = Journal(tmp_path)
    journal.on_step(record(1))
    before = draw_curves(tmp_path).read_bytes()
    journal.on_step(record(2, loss=9.0))
    assert draw_curves(tmp_path).read_bytes() != before


def test_a_run_without_steps_or_without_numbers(tmp_path):
    draw_curves(tmp_path)
    journal = Journal(tmp_path)
    journal.on_step(record(1, loss=float("nan")))
    journal.on_evaluation(1, {"loss": float("nan")})
    assert draw_curves(tmp_path).is_file()


def test_drawn_after_evaluations_and_at_the_end(tmp_path):
    curves, journal, notes = Curves(tmp_path, pytest.fail), Journal(tmp_path), []
    journal.on_step(record(1))
    curves.on_step(record(1))
    curves.on_note("a word")
    assert not (tmp_path / "curves.png").exists()
    curves.on_evaluation(1, {"loss": 1.0})
    (tmp_path / "curves.png").unlink()
    curves.on_end(summary(1))
    assert not (tmp_path / "curves.png").exists()  # nothing has changed
    curves.on_step(record(2))
    curves.on_end(summary(2))
    assert (tmp_path / "curves.png").is_file()
    assert notes == []


def test_without_matplotlib_the_run_goes_on_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    notes = []
    run_of(Curves(tmp_path, notes.append), 4, evaluate_every=1)
    assert len(notes) == 1
    assert "pip install 'paligemma[train]'" in notes[0]
    with pytest.raises(UnavailableError, match="matplotlib"):
        draw_curves(tmp_path)


@pytest.mark.parametrize(
    ("name", "score"), [("ap50", True), ("loss", False), ("birds/loss", False), ("birds/ap50", True)]
)
def test_what_is_drawn_among_scores(name, score):
    assert is_score(name) is score
