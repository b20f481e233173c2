"""Which layers can be run as one call, and that each branch computes the same; numbers are judged in test_cpu_stack."""

from dataclasses import replace

import pytest
import torch

from paligemma.linear.packed import PackedLinear
from paligemma.native import Coded, Layer, Stack, fits
from paligemma.native import build as building

WIDTH, HEADS, HEAD_DIM, MLP, SLOTS = 96, 4, 16, 200, 9


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(seed, method="int4", **changes):
    sizes = {
        "q": (HEADS * HEAD_DIM, WIDTH), "k": (2 * HEAD_DIM, WIDTH), "v": (2 * HEAD_DIM, WIDTH),
        "o": (WIDTH, HEADS * HEAD_DIM), "gate": (MLP, WIDTH), "up": (MLP, WIDTH), "down": (WIDTH, MLP),
    }  # fmt: skip
    weights = {name: numbers(*size, seed=seed + i) * 0.1 for i, (name, size) in enumerate(sizes.items())}
    made = {
        name: Coded.plain(weight) if method == "plain" else PackedLinear.pack(method, weight).coded
        for name, weight in weights.items()
    }
    norms = {"pre_attention": numbers(WIDTH, seed=seed), "pre_ffw": numbers(WIDTH, seed=seed + 1)}
    return Layer(**{**norms, "post_attention": None, "post_ffw": norms["pre_ffw"], "window": None, **made, **changes})


def test_layers_must_be_alike():
    one, other = layer(0), layer(9)
    assert fits([one, other])
    assert fits([one, replace(other, window=4, post_ffw=None)])
    assert not fits([one, layer(9, "int8")])
    assert fits([layer(0, "plain"), layer(9, "plain")])
    assert not fits([one, layer(9, "plain")])
    assert not fits([replace(one, k=layer(9, "plain").k)])
    assert not fits([replace(one, up=layer(9, "int8").up)])  # another group
    assert not fits([replace(one, k=one.down)])
    assert not fits([one, replace(other, up=one.q, gate=one.q)])


@pytest.mark.parametrize("method", ["int4", "plain"])
@torch.inference_mode()
def test_branches_agree(tmp_path, method):
    layers = [layer(0, method), layer(20, method)]
    stack = Stack(layers, numbers(WIDTH, seed=1), eps=1e-6, num_heads=HEADS, scale=0.25, softcap=5.0)
    found = []
    for options in ((), ("-DNO_AVX512",), ("-DNO_AVX512", "-DNO_AVX2")):
        try:
            library = building.build(tmp_path, *options)
        except building._NotBuilt as why:
            pytest.skip(str(why))
        keys, values = ([numbers(3, 2, SLOTS, HEAD_DIM, seed=i + j) for i in range(2)] for j in (0, 5))
        slot, key = torch.tensor([[4, 5], [2, 3]]), torch.arange(6)[None].expand(2, -1)
        marks = (slot, slot, key, key, torch.ones(2, 6, dtype=torch.bool))
        angles = numbers(2, 1, 2, HEAD_DIM // 2)
        x = numbers(2, 2, WIDTH, seed=3)
        hidden = stack.run(library, x, angles.cos(), angles.sin(), keys, values, slot, marks, first=1, stop=6)
        assert not torch.equal(keys[0][1, :, 4], numbers(3, 2, SLOTS, HEAD_DIM)[1, :, 4])
        assert torch.equal(keys[0][0], numbers(3, 2, SLOTS, HEAD_DIM)[0])
        found.append(torch.cat([hidden.flatten(), *(one.flatten() for one in (*keys, *values))]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=2e-2, atol=2e-2)


@torch.inference_mode()
def test_slots_outside_the_buffers_are_refused():
    stack = Stack([layer(0)], numbers(WIDTH), eps=1e-6, num_heads=HEADS, scale=0.25, softcap=None)
    keys = [torch.zeros(1, 2, SLOTS, HEAD_DIM)]
    slot, key = torch.tensor([[SLOTS]]), torch.arange(4)[None]
    marks = (slot, slot, key, key, torch.ones(1, 4, dtype=torch.bool))
    angles = torch.zeros(1, 1, 1, HEAD_DIM // 2)
    with pytest.raises(AssertionError, match="slot"):
        stack.run(None, numbers(1, 1, WIDTH), angles, angles, keys, keys, slot, marks, first=0, stop=4)
