"""The bundled models: small enough, offline, and right as often as their record says."""

import json
from math import sqrt
from pathlib import Path

import pytest

import paligemma
from paligemma.checkpoints.hub import BUNDLE, BUNDLED
from paligemma.scenes import VERSION

DOCS = Path(__file__).parents[2] / "docs" / "nano.md"
RECORD = json.loads((BUNDLE / "nano.json").read_text())
SHARES = ("caption_exact", "question_accuracy", "ocr_word_accuracy")
MEANS = ("ap50", "precision50", "miou")  # of many numbers each, so of less spread


def test_together_they_are_small():
    assert sum(file.stat().st_size for file in BUNDLE.rglob("*") if file.is_file()) < 25e6
    assert set(RECORD["models"]) == set(BUNDLED) - {"nano"}


def test_their_record_is_in_the_documentation():
    page = DOCS.read_text()
    for name in (*SHARES, *MEANS):
        shown = " | ".join(f"{100 * model['int8'][name]:.1f} %" for model in RECORD["models"].values())
        assert f" | {shown} | " in next(line for line in page.splitlines() if line.startswith(f"| `{name}` |")), name


@pytest.mark.parametrize("name", RECORD["models"])
def test_they_are_as_good_as_their_record(name):
    """On other scenes than the record's, within what so few of them spread by chance."""
    record = RECORD["models"][name]["int8"]
    assert record["scenes_version"] == VERSION
    told = paligemma.evaluate(name, seed=5, limit=25, batch_size=16).to_dict()
    for figure in SHARES:
        expected = record[figure]
        allowed = 4 * sqrt(max(0.02, expected * (1 - expected)) / told["n"][figure])
        assert told[figure] > expected - allowed, (figure, told[figure], expected)
    for figure in MEANS:
        assert told[figure] > record[figure] - 0.2, (figure, told[figure], record[figure])
