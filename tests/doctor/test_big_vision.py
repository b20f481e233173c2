import shutil
from pathlib import Path

import numpy as np
import pytest

from paligemma.doctor import big_vision

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.mark.parametrize("name", ["bv-v1-tiny", "bv-v2-tiny"])
def test_every_array_of_the_reference_is_within_tolerance(name):
    rows = big_vision.check(GOLDEN / name)
    assert [row for row in rows if not row.ok] == []
    compared = {row.name for row in rows}
    for wanted in ("attn_mask", "video.text_logits", "decode.beam4_eos", "decode.step_logits_bf16cache_first3"):
        assert wanted in compared
    assert sum("grad_norms/" in row.name for row in rows) > 30


def test_damaged_and_unknown_arrays_are_broken_rows(tmp_path):
    directory = tmp_path / "golden"
    shutil.copytree(GOLDEN / "bv-v2-tiny", directory)
    arrays = dict(np.load(directory / "expected.npz"))
    arrays["decode.step_logits"][0, 0] = 30 * np.tanh(arrays["decode.step_logits"][0, 0] / 30)  # capped too early
    arrays["attn_mask"][0, 0, -1] = True
    arrays["train.surprise"] = np.zeros(2)
    np.savez(directory / "expected.npz", **arrays)
    broken = {row.name for row in big_vision.check(directory) if not row.ok}
    assert {"decode.step_logits", "attn_mask", "train.surprise"} <= broken
