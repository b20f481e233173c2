"""From a name to a model."""

import shutil

import pytest
import torch
from tests.api.helpers import picture

import paligemma
from paligemma.api import load
from paligemma.errors import CheckpointError, UnavailableError, UsageError


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
