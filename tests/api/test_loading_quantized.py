"""load(quantize=...): the bundled model in fewer bits says the same, and says how far its matrices are off."""

import pytest
import torch
from tests.adapters import write_adapter
from tests.oracle import draw_model

import paligemma
from paligemma.api.calibrating import save_calibration
from paligemma.checkpoints import convert, find_codec, find_tokenizer, resolve, save
from paligemma.checkpoints import quantize as write_quantized
from paligemma.checkpoints.conversion import random_logits
from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.errors import CheckpointError, UsageError
from paligemma.linear.lora import LoraLinear
from paligemma.metrics import Calibration

PICTURE = "examples/scene2.png"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The bundled model as others come: in floats, which its own file has in int8 already."""
    folder = tmp_path_factory.mktemp("source") / "nano"
    convert("nano", folder, format="hf")
    save_calibration(Calibration(temperature=1.2, shift=0.1, examples=50), folder)
    return folder


@pytest.fixture(scope="module")
def plain(source):
    return paligemma.load(source)


@pytest.mark.parametrize("quantize", ["int8", "int4", "nf4", {"lm": "int4", "head": "int8"}])
def test_the_same_answers(source, plain, quantize):
    model = paligemma.load(source, quantize=quantize)
    question = "how many cats are there?"
    assert str(model.ask(PICTURE, question)) == str(plain.ask(PICTURE, question))
    found, expected = model.detect(PICTURE, ["cat"]), plain.detect(PICTURE, ["cat"])
    assert len(found) == len(expected)
    assert model.packed is not None
    assert all(row.error < 0.12 for row in model.packed.rows)
    assert f"{len(model.packed.rows)} matrices" in str(model.packed)
    assert model.dtype == plain.dtype


def test_codes_of_a_file_in_int8_are_taken_as_they_are():
    model = paligemma.load("nano", quantize="int8")
    assert model.packed is not None
    assert all(row.error is None for row in model.packed.rows)
    assert torch.equal(random_logits(model.model), random_logits(paligemma.load("nano", quantize="int8").model))


def test_unquantised_it_says_nothing(plain):
    assert plain.packed is None


def test_another_word_is_refused():
    with pytest.raises(UsageError, match="int5"):
        paligemma.load(quantize="int5")


@pytest.mark.parametrize("quantize", ["int8", "lm=int4,head=int8"])
def test_a_quantised_directory_is_the_source_in_fewer_bits(source, tmp_path, quantize):
    write_quantized(source, tmp_path / "q", method=quantize)
    expected, found = paligemma.load(source, quantize=quantize), paligemma.load(tmp_path / "q")
    assert torch.equal(random_logits(found.model), random_logits(expected.model))
    told, wanted = found.detect(PICTURE, ["cat"]).to_dict(), expected.detect(PICTURE, ["cat"]).to_dict()
    assert {key for key in told if told[key] != wanted[key]} <= {"model", "timing"}
    assert (found.dtype, found.calibration) == (expected.dtype, expected.calibration)
    assert found.calibration is not None
    assert found.packed.to_text() == expected.packed.to_text()
    assert (tmp_path / "q" / "mask_codec.npz").read_bytes() == find_codec(resolve("nano")).read_bytes()


def test_the_bundled_model_can_be_written_in_fewer_bits(tmp_path):
    write_quantized("nano", tmp_path / "q", method="int4")
    assert paligemma.load(tmp_path / "q").detect(PICTURE, ["cat"]).raw.count("<loc") % 4 == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two models of other weights and an adapter of the first."""
    vision = VisionConfig(image_size_px=28, patch_size_px=14, width=32, depth=1, mlp_dim=64, num_heads=2)
    text = TextConfig(width=64, depth=2, mlp_dim=96, num_heads=2, num_kv_heads=1, head_dim=32, vocab_size=4096)
    folder = tmp_path_factory.mktemp("small")
    for seed in (0, 1):
        save(
            draw_model(Config(vision=vision, text=text), seed),
            folder / str(seed),
            tokenizer_path=find_tokenizer("nano"),
        )
        write_quantized(folder / str(seed), folder / f"q{seed}", method="int4")
    return folder, write_adapter(folder / "0", folder / "adapter", where=("lm",))


def test_an_adapter_of_the_source_is_at_home(small):
    folder, adapter = small
    found = paligemma.load(folder / "q0", adapter=adapter, device="cpu")
    expected = paligemma.load(folder / "0", adapter=adapter, quantize="int4", device="cpu")
    assert any(isinstance(layer, LoraLinear) for layer in found.model.modules())
    assert torch.equal(random_logits(found.model), random_logits(expected.model))
    with pytest.raises(CheckpointError):
        paligemma.load(folder / "q1", adapter=adapter, device="cpu")


def test_a_quantised_directory_keeps_its_methods(small):
    folder, _ = small
    assert paligemma.load(folder / "q0", quantize="int4", device="cpu").packed is not None
    with pytest.raises(UsageError, match="is quantised already, as vision=int8,lm=int4,head=int4, and"):
        paligemma.load(folder / "q0", quantize="int8", device="cpu")
