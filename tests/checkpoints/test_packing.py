"""A checkpoint packed while it is loaded: which matrices, from which files, in how much memory; the same answers."""

import json
import subprocess
import sys

import pytest
import torch

from paligemma.checkpoints import convert, load_checkpoint, save
from paligemma.checkpoints.load import open_checkpoint
from paligemma.checkpoints.packing import build_packed
from paligemma.checkpoints.parts import methods_of
from paligemma.checkpoints.tensors import empty_model
from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.errors import CheckFailed
from paligemma.linear.packed import METHODS, PackedEmbedding, PackedLinear

NEAR = {"int8": 0.05, "int4": 0.4, "nf4": 0.4, "fp8": 0.15}  # of the logits, relative; random weights forgive nothing


def tiny(width=64, mlp=136):
    vision = VisionConfig(image_size_px=28, patch_size_px=14, width=width, depth=2, mlp_dim=mlp, num_heads=2)
    text = TextConfig(
        width=width, depth=2, mlp_dim=mlp, num_heads=2, num_kv_heads=1, head_dim=32, vocab_size=300, post_norms=True,
        attn_logit_softcap=50.0, final_logit_softcap=30.0,
    )  # fmt: skip
    return Config(vision=vision, text=text)


@pytest.fixture(scope="module")
def plain():
    model = empty_model(tiny()).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if "norm" in name else 0.1))
    return model.eval()


@pytest.fixture(scope="module")
def directory(plain, tmp_path_factory):
    target = tmp_path_factory.mktemp("hf")
    save(plain, target, dtype="float32")
    return target


def logits(model):
    tokens = torch.tensor([[-1] * 4 + [2, 17, 45, 299]])
    with torch.inference_mode():
        return model(tokens, torch.linspace(-1, 1, 3 * 28 * 28).view(1, 3, 28, 28))


@pytest.mark.parametrize("method", METHODS)
def test_all_parts_of_it_answer_nearly_the_same(directory, plain, method):
    model, report = build_packed(open_checkpoint(directory), torch.float32, methods_of(method))
    expected = logits(plain)
    found = logits(model)[..., : expected.shape[-1]]
    assert float((found - expected).norm() / expected.norm()) < NEAR[method]
    packed = {name: layer for name, layer in model.named_modules() if isinstance(layer, PackedLinear)}
    assert list(packed) == sorted(packed, key=[row.name for row in report.rows].index)
    assert isinstance(packed["language_model.embed_tokens"], PackedEmbedding)
    assert "projector" not in packed
    assert len(packed) == 2 * 6 + 2 * 7 + 1
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert all(row.error is not None and 0 < row.error < 0.15 for row in report.rows)
    assert "language_model.layers.1.mlp.down_proj" in report.to_text()


def test_only_the_parts_named(directory):
    model, report = build_packed(open_checkpoint(directory), torch.bfloat16, {"lm": "int4"})
    assert all(row.name.startswith("language_model.layers.") for row in report.rows)
    assert model.language_model.embed_tokens.weight.dtype == torch.bfloat16
    assert model.projector.weight.dtype == torch.bfloat16


def test_int8_files_give_their_codes(directory, tmp_path):
    convert(directory, tmp_path, format="int8")
    from_plain, _ = build_packed(open_checkpoint(directory), torch.float32, methods_of("int8"))
    from_codes, report = build_packed(open_checkpoint(tmp_path), torch.float32, methods_of("int8"))
    assert all(row.error is None for row in report.rows)
    name = "language_model.layers.0.mlp.up_proj"
    assert torch.equal(from_plain.get_submodule(name).codes, from_codes.get_submodule(name).codes)
    four, _ = build_packed(open_checkpoint(tmp_path), torch.float32, methods_of("int4"))
    assert four.get_submodule(name).method == "int4"


def test_another_resolution_resamples_the_positions(directory):
    model, _ = build_packed(open_checkpoint(directory), torch.float32, {"lm": "int8"}, image_size_px=56)
    assert model.vision_tower.position_embedding.shape == (16, 64)


def test_numbers_that_are_none_are_refused(plain, tmp_path):
    with torch.no_grad():
        weight = plain.language_model.layers[1].mlp.up_proj.weight
        kept = weight[3, 3].clone()
        weight[3, 3] = float("nan")
        try:
            save(plain, tmp_path, dtype="float32")
        finally:
            weight[3, 3] = kept
    with pytest.raises(CheckFailed, match=r"layers\.1\.mlp\.up_proj.* cannot be quantised"):
        build_packed(open_checkpoint(tmp_path), torch.float32, {"lm": "int8"})


PEAK = """
import json, sys, torch
from paligemma.checkpoints.load import open_checkpoint
from paligemma.checkpoints.packing import build_packed
from paligemma.checkpoints.parts import methods_of
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
opened = open_checkpoint(__import__("pathlib").Path(sys.argv[1]))
build_packed(opened, torch.bfloat16, {"vision": "int8"})
before = peak()
model, report = build_packed(opened, torch.bfloat16, methods_of(sys.argv[2]))
print(json.dumps([peak() - before, sum(p.numel() * p.itemsize for p in model.parameters())]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["int8", "int4"])
def test_little_memory_beside_the_codes(tmp_path, method):
    model = empty_model(tiny(width=512, mlp=16384)).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    save(model, tmp_path, dtype="bfloat16")  # 125 MB of matrices
    del model
    said = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), method], capture_output=True, text=True, check=True
    )
    grown, held = json.loads(said.stdout)
    assert held < 100e6
    assert grown < 1.15 * held + 24 * 2**20


def test_a_plain_checkpoint_stays_plain(directory):
    model = load_checkpoint(directory).model
    assert not any(isinstance(layer, PackedLinear) for layer in model.modules())
