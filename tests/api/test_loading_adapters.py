"""A model with an adapter: what it was trained to be, or an error; never silently the base."""

import json
import shutil

import pytest
import torch
from tests.adapters import write_adapter
from tests.api.helpers import picture

from paligemma.api import load
from paligemma.api.loading import base_and_adapter
from paligemma.checkpoints import load_checkpoint, save
from paligemma.checkpoints.adapters import load_adapter
from paligemma.checkpoints.conversion import random_logits
from paligemma.errors import CheckpointError, UnavailableError, UsageError
from paligemma.metrics import Calibration


@pytest.fixture(scope="module")
def adapter(directory, tmp_path_factory):
    return write_adapter(directory, tmp_path_factory.mktemp("adapter"), where=("lm", "projector"))


def test_it_answers_with_the_adapter(directory, model, adapter):
    adapted = load(directory, device="cpu", adapter=adapter)
    by_hand = load_checkpoint(directory).model
    load_adapter(by_hand, adapter)
    assert torch.equal(random_logits(adapted.model), random_logits(by_hand))
    assert not torch.equal(random_logits(adapted.model), random_logits(model.model))
    assert adapted.ocr(picture(), max_tokens=2).task == "ocr"
    assert (adapted.adapter_path, adapted.dtype) == (adapter, torch.float32)
    assert str(adapter) in repr(adapted)
    assert model.adapter_path is None


def test_the_adapters_directory_is_a_name_too(directory, adapter):
    alone = load(adapter, device="cpu")
    assert torch.equal(random_logits(alone.model), random_logits(load(directory, device="cpu", adapter=adapter).model))
    assert base_and_adapter(adapter) == base_and_adapter(directory, None, adapter) == (directory, adapter)
    with pytest.raises(UsageError, match="is an adapter itself"):
        load(adapter, adapter=adapter)


def test_the_adapters_resolution_is_the_models(directory, tmp_path):
    adapter = write_adapter(directory, tmp_path / "adapter", px=84)
    adapted = load(directory, device="cpu", adapter=adapter)
    assert adapted.config.vision.image_size_px == adapted.processor.image_size_px == 84
    assert adapted.processor.num_image_tokens == 36
    assert adapted.ocr(picture(), max_tokens=2).task == "ocr"
    with pytest.raises(CheckpointError, match="trained on pictures of 84 px, but this model takes 56 px"):
        load_adapter(load_checkpoint(directory).model, adapter)


def test_an_unknown_adapter_is_never_the_base_alone(directory):
    with pytest.raises(UnavailableError, match="there is no adapter"):
        load(directory, device="cpu", adapter="nowhere")
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        load(directory, device="cpu", adapter=directory)


def copy_with(adapter, target, **changes):
    shutil.copytree(adapter, target)
    file = target / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return target


def test_an_adapter_without_a_base_does_not_load_alone(directory, adapter, tmp_path):
    orphan = copy_with(adapter, tmp_path / "orphan", base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match="does not name its base"):
        load(orphan, device="cpu")
    load(directory, device="cpu", adapter=orphan)
    lost = copy_with(adapter, tmp_path / "lost", base_model_name_or_path="./gone")
    with pytest.raises(UnavailableError, match="gone"):
        load(lost, device="cpu")


def test_another_base_is_refused_unless_allowed(directory, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    changed = load_checkpoint(directory).model
    with torch.no_grad():
        changed.projector.weight.mul_(1.5)
    save(changed, other, overwrite=True)
    adapter = write_adapter(other, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=rf"trained on {other}.*this is {directory}"):
        load(directory, device="cpu", adapter=adapter)
    assert load(directory, device="cpu", adapter=adapter, any_base=True).adapter_path == adapter


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_base_is_known_in_every_type(directory, adapter, dtype):
    adapted = load(directory, device="cpu", dtype=dtype, adapter=adapter)
    assert adapted.dtype == getattr(torch, dtype)
    assert adapted.model.language_model.layers[0].mlp.up_proj.lora_A.dtype == torch.float32


def test_a_calibration_beside_the_adapter_comes_first(directory, adapter, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(directory, base)
    (base / "calibration.json").write_text('{"temperature": 2.0}')
    mine = tmp_path / "mine"
    shutil.copytree(adapter, mine)
    assert load(base, device="cpu", adapter=mine).calibration == Calibration(temperature=2.0)
    (mine / "calibration.json").write_text('{"temperature": 3.0}')
    assert load(base, device="cpu", adapter=mine).calibration == Calibration(temperature=3.0)
