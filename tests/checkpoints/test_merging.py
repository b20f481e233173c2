"""A merged checkpoint computes what base and adapter compute, and never takes the place of either."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.adapters import write_adapter

from paligemma.checkpoints import find_codec, load_checkpoint, resolve, save
from paligemma.checkpoints.adapters import load_adapter
from paligemma.checkpoints.conversion import random_logits
from paligemma.checkpoints.merging import merge, merge_in_place
from paligemma.errors import CheckpointError, UsageError
from paligemma.linear.lora import LoraLinear
from paligemma.linear.quantized import Nf4Linear
from paligemma.linear.swap import linears, matching, swap_linears

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(scope="module", params=["hf-pg1-tiny", "hf-pg2-tiny"])
def base(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / request.param / name, directory)
    shutil.copy(GOLDEN / "processor" / "tok-added" / "tokenizer.json", directory)
    shutil.copy(find_codec(resolve("nano")), directory)
    (directory / "calibration.json").write_text('{"temperature": 2.0}')
    return directory


@pytest.mark.parametrize("lora", [{}, {"dora": True, "where": ("all-linear",)}, {"rslora": True, "where": ("vision",)}])
def test_the_logits_stay(base, lora, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter", **lora)
    report = merge(base, adapter, tmp_path / "merged")
    assert report.close
    assert report.adapter_effect > 0.1
    assert report.max_logits_difference < 1e-4 * max(1, report.largest_logit)
    together = load_checkpoint(base).model
    load_adapter(together, adapter)
    assert report.layers == sum(isinstance(layer, LoraLinear) for _, layer in linears(together))
    alone = load_checkpoint(tmp_path / "merged").model
    torch.testing.assert_close(random_logits(alone), random_logits(together), rtol=1e-4, atol=1e-4)


def test_the_adapters_resolution_is_kept(base, tmp_path):
    assert merge(base, write_adapter(base, tmp_path / "adapter", px=84), tmp_path / "merged").close
    merged = load_checkpoint(tmp_path / "merged")
    assert merged.config.vision.image_size_px == merged.image.size_px == 84


def test_everything_that_belongs_to_a_model_goes_along(base, tmp_path):
    report = merge(base, write_adapter(base, tmp_path / "adapter"), tmp_path / "merged", dtype="bfloat16")
    assert load_checkpoint(tmp_path / "merged").dtype == torch.bfloat16
    assert report.close
    assert report.max_logits_difference > 0
    for name in ("tokenizer.json", "mask_codec.npz", "calibration.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()
        assert tmp_path / "merged" / name in report.files
    assert report.num_bytes == sum(path.stat().st_size for path in report.files)


def test_neither_base_nor_adapter_is_overwritten(base, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter")
    for target in (base, adapter, base / ".." / base.name):
        with pytest.raises(UsageError, match="holds what is to be merged"):
            merge(base, adapter, target, overwrite=True)
    merge(base, adapter, tmp_path / "merged")
    with pytest.raises(UsageError, match="already holds"):
        merge(base, adapter, tmp_path / "merged")
    merge(base, adapter, tmp_path / "merged", overwrite=True)


def test_a_quantised_base_is_refused(base, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter")
    few_bits = tmp_path / "few-bits"
    shutil.copytree(base, few_bits)
    config = json.loads((base / "config.json").read_text())
    (few_bits / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(CheckpointError, match="quantised checkpoint"):
        merge(few_bits, adapter, tmp_path / "merged")
    model = load_checkpoint(base).model
    swap_linears(model, Nf4Linear.from_linear, matching(r".*\.mlp\..*"))
    load_adapter(model, adapter, any_base=True)
    with pytest.raises(UsageError, match="unquantised base"):
        merge_in_place(model)


def test_another_base_is_refused_unless_allowed(base, tmp_path):
    shutil.copytree(base, tmp_path / "other")
    model = load_checkpoint(base).model
    with torch.no_grad():
        model.projector.weight.mul_(2)
    save(model, tmp_path / "other", overwrite=True)
    adapter = write_adapter(tmp_path / "other", tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="was trained on"):
        merge(base, adapter, tmp_path / "merged")
    assert merge(base, adapter, tmp_path / "merged", any_base=True).close


def test_without_an_adapter_there_is_nothing_to_merge(base):
    with pytest.raises(UsageError, match="nothing to merge"):
        merge_in_place(load_checkpoint(base).model)
