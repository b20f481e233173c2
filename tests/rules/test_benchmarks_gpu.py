"""The benchmark of cards as far as a machine without one can see: what fails keeps nothing else from being seen."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tests.oracle import TINY

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts are run from there

import gpu  # noqa: E402
from on_gpu import kernels, sides  # noqa: E402

from paligemma.engine import Engine, Sampling  # noqa: E402
from paligemma.linear.packed import METHODS, PackedLinear  # noqa: E402
from paligemma.processor import Encoded  # noqa: E402

FAKE = """
import json, os, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    if asked["name"] == "dies":
        os._exit(3)
    if asked["name"] == "sleeps":
        time.sleep(60)
    found = {"limits": {"copy": 1}} if asked["part"] == "limits" else {"skipped": f"{asked['name']} by {os.getpid()}"}
    print(json.dumps({**found, "last": asked["name"] == "breaks"}), flush=True)
"""


def test_what_dies_breaks_or_hangs_costs_itself_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "MOST_S", 3.0)
    names = ["one", "dies", "two", "breaks", "three", "sleeps", "four"]
    report = gpu.Report(tmp_path / "found.json")
    gpu.measure([("3b-224-b1", name) for name in names], 60, report, [sys.executable, "-c", FAKE])
    said = {row["side"]: row["skipped"] for row in json.loads((tmp_path / "found.json").read_text())["cases"]}
    assert list(said) == names
    assert said["dies"] == "the process ended with status 3"
    assert said["sleeps"] == "no answer in 3 s"
    workers = [said[name].split(" by ")[1] for name in ("one", "two", "breaks", "three", "four")]
    assert workers[1] == workers[2]
    assert len(set(workers)) == 4
    assert "no answer in 3 s" in capsys.readouterr().out


def test_when_the_time_is_up_the_rest_is_named(tmp_path):
    report = gpu.Report()
    gpu.measure([("3b-224-b1", "sleeps"), ("3b-224-b8", "graphs")], 2, report, [sys.executable, "-c", FAKE])
    assert report.found["cases"][-1] == {"case": "3b-224-b8", "side": "graphs", "skipped": "the time is up"}


def test_a_card_that_cannot_be_measured_ends_it():
    with pytest.raises(SystemExit, match="could not be measured"):
        gpu.measure([], 20, gpu.Report(), [sys.executable, "-c", FAKE.replace('"copy": 1', "").replace("{}", "None")])


def test_what_is_asked_for_exists():
    for case, side in gpu.everything():
        assert side in (kernels.GROUPS if case == "kernels" else sides.SIDES)
        assert case in (*gpu.CASES, "kernels")
    assert len(set(gpu.everything())) == len(gpu.everything())
    assert {case for case, _ in gpu.everything()} == {*gpu.CASES, "kernels"}


@pytest.mark.parametrize("method", [None, *METHODS])
def test_models_of_random_codes_answer(method, monkeypatch):
    monkeypatch.setattr(sides, "DEVICE", "cpu")
    monkeypatch.setattr(kernels, "DEVICE", "cpu")
    model = sides.draw_ours(TINY[2], method)
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == (0 if method is None else 6 * 2 + 7 * 3 + 1)
    for layer in packed:
        assert 0.005 < layer.dequantize().std() < 0.05
    tokens = torch.arange(3, 9)
    prompt = Encoded(tokens=tokens, pixels=None, mask_ar=tokens * 0, mask_loss=tokens * 0)
    (found,) = Engine(model, eos_id=1).generate([prompt], Sampling(max_tokens=4))
    assert found.logprobs
    assert all(number <= 0 for number in found.logprobs)  # and none is no number


def test_offloaded_and_plain_models_read_the_same_bytes():
    config = TINY[2]
    assert sides.decode_bytes(config, 1, 100) - sides.decode_bytes(config, 1, 0) == 100
    assert sides.prefill_flops(config, 2) == 2 * sides.prefill_flops(config, 1)
