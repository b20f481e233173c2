import shutil
from dataclasses import replace

import pytest
import torch
from tests.oracle import TINY
from tests.train.tiny import save_tiny_model

from paligemma.checkpoints import load_checkpoint
from paligemma.checkpoints.load import at_resolution
from paligemma.errors import UnavailableError
from paligemma.model import resample_positions
from paligemma.train.config import LoraConfig, TrainConfig
from paligemma.train.start import begin, from_nothing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("start") / "model")


def test_a_folder_is_taken_as_it_is(folder):
    start = begin(TrainConfig(model=str(folder)))
    stored = load_checkpoint(folder).model.state_dict()
    found = start.model.state_dict()
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert start.processor.image_size_px == 8
    assert start.processor.num_image_tokens == 4
    assert start.dtype == torch.float32
    assert start.tokenizer_path == folder


def test_the_bundled_model_brings_its_mask_codec():
    start = begin(TrainConfig(model="nano-pt-112"))
    assert start.codec_path is not None
    assert {parameter.dtype for parameter in start.model.parameters()} == {torch.float32}
    assert start.processor.tokenizer.loc_start > 0


def test_another_resolution_resamples_the_position_table_alone(folder):
    plain, larger = begin(TrainConfig(model=str(folder))), begin(TrainConfig(model=str(folder), image_size_px=16))
    assert larger.model.config.vision.image_size_px == 16
    assert larger.processor.num_image_tokens == 16
    assert larger.image.size_px == 16
    before, after = plain.model.state_dict(), larger.model.state_dict()
    name = "vision_tower.position_embedding"
    assert torch.equal(after.pop(name), resample_positions(before.pop(name), 4))
    assert all(torch.equal(after[other], before[other]) for other in before)
    assert torch.isfinite(larger.model(torch.tensor([[-1] * 16 + [2, 5]]), torch.zeros(1, 3, 16, 16))).all()
    same = at_resolution(plain.model, plain.model.config.vision.image_size_px)
    assert same is plain.model


def test_weights_that_stay_frozen_under_adapters_keep_their_type(tmp_path):
    small = str(save_tiny_model(tmp_path / "model", "bfloat16"))
    half = str(save_tiny_model(tmp_path / "half", "float16"))

    def types(**config):
        frozen = config.pop("frozen_float32", False)
        model = begin(TrainConfig(**{"model": small, **config}), frozen_float32=frozen).model
        return {parameter.dtype for parameter in model.parameters()}

    assert types() == {torch.float32}
    assert types(lora=LoraConfig()) == {torch.bfloat16}
    assert types(lora=LoraConfig(), precision="fp32") == {torch.float32}
    assert types(lora=LoraConfig(), frozen_float32=True) == {torch.float32}
    assert types(lora=LoraConfig(), model=half) == {torch.float32}


def test_scratch_takes_architecture_and_tokenizer_alone(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(folder / name, bare / name)
    starts = [begin(TrainConfig(model=f"scratch:{place}", seed=3)) for place in (folder, bare)]
    weights = [start.model.state_dict() for start in starts]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["projector.weight"], load_checkpoint(folder).model.projector.weight)
    other = begin(TrainConfig(model=f"scratch:{bare}", seed=4)).model
    assert not torch.equal(other.projector.weight, starts[0].model.projector.weight)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(UnavailableError, match="has no tokenizer"):
        begin(TrainConfig(model=f"scratch:{bare}"))


def test_scratch_of_a_bundled_name_has_its_architecture_and_tokenizer():
    start, there = begin(TrainConfig(model="scratch:nano-pt-112")), begin(TrainConfig(model="nano-pt-112"))
    assert start.model.config == there.model.config
    assert start.processor.tokenizer.vocab_size == there.processor.tokenizer.vocab_size
    assert not torch.equal(start.model.projector.weight, there.model.projector.weight)


def test_random_weights_have_no_random_biases():
    text = replace(TINY[2].text, vocab_size=1200, padding_rows=0)
    model = from_nothing(replace(TINY[2], text=text), 0, 20)
    assert not model.projector.bias.any()
    assert not model.vision_tower.patch_embedding.bias.any()
    assert torch.equal(model.vision_tower.post_layernorm.weight, torch.ones(16))


def test_a_model_that_is_not_here_is_told():
    with pytest.raises(UnavailableError):
        begin(TrainConfig(model="paligemma2-3b-pt-224"))
    with pytest.raises(UnavailableError):
        begin(TrainConfig(model="scratch:paligemma2-3b-pt-224"))
