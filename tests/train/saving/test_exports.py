import json

import pytest
import torch
from tests.train.tiny import save_tiny_model

import paligemma
from paligemma.train.config import LoraConfig, TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.parts import prepare
from paligemma.train.saving.exports import gathered, write_export
from paligemma.train.start import begin


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("exports") / "model", "bfloat16")


def exported(config, target):
    start = begin(config)
    parts = prepare(start.model, config)
    with torch.no_grad():
        for parameter in start.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.25)
    write_export(target, gathered(Parallel(), start.model), config=config, start=start, parts=parts)
    return start.model


def test_a_model_is_written_in_its_own_type_and_opens(folder, tmp_path):
    model = exported(TrainConfig(model=str(folder)), tmp_path / "last")
    loaded = paligemma.load(tmp_path / "last")
    assert loaded.model.projector.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.model.projector.weight, model.projector.weight.bfloat16())
    assert loaded.processor.tokenizer.vocab_size == begin(TrainConfig(model=str(folder))).processor.tokenizer.vocab_size


def test_another_resolution_is_written_too(folder, tmp_path):
    exported(TrainConfig(model=str(folder), image_size_px=16), tmp_path / "last")
    assert paligemma.load(tmp_path / "last").processor.image_size_px == 16


def test_the_mask_codec_goes_along_and_the_calibration_does_not(tmp_path):
    exported(TrainConfig(model="nano-pt-112"), tmp_path / "last")
    assert paligemma.load(tmp_path / "last").mask_codec is not None
    assert not (tmp_path / "last" / "calibration.json").exists()


def test_adapters_are_written_as_such_and_open_on_their_base(folder, tmp_path):
    config = TrainConfig(model=str(folder), lora=LoraConfig(rank=2), train=("projector",))
    model = exported(config, tmp_path / "last")
    assert json.loads((tmp_path / "last" / "adapter_config.json").read_text())["r"] == 2
    loaded = paligemma.load(folder, adapter=tmp_path / "last").model
    tokens, pixels = torch.tensor([[-1] * 4 + [2, 5, 6]]), torch.zeros(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens, pixels).float(), model.eval()(tokens, pixels).float())
