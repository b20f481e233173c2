"""Few rows times large matrices on a CPU: the same numbers as PyTorch's, and left alone where they do not apply."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.engine import Engine, Sampling, generate_slowly
from paligemma.model import PaliGemmaModel, cpu_kernels
from paligemma.model.fused import linear_kernels, plain, product_kernels, vocabulary_kernels
from paligemma.native import library, takes_many

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler")
WIDTH, OUT = 512, 600


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@torch.inference_mode()
def test_products(dtype, rows):
    x, weights = numbers(rows, 1, WIDTH, dtype=dtype), [numbers(OUT, WIDTH, seed=i, dtype=dtype) for i in (1, 2, 3)]
    assert product_kernels(x, *weights) is cpu_kernels
    tolerance = {"rtol": 2e-2, "atol": 0.2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    expected = torch.cat([F.linear(x, weight) for weight in weights], dim=-1)
    torch.testing.assert_close(torch.cat(list(cpu_kernels.products(x, *weights)), dim=-1), expected, **tolerance)
    gated = F.gelu(F.linear(x, weights[0]), approximate="tanh") * F.linear(x, weights[1])
    found = cpu_kernels.gated(x, *weights[:2])
    assert found.dtype == dtype
    assert float((found - gated).float().norm() / gated.float().norm()) < 0.01


def test_where_they_do_not_apply(monkeypatch):
    x, weight, layer = numbers(1, WIDTH), numbers(OUT, WIDTH), torch.nn.Linear(WIDTH, OUT, bias=False)
    assert product_kernels(x, weight) is None  # gradients are on
    with torch.inference_mode():
        assert product_kernels(x, weight) is cpu_kernels
        assert linear_kernels(x, layer) is cpu_kernels
        assert linear_kernels(x, torch.nn.Linear(WIDTH, OUT)) is cpu_kernels  # and a bias
        assert linear_kernels(x, torch.nn.Sequential(layer)) is None
        assert product_kernels(numbers(5, WIDTH), weight) is None  # float32
        half = numbers(5, WIDTH).bfloat16(), weight.bfloat16()
        assert (product_kernels(*half) is cpu_kernels) == takes_many(WIDTH, OUT)
        assert product_kernels(x, weight, weight[:8]) is None  # too small
        assert product_kernels(x.half(), weight.half()) is None
        assert product_kernels(x, weight.bfloat16()) is None
        assert product_kernels(numbers(1, OUT), weight.T) is None
        with plain():
            assert product_kernels(x, weight) is None
        monkeypatch.setattr(cpu_kernels, "library", lambda: None)
        assert product_kernels(x, weight) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_a_vocabulary_are_capped(dtype):
    scores = numbers(2, cpu_kernels.VOCABULARY, dtype=dtype) * 40
    expected = 30.0 * torch.tanh(scores / 30.0)
    assert vocabulary_kernels(scores) is None  # gradients are on
    with torch.inference_mode():
        assert vocabulary_kernels(scores) is cpu_kernels
        assert vocabulary_kernels(scores[:, 1:]) is None  # too few
        with plain():
            assert vocabulary_kernels(scores) is None
        capped = cpu_kernels.softcap(scores, 30.0)
    torch.testing.assert_close(capped, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert (capped == expected).float().mean() > (0.99 if dtype == torch.bfloat16 else 0.3)


def wide(dtype):
    """A model whose rows and matrices are large enough for the kernels."""
    vision = VisionConfig(image_size_px=28, patch_size_px=14, width=32, depth=1, mlp_dim=64, num_heads=2)
    text = TextConfig(
        width=256, depth=2, mlp_dim=1024, num_heads=4, num_kv_heads=1, head_dim=256, vocab_size=1100, post_norms=True,
        attn_logit_softcap=50.0, final_logit_softcap=30.0, sliding_window=6,
    )  # fmt: skip
    model = PaliGemmaModel(Config(vision=vision, text=text))
    for i, parameter in enumerate(model.parameters()):
        parameter.data = numbers(*parameter.shape, seed=i) * (0.2 if parameter.ndim == 1 else 0.08)
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_tokens_are_those_of_the_oracle(dtype):
    model = wide(dtype)
    no_picture = {"pixels": None, "features": None}
    prompts = [
        SimpleNamespace(tokens=torch.arange(2, 2 + n), mask_ar=torch.zeros(n, dtype=torch.int64), **no_picture)
        for n in (3, 9, 5)
    ]
    with plain():
        slow = [generate_slowly(model.float(), prompt, 8, eos_ids=[1]) for prompt in prompts]
    model.to(dtype)
    engine, sampling = Engine(model, eos_id=1), Sampling(max_tokens=8)
    if dtype == torch.float32:
        together = [answer.tokens for answer in engine.generate(prompts, sampling)]
        assert together == slow
        assert [engine.generate([prompt], sampling)[0].tokens for prompt in prompts] == slow
    else:
        found = [engine.generate([prompt], sampling)[0] for prompt in prompts]
        with plain():
            expected = [engine.generate([prompt], sampling)[0] for prompt in prompts]
        assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=0.05)
