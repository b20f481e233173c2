"""The tables of the benchmark are whole, and what it writes for llama.cpp says what the weights say."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts are run from there

from harness import gguf  # noqa: E402
from harness.cases import CASES, LOADED, PEERS  # noqa: E402
from harness.measure import LIMITS, OURS, Found, Seen  # noqa: E402
from harness.report import FIGURES, row, table  # noqa: E402

from paligemma.engine.planning import PRECISIONS  # noqa: E402


def test_every_case_can_be_run():
    for case in CASES.values():
        assert case.figure in FIGURES
        if case.setup is not None:
            assert set(case.setup.peers) <= set(PEERS)
            assert case.setup.precision in LOADED
            assert len(case.setup.prompts) == len(case.setup.answers)
    planned = {name: precision.matrix for name, precision in PRECISIONS.items()}
    assert planned.pop("fp8") == "fp8"  # on cards alone: benchmarks/gpu.py
    assert {name: kind.matrix for name, kind in LOADED.items()} == planned


def test_the_list_names_every_case():
    said = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bench.py"), "--list"], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[0] for line in said.splitlines()] == list(CASES)


def seen(case, *, ttft_s, step_s):
    answers = [[0] * length for length in case.setup.answers]
    one = {
        "ttft_s": ttft_s, "step_s": step_s, "seconds": ttft_s + step_s * (case.setup.answers[0] - 1),
        "answers": answers, "before_bytes": 10, "most_bytes": 2**30, "peak_bytes": 2**30,
    }  # fmt: skip
    return Seen(opened=[{"load_s": 1.0}], repetitions=[one] * 3)


@pytest.mark.parametrize(("name", "ratio"), [("bf16-decode", 3.0), ("bf16-ttft", 2.0), ("bf16-memory", 1.0)])
def test_a_ratio_above_one_means_that_ours_is_better(name, ratio):
    case = CASES[name]
    found = Found(case.setup)
    found.sides[LIMITS] = Seen(repetitions=[{"read": 4e10, "matrix": {"bf16": 3.6e11}}] * 3)
    found.sides[OURS] = seen(case, ttft_s=4.0, step_s=0.2)
    found.sides[case.setup.peers[0]] = seen(case, ttft_s=8.0, step_s=0.6)
    result = row(case, found)
    assert result["ratio"] == pytest.approx(ratio)
    assert result["peer_name"] == case.setup.peers[0]
    assert result["same_tokens"] == "32 of 32"
    if name == "bf16-decode":
        assert result["gb_per_s"] == pytest.approx(result["of_limit"] * 40)
        assert result["reached"] is (result["of_limit"] >= 0.85)
    assert json.loads(json.dumps(result)) == result
    assert name in table([result])


def test_what_is_missing_is_said_and_breaks_nothing():
    case = CASES["int8-decode"]
    found = Found(case.setup, sides={
        LIMITS: Seen(repetitions=[{"read": 4e10, "matrix": {"bf16": 3.6e11, "int8": 7e11}}]),
        OURS: Seen(missing="not yet: no"), case.setup.peers[0]: Seen(missing="absent: pip install it"),
    })  # fmt: skip
    result = row(case, found)
    assert (result["ours"], result["peer"], result["ratio"], result["reached"]) == (None, None, None, None)
    assert any("pip install it" in note for note in result["notes"])


@pytest.mark.parametrize(("layout", "bits"), [("Q8_0", 8), ("Q4_0", 4)])
def test_blocks_say_what_the_weights_say(layout, bits):
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    blocks = np.frombuffer(gguf.encoded(weight, layout), np.uint8).reshape(-1, gguf.BLOCK_BYTES[layout])
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = blocks[:, 2:]
    if layout == "Q8_0":
        numbers = codes.view(np.int8) * scale
    else:
        numbers = (np.concatenate([codes & 15, codes >> 4], 1).astype(np.float32) - 8) * scale
    step = np.abs(weight.reshape(-1, 32).numpy()).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(numbers - weight.reshape(-1, 32).numpy()) <= 1.2 * step).all()


def test_a_file_tells_where_its_tensors_lie(tmp_path):
    writer = gguf.Writer(tmp_path / "a.gguf", {"name": "x", "words": ["a", "bc"], "count": 3, "eps": 0.5})
    writer.begin([("one", (2, 32), "Q8_0"), ("two", (3,), "F32")])
    writer.add(bytes(range(68)))
    writer.add(struct.pack("<3f", 1, 2, 3))
    writer.close()
    data = (tmp_path / "a.gguf").read_bytes()
    assert data[:4] == b"GGUF"
    assert struct.unpack_from("<IQQ", data, 4) == (3, 2, 4)
    place = data.index(b"two") + 3
    dims, side, kind, offset = struct.unpack_from("<IQIQ", data, place)
    assert (dims, side, kind, offset) == (1, 3, gguf.KINDS["F32"], 96)
    start = len(data) - 32 - 96
    assert data[start : start + 68] == bytes(range(68))
    assert struct.unpack_from("<3f", data, start + offset) == (1, 2, 3)
