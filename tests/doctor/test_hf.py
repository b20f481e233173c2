import shutil
from pathlib import Path

import numpy as np
import pytest

from paligemma.doctor import hf

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.mark.parametrize("name", ["hf-pg1-tiny", "hf-pg2-tiny"])
def test_every_array_of_the_reference_is_within_tolerance(name):
    rows = hf.check(GOLDEN / name)
    assert [row for row in rows if not row.ok] == []
    compared = {row.name for row in rows}
    for wanted in ("train1.loss", "gen.greedy", "gen.beam3_lp0.5_eos_scores", "prefix1_no_token_type_ids.logits_last"):
        assert wanted in compared
    assert sum("grad_norms/" in row.name for row in rows) > 60


def damaged(tmp_path: Path, **changes: np.ndarray) -> Path:
    directory = tmp_path / "golden"
    shutil.copytree(GOLDEN / "hf-pg2-tiny", directory)
    arrays = dict(np.load(directory / "expected.npz"))
    arrays.update(
        {name.replace("__", "."): value(arrays.get(name.replace("__", "."))) for name, value in changes.items()}
    )
    np.savez(directory / "expected.npz", **arrays)
    return directory


def test_a_damaged_array_is_a_broken_row(tmp_path):
    directory = damaged(
        tmp_path,
        prefix1__logits_last=lambda array: array + 3e-4,
        gen__greedy=lambda array: np.where(np.arange(array.shape[1]) == 3, 7, array),
        train3_left__loss=lambda array: array + np.float32(2e-4),
    )
    broken = {row.name for row in hf.check(directory) if not row.ok}
    assert {"prefix1.logits_last", "gen.greedy", "train3_left.loss"} <= broken


def test_an_array_that_is_not_known_is_not_passed_over(tmp_path):
    directory = damaged(tmp_path, prefix1__colour=lambda _: np.zeros(3), gen__beam4_mood=lambda _: np.zeros(3))
    rows = {row.name: row for row in hf.check(directory)}
    assert not rows["prefix1.colour"].ok
    assert not rows["gen.beam4_mood"].ok
