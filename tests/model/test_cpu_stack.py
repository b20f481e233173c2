"""All layers of few rows in one call: the numbers of the layers one by one, which stay in use for what is unusual."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.engine import Engine, Sampling
from paligemma.linear.lora import Lora, LoraLinear
from paligemma.linear.packed import PackedLinear
from paligemma.linear.swap import matching, swap_linears
from paligemma.model import PaliGemmaModel, cpu_kernels, cpu_stack, fused
from paligemma.model.fused import plain, stack_kernels
from paligemma.model.gemma import LanguageModel
from paligemma.model.layers import AttentionMask
from paligemma.native import library, products

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler")
METHODS = ("int8", "int4", "nf4")  # whose codes lie in panels
PLAIN = "plain"  # no codes
PARTS = {"sliding_window": st.sampled_from([None, 3]), "attn_logit_softcap": st.sampled_from([None, 5.0])}


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def packed(method, dtype=torch.float32, **changes):
    """A small decoder with every matrix in codes, or as it is."""
    sizes = {"width": 256, "depth": 2, "mlp_dim": 320, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32}
    config = TextConfig(**{**sizes, "vocab_size": 40, "post_norms": True, "attn_logit_softcap": 50.0, **changes})
    model = LanguageModel(config)
    for i, parameter in enumerate(model.parameters()):
        parameter.data = numbers(*parameter.shape, seed=i) * (0.2 if parameter.ndim == 1 else 0.08)
    if method != PLAIN:
        swap_linears(model, lambda linear: PackedLinear.pack(method, linear.weight.detach()), matching(".*proj"))
    return model.to(dtype).eval()


class Cache:
    """Rows of different lengths, as the engine keeps them; by slots, for the layers one by one."""

    def __init__(self, config, lengths, tokens, dtype, seed=0):
        shape = (len(lengths) + 1, config.num_kv_heads, max(lengths) + tokens + 3, config.head_dim)
        both = [[numbers(*shape, seed=seed + 2 * i + j, dtype=dtype) for i in range(config.depth)] for j in (0, 1)]
        self.cache = SimpleNamespace(keys=both[0], values=both[1])
        self.slot = torch.tensor(lengths)[:, None] + torch.arange(tokens)
        self.stop, self.first = max(lengths) + tokens, 1

    def update(self, layer, k, v):
        found = []
        for buffer, new in ((self.cache.keys[layer], k), (self.cache.values[layer], v)):
            lines = buffer[self.first :]
            lines[torch.arange(len(new))[:, None], :, self.slot] = new.transpose(1, 2)
            found.append(lines[:, :, : self.stop])
        return found


def both_ways(model, lengths, tokens, seed=0):
    """(hidden states, cache) by one call, and layer by layer."""
    dtype, config = model.norm.weight.dtype, model.config
    x = numbers(len(lengths), tokens, config.width, seed=seed, dtype=dtype)
    found = []
    for one_call in (True, False):
        cache = Cache(config, lengths, tokens, dtype, seed)
        key = torch.arange(cache.stop)[None].expand(len(lengths), -1)
        mask = AttentionMask(cache.slot, cache.slot, key, key, torch.ones(len(lengths), cache.stop, dtype=torch.bool))
        with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
            if one_call:
                assert cpu_stack.take(model, x, cache)
            else:
                patch.setattr(cpu_stack, "ROWS", 0)
            found.append((model(x, cache.slot, mask, cache), cache))
    return found


def off(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


@settings(max_examples=30)
@given(
    method=st.sampled_from([*METHODS, PLAIN]), dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    width=st.integers(1, 330), mlp_dim=st.integers(1, 330), groups=st.integers(1, 3), kv=st.integers(1, 2),
    half=st.integers(1, 40), depth=st.integers(1, 3), post_norms=st.booleans(), parts=st.fixed_dictionaries(PARTS),
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4), seed=st.integers(0, 9), data=st.data(),
)  # fmt: skip
def test_any_shape(method, dtype, width, mlp_dim, groups, kv, half, depth, post_norms, parts, lengths, seed, data):
    model = packed(
        method, dtype, width=width, mlp_dim=mlp_dim, num_heads=groups * kv, num_kv_heads=kv, head_dim=2 * half,
        depth=depth, post_norms=post_norms, **parts,
    )  # fmt: skip
    most = products.PLAIN_ROWS if method == PLAIN else cpu_stack.ROWS
    tokens = data.draw(st.integers(1, most // len(lengths)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_kernels, "LARGE", 1)
        patch.setattr(cpu_kernels, "WIDE", 1)  # steps of any size are those of `native` too: the same bits
        (ours, cache), (expected, kept) = both_ways(model, lengths, tokens, seed)
    assert torch.equal(ours, expected)
    ours_kept, expected_kept = ((*one.cache.keys, *one.cache.values) for one in (cache, kept))
    assert all(torch.equal(one, other) for one, other in zip(ours_kept, expected_kept, strict=True))
    assert torch.equal(cache.cache.keys[0][0], kept.cache.keys[0][0])  # nobody's row


@pytest.mark.parametrize("method", [*METHODS, PLAIN])
def test_near_plain_pytorch(method):
    model = packed(method, mlp_dim=300)
    with pytest.MonkeyPatch.context() as patch:
        (ours, _), _ = both_ways(model, [4, 7], 2)
        patch.setattr(fused, "_wanted", False)
        patch.setattr(products, "library", lambda: None)
        patch.setattr(cpu_stack, "take", lambda *_: True)
        (_, _), (expected, _) = both_ways(model, [4, 7], 2)
    assert off(ours, expected) < 0.05  # inputs of products are rounded to 8 bits


@pytest.mark.parametrize("method", [*METHODS, PLAIN])
def test_threads_change_nothing(method):
    model, before = packed(method, torch.bfloat16), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(both_ways(model, [5, 2], 2)[0][0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


def taken(model, dtype=torch.float32, rows=1, cache=None):
    cache = cache or Cache(model.config, [3] * rows, 1, dtype)
    return cpu_stack.take(model, numbers(rows, 1, model.config.width, dtype=dtype), cache)


@torch.inference_mode()
def test_what_is_unusual_goes_layer_by_layer():
    model = packed("int4")
    assert taken(model)
    assert taken(model, rows=cpu_stack.ROWS)
    assert not taken(model, rows=cpu_stack.ROWS + 1)
    assert not taken(model, torch.bfloat16)  # norms are float32
    assert not taken(model, cache=Cache(model.config, [3], 1, torch.bfloat16))
    assert not taken(model, cache=SimpleNamespace(update=None))
    watched = model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: None)
    assert not taken(model)
    watched.remove()
    assert taken(model)
    plain_layer, mlp = torch.nn.Linear(256, 320, bias=False), model.layers[1].mlp
    coded, mlp.up_proj = mlp.up_proj, plain_layer
    assert not taken(model)
    mlp.up_proj = LoraLinear(coded, Lora(rank=2))
    assert not taken(model)
    mlp.up_proj = PackedLinear.pack("int8", plain_layer.weight)
    assert not taken(model)  # gate's inputs have other groups
    mlp.up_proj = PackedLinear.pack("int4", plain_layer.weight, numbers(320))
    assert not taken(model)  # has a bias
    mlp.up_proj = coded
    assert stack_kernels(model, numbers(1, 1, 256), Cache(model.config, [3], 1, torch.float32)) is cpu_stack
    with plain():
        assert stack_kernels(model, numbers(1, 1, 256), Cache(model.config, [3], 1, torch.float32)) is None


def test_gradients_go_layer_by_layer():
    assert not taken(packed("int4"))


@torch.inference_mode()
def test_exchanged_weights_are_noticed():
    model = packed("int8")
    (before, _), _ = both_ways(model, [4], 1)
    model.layers[1].self_attn.o_proj = PackedLinear.pack("int8", numbers(256, 128, seed=99) * 0.08)
    model.layers[0].pre_ffw_norm.weight.data = numbers(256, seed=98)
    (after, _), (expected, _) = both_ways(model, [4], 1)
    assert off(after, expected) < 1e-3
    assert off(before, after) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_answers_the_same_and_goes_this_way(dtype, monkeypatch):
    vision = VisionConfig(image_size_px=28, patch_size_px=14, width=32, depth=1, mlp_dim=64, num_heads=2)
    language_model = packed("int4", dtype, mlp_dim=320, head_dim=256, sliding_window=6)
    model = PaliGemmaModel(Config(vision=vision, text=language_model.config)).to(dtype).eval()
    model.language_model = language_model
    prompts = [
        SimpleNamespace(
            tokens=torch.arange(2, 2 + n), mask_ar=torch.zeros(n, dtype=torch.int64), pixels=None, features=None
        )
        for n in (3, 9, 5)
    ]
    engine, sampling, calls, run = Engine(model, eos_id=1), Sampling(max_tokens=8), [], cpu_stack.run
    monkeypatch.setattr(cpu_stack, "run", lambda *args: calls.append(args[1].shape[0]) or run(*args))
    found = engine.generate(prompts, sampling)
    assert max(calls) > 1
    assert len(calls) >= 7
    monkeypatch.setattr(cpu_stack, "ROWS", 0)
    expected = engine.generate(prompts, sampling)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-6)
