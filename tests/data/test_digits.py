import sys

import numpy as np
import pytest

from paligemma.data.digits import SPLITS, WORDS, DigitsSource
from paligemma.errors import UnavailableError, UsageError


def test_splits_never_meet_and_hold_every_digit_in_its_share():
    sources = {split: DigitsSource(split=split, side_px=8) for split in SPLITS}
    assert {split: len(source) for split, source in sources.items()} == {"train": 1000, "validation": 297, "test": 500}
    examples = {split: [source[i] for i in range(len(source))] for split, source in sources.items()}
    assert len({example.id for found in examples.values() for example in found}) == 1797
    for found in examples.values():
        counts = np.bincount([WORDS.index(example.suffix) for example in found])
        assert np.all(np.abs(counts - len(found) / 10) <= 0.1 * len(found) / 10 + 1)


def test_pictures_show_the_digit():
    from sklearn.datasets import load_digits

    data = load_digits()
    example = DigitsSource(side_px=64)[5]
    row = int(example.id.partition(":")[2])
    assert example.suffix == WORDS[data.target[row]]
    assert example.prefix == "answer en which digit is this?"
    pixels = np.asarray(example.images[0].convert("L").resize((8, 8)), dtype=float)
    assert np.corrcoef(pixels.ravel(), data.images[row].ravel())[0, 1] < -0.95  # ink is dark


def test_answers_and_prompts_may_be_others():
    source = DigitsSource(words=False, prefix="answer en what?", side_px=56, split="test")
    example = source[0]
    assert example.suffix in "0123456789"
    assert example.prefix == "answer en what?"
    assert example.images[0].size == (56, 56)
    fingerprints = {source.fingerprint, DigitsSource(split="test").fingerprint, DigitsSource().fingerprint}
    assert len(fingerprints) == 3


def test_unknown_splits_are_told():
    with pytest.raises(UsageError, match="did you mean 'validation'"):
        DigitsSource(split="validate")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UnavailableError, match="pip install scikit-learn"):
        DigitsSource()
