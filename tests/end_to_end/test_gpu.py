"""What only an accelerator can show; `make gpu-check` runs these."""

import warnings
from pathlib import Path

import pytest
import torch
from tests.oracle import EOS, TINY, draw_model

import paligemma
from paligemma.checkpoints import load_checkpoint, save
from paligemma.checkpoints.load import open_checkpoint
from paligemma.checkpoints.packing import build_packed
from paligemma.checkpoints.parts import methods_of
from paligemma.config import IMAGE_SLOT
from paligemma.engine import Engine, Sampling, generate_slowly
from paligemma.linear.cuda import has_fp8
from paligemma.linear.packed import METHODS, PackedEmbedding
from paligemma.processor import Encoded

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SCENE = Path(__file__).parents[2] / "examples" / "scene.png"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine"),
]


def prompts(count: int) -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in range(3, 3 + count):
        images = length % 3
        tokens = torch.cat(
            [torch.full((images * 4,), IMAGE_SLOT), torch.randint(3, 40, (length,), generator=generator)]
        )
        pixels = torch.rand(images, 3, 8, 8, generator=generator) * 2 - 1 if images else None
        rows.append(
            Encoded(tokens=tokens, pixels=pixels, mask_ar=torch.zeros_like(tokens), mask_loss=torch.zeros_like(tokens))
        )
    return rows


@pytest.mark.parametrize("generation", [1, 2])
def test_the_engine_gives_the_same_tokens_on_both_devices(generation):
    model, asked = draw_model(TINY[generation]), prompts(6)
    expected = [generate_slowly(model, prompt, 8, eos_ids=(EOS,)) for prompt in asked]
    engine = Engine(model.to("cuda"), eos_id=EOS)
    found = engine.generate(asked, Sampling(max_tokens=8), batch_size=4)
    assert [generation.tokens for generation in found] == expected


@pytest.mark.parametrize("name", ["hf-pg1-tiny", "hf-pg2-tiny"])
def test_logits_of_both_devices_agree(name):
    torch.backends.cuda.matmul.allow_tf32 = False
    model = load_checkpoint(GOLDEN / name, dtype=torch.float32).model
    side, slots = model.config.vision.image_size_px, model.config.vision.num_image_tokens
    tokens = torch.cat([torch.full((1, slots), IMAGE_SLOT), torch.arange(5, 25)[None]], dim=1)
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        on_cpu = model(tokens, pixels)
        on_gpu = model.to("cuda")(tokens.cuda(), pixels.cuda()).cpu()
    assert (on_cpu - on_gpu).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bundled_model_answers_the_same_there(dtype):
    here = paligemma.load(device="cpu", dtype="float32").caption(SCENE)
    there = paligemma.load(device="cuda", dtype=dtype).caption(SCENE)
    assert there.text == here.text


MIXED = Sampling(max_tokens=24)


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recorded_passes_give_the_same_tokens(generation, dtype):
    """In float32 to the oracle, in bfloat16 to the engine without recording; rows come and go meanwhile."""
    torch.backends.cuda.matmul.allow_tf32 = False
    model, asked = draw_model(TINY[generation]).to("cuda", dtype), prompts(11)
    recorded = Engine(model, eos_id=EOS).generate(asked, MIXED, batch_size=4)
    eager = Engine(model, eos_id=EOS, recorded=False).generate(asked, MIXED, batch_size=4)
    if dtype == torch.float32:
        want = [generate_slowly(model, prompt, 24, eos_ids=(EOS,)) for prompt in asked]
        assert [one.tokens for one in recorded] == want
    same = sum(a.tokens == b.tokens for a, b in zip(recorded, eager, strict=True))
    assert same >= len(asked) - (2 if dtype == torch.bfloat16 else 0)  # shapes round differently there


def test_compiled_passes_give_the_same_tokens():
    torch.backends.cuda.matmul.allow_tf32 = False
    model, asked = draw_model(TINY[2]).to("cuda"), prompts(5)
    want = [generate_slowly(model, prompt, 12, eos_ids=(EOS,)) for prompt in asked]
    found = Engine(model, eos_id=EOS, compiled=True).generate(asked, Sampling(max_tokens=12), batch_size=4)
    assert [one.tokens for one in found] == want


def test_a_second_call_records_nothing_new():
    model, asked = draw_model(TINY[2]).to("cuda"), prompts(6)
    engine = Engine(model, eos_id=EOS)
    first = engine.generate(asked, MIXED, batch_size=4)
    passes = dict(engine._pool.passes)
    second = engine.generate(asked, MIXED, batch_size=4)
    assert engine._pool.passes == passes
    assert [one.tokens for one in second] == [one.tokens for one in first]


def test_a_stream_says_what_generate_says():
    model, (prompt, *_) = draw_model(TINY[2]).to("cuda"), prompts(2)
    engine = Engine(model, eos_id=EOS)
    streamed = list(engine.stream(prompt, MIXED))
    whole = engine.generate([prompt], MIXED)[0]
    ids = [token.id for token in streamed if token.finish_reason != "stop"]
    assert ids == whole.tokens


def coded(method, directory, device):
    save(draw_model(TINY[2]).bfloat16(), directory, dtype="bfloat16")
    return build_packed(open_checkpoint(directory), torch.bfloat16, methods_of(method), device)[0]


@pytest.mark.parametrize("method", METHODS)
def test_coded_weights_say_nearly_what_they_decode_to(method, tmp_path):
    """Prompts go through the kernels for many rows, and scores beside the decoded weights in float32 on a CPU."""
    if METHODS[method].floats is not None and not has_fp8(torch.device("cuda")):
        pytest.skip("this card does not multiply such numbers")
    model, decoded = coded(method, tmp_path / "a", "cuda"), coded(method, tmp_path / "b", "cpu").float()
    for layer in decoded.modules():
        if isinstance(layer, PackedEmbedding):
            layer.dtype = torch.float32
    tokens = torch.arange(3, 33)[None]
    with torch.no_grad():
        want = decoded(tokens.repeat(2, 1))
        got = model(tokens.repeat(2, 1).cuda()).float().cpu()
    assert (got - want).norm() / want.norm() < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_recorded_passes_over_coded_weights(method, tmp_path):
    if METHODS[method].floats is not None and not has_fp8(torch.device("cuda")):
        pytest.skip("this card does not multiply such numbers")
    model, asked = coded(method, tmp_path / "a", "cuda"), prompts(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a pass that cannot be recorded warns
        recorded = Engine(model, eos_id=EOS).generate(asked, MIXED, batch_size=4)
    eager = Engine(model, eos_id=EOS, recorded=False).generate(asked, MIXED, batch_size=4)
    same = sum(a.tokens == b.tokens for a, b in zip(recorded, eager, strict=True))
    assert same >= len(asked) - 2  # shapes round differently
