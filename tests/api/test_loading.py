"""From a name to a model."""

import shutil

import pytest
import torch
from tests.api.helpers import picture

import paligemma
from paligemma.api import load
from paligemma.errors import CheckpointError, UnavailableError, UsageError
from paligemma.metrics import Calibration


def test_loading_keeps_or_changes_the_number_type(directory, model):
    assert model.dtype == torch.float32
    assert model.device.type == "cpu"
    assert load(directory, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    assert paligemma.load is load
    assert str(directory) in repr(model)


def test_a_checkpoint_without_tokenizer_says_what_to_do(directory, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(directory / name, tmp_path)
    with pytest.raises(CheckpointError, match="comes without a tokenizer"):
        load(tmp_path)
    assert (
        load(tmp_path, device="cpu", tokenizer=directory / "tokenizer.json").ocr(picture(), max_tokens=1).task == "ocr"
    )


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("paligemma2-3b-mix-224", {}, UnavailableError, "paligemma pull paligemma2-3b-mix-224"),
        ("palligemma2-3b-mix-224", {}, UnavailableError, "did you mean 'paligemma2-3b-mix-224'"),
        ("./nowhere", {}, UnavailableError, "no file or directory"),
        (None, {"device": "gpu"}, UsageError, "unknown device"),
        (None, {"dtype": "int7"}, UsageError, "unknown weight type"),
        (None, {"resize": "cubic"}, UsageError, "did you mean 'bicubic'"),
    ],
)
def test_what_cannot_be_loaded(directory, name, options, error, message):
    with pytest.raises(error, match=message):
        load(name or directory, **options)


def test_a_calibration_is_found_beside_the_model_or_given(directory, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(directory, copy)
    (copy / "calibration.json").unlink(missing_ok=True)
    assert load(copy, device="cpu").calibration is None
    (copy / "calibration.json").write_text('{"temperature": 2.0}')
    (tmp_path / "mine.json").write_text('{"shift": 0.5}')
    assert load(copy, device="cpu").calibration == Calibration(temperature=2.0)
    assert load(copy, device="cpu", calibration=tmp_path / "mine.json").calibration == Calibration(shift=0.5)
    with pytest.raises(UnavailableError, match="paligemma calibrate"):
        load(copy, device="cpu", calibration=tmp_path / "nowhere.json")
    (copy / "calibration.json").write_text('{"temprature": 2.0}')
    with pytest.raises(CheckpointError, match="is no calibration"):
        load(copy, device="cpu")


def test_an_invariant_model_gives_the_same_bits_whoever_is_beside(directory):
    model = load(directory, device="cpu", image_cache=0, invariant=True)
    assert model.engine.invariant
    pictures = [picture(seed) for seed in range(5)]
    together = model.detect(pictures, "cat", max_tokens=9)
    others = model.caption(pictures[::-1], max_tokens=7)
    for place in (0, 3):
        alone = model.detect(pictures[place], "cat", max_tokens=9)
        assert (alone.raw, alone.logprobs) == (together[place].raw, together[place].logprobs)
        alone = model.caption([pictures[4 - place]], max_tokens=7)[0]
        assert (alone.text, alone.logprobs) == (others[place].text, others[place].logprobs)
    scored = model.score(pictures, "answer en what?", ["a", "b c"])
    (again,) = model.score([pictures[2]], "answer en what?", ["a", "b c"])
    assert [one.logprob for one in again] == [one.logprob for one in scored[2]]
