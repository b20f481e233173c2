import json

import pytest

from paligemma.checkpoints.placement import choose_device
from paligemma.config import VARIANTS
from paligemma.engine.planning import PRECISIONS
from paligemma.interfaces.cli import main
from paligemma.linear.cuda import has_fp8

RATES = ("--tflops", "0.4", "--bandwidth", "40")
BIG = "paligemma2-3b-pt-224"


def told(capsys, *words):
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_model_at_every_precision(capsys):
    found = told(capsys, *RATES, "--gpu", "8GB")
    models = {v.name for v in VARIANTS.values() if v.kind in ("pt", "nano")}
    assert {(one["model"], one["precision"]) for one in found["plans"]} == {(m, p) for m in models for p in PRECISIONS}
    for one in found["plans"]:
        assert one["fits"] == (one["peak_bytes"] <= found["usable_bytes"])
        assert one["peak_bytes"] == one["weights_bytes"] + one["cache_bytes"] + one["activations_bytes"]
        if PRECISIONS[one["precision"]].reached is None:
            assert one["tokens_per_s"] is one["first_token_s"] is None
            continue
        assert one["tokens_per_s"] < one["limit_tokens_per_s"]
        assert one["first_token_s"] > one["limit_first_token_s"]
    assert {one["fits"] for one in found["plans"]} == {True, False}


def test_one_model(capsys):
    found = told(capsys, f"google/{BIG}", "--precision", "bf16", *RATES)
    (one,) = found["plans"]
    assert one["weights_bytes"] == 2 * VARIANTS[BIG].config.num_parameters
    assert one["limit_tokens_per_s"] == pytest.approx(40e9 / (2 * VARIANTS[BIG].config.text.num_parameters), rel=0.02)
    assert main(["plan", "--model", BIG, *RATES, "--gpu", "24GB"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == (
        "model precision weights cache activations at most first token limit tokens/s limit fits".split()
    )
    assert len(said.out.splitlines()) == 1 + len(PRECISIONS)
    assert "24GB: reads 40 GB/s" in said.err


def test_more_is_more(capsys):
    (small,), (large,) = (
        told(capsys, BIG, "--precision", "bf16", *RATES, *more)["plans"]
        for more in ((), ("--batch-size", "4", "--text-tokens", "400"))
    )
    for name in ("cache_bytes", "activations_bytes", "limit_first_token_s", "limit_tokens_per_s"):
        assert large[name] > small[name]


def test_this_machine_is_measured(capsys, monkeypatch):
    monkeypatch.setattr("paligemma.engine.machine.READ_BYTES", {"cpu": 2**20})
    monkeypatch.setattr("paligemma.engine.machine.SIDE", {"cpu": 64})
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    found = told(capsys, "nano")
    assert found["read_bytes_per_s"] > 1e8
    assert set(found["matrix_ops_per_s"]) - {"fp8"} == {"bf16", "fp32", "int8"}
    assert main(["plan", "nano", "--gpu", "24GB"]) == 0
    said = capsys.readouterr().err
    assert "keep this machine busy" in said
    assert "give --tflops and --bandwidth" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nanoo"], "nanoo"),
        (["--gpu", "large"], "such as 24GB"),
        (["--gpu", "0GB"], "such as 24GB"),
        (["--batch-size", "0"], "--batch-size 0 is too small"),
        (["--tflops", "-1"], "--tflops -1.0 is out of range"),
        (["--bandwidth", "0"], "--bandwidth 0.0 is out of range"),
        (["--checkpointing"], "--checkpointing says how to train; add --train"),
        (["--micro-batch", "2"], "--micro-batch says how to train"),
        (["--precision", "int3"], "int8"),
        pytest.param(
            ["--precision", "fp8", "--gpu", "80GB"],
            "cannot be measured here",
            marks=pytest.mark.skipif(has_fp8(choose_device()), reason="this card multiplies fp8"),
        ),
    ],
)
def test_what_cannot_be_planned(words, sentence, capsys):
    assert main(["plan", *words]) in (2, 3)
    assert sentence in capsys.readouterr().err


def test_layers_that_could_wait_are_told_for_cards(capsys):
    found = told(capsys, "paligemma2-10b-pt-224", "--precision", "bf16", *RATES, "--gpu", "16GB")
    (one,) = found["plans"]
    assert not one["fits"]
    layers = VARIANTS["paligemma2-10b-pt-224"].config.text.depth
    assert 2 < one["offload_layers"] < layers
    assert main(["plan", "paligemma2-10b-pt-224", "--precision", "bf16", *RATES, "--gpu", "16GB"]) == 0
    assert f"--offload {one['offload_layers']}" in capsys.readouterr().out
    (small,) = told(capsys, "nano", "--precision", "bf16", *RATES, "--gpu", "16GB")["plans"]
    assert small["offload_layers"] == 0
    (huge,) = told(capsys, "paligemma2-28b-pt-224", "--precision", "bf16", *RATES, "--gpu", "2GB")["plans"]
    assert huge["offload_layers"] is None
