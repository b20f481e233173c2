"""Layers that wait elsewhere: the same tokens, a copy a turn, only two places. On a CPU a copy is a copy too."""

import pytest
import torch
from tests.oracle import EOS, TINY, draw_model

from paligemma.engine import Engine, Sampling, generate_slowly
from paligemma.errors import UsageError
from paligemma.linear.packed import PackedLinear
from paligemma.model.layers import AttentionMask, at
from paligemma.model.offload import PLACES, is_streamed, stream_layers
from paligemma.processor import Encoded

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")]
    ),
]


def prompts(count=4):
    rows = []
    for length in range(3, 3 + count):
        tokens = torch.randint(3, 40, (length,), generator=torch.Generator().manual_seed(length))
        zeros = torch.zeros_like(tokens)
        rows.append(Encoded(tokens=tokens, pixels=None, mask_ar=zeros, mask_loss=zeros))
    return rows


def hidden(model, tokens):
    mask = AttentionMask.prefix_lm(torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool))
    with torch.inference_mode():
        return model.decode(model.embed(tokens), mask)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("all_of_them", [True, False])
def test_the_same_tokens(generation, all_of_them, device):
    model, asked = draw_model(TINY[generation]), prompts()
    want = [generate_slowly(model, prompt, 8, eos_ids=(EOS,)) for prompt in asked]
    streamed = stream_layers(model, torch.device(device), TINY[generation].text.depth if all_of_them else 2)
    assert is_streamed(model)
    found = Engine(model, eos_id=EOS).generate(asked, Sampling(max_tokens=8), batch_size=2)
    assert [one.tokens for one in found] == want
    assert streamed.copies


@pytest.mark.parametrize("count", [2, 3])
def test_each_turn_is_one_copy(count):
    """Of two layers both stay in their places; of more, each is copied for each pass."""
    model, tokens = draw_model(TINY[2]), torch.randint(3, 40, (2, 5))
    want = hidden(model, tokens)
    streamed = stream_layers(model, torch.device("cpu"), count)
    assert streamed.layer_bytes == sum(p.nbytes for p in model.language_model.layers[-1].parameters())
    for times in range(1, 4):
        assert torch.equal(hidden(model, tokens), want)
        assert streamed.copies == (PLACES if count == PLACES else count * times + 1)  # and the next one's, ahead


def test_layers_out_of_their_order_still_get_their_weights():
    """As when a prompt pauses between two layers and others go through all of them meanwhile."""
    model, tokens = draw_model(TINY[2]), torch.randint(3, 40, (2, 5))
    want = hidden(model, tokens)
    stream_layers(model, torch.device("cpu"), 3)
    mask = AttentionMask.prefix_lm(torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool))
    with torch.inference_mode():
        ends = torch.tensor([4, 3])
        paused = model.language_model.in_steps(model.embed(tokens), mask.query_position, mask, None, ends)
        for _ in range(2):
            next(paused)
            assert torch.equal(hidden(model, tokens), want)
        last = list(paused)[-1]
    assert torch.allclose(last, at(want, ends), atol=1e-6)


def test_weights_are_only_in_the_host_and_in_two_places():
    """What is spoilt there is brought anew; what is spoilt in the host is gone."""
    model, tokens = draw_model(TINY[2]), torch.randint(3, 40, (2, 5))
    want = hidden(model, tokens)
    streamed = stream_layers(model, torch.device("cpu"), 3)
    for place in streamed.places:
        for tensor in place.values():
            tensor.fill_(torch.nan)
    assert torch.equal(hidden(model, tokens), want)
    for own in streamed.hosted[:2]:
        own["mlp.up_proj.weight"].zero_()
    hidden(model, tokens)
    assert not torch.equal(hidden(model, tokens), want)


def test_coded_layers_too():
    model, tokens = draw_model(TINY[2]), torch.randint(3, 40, (2, 5))
    for block in model.language_model.layers:
        block.mlp.up_proj = PackedLinear.pack("int4", block.mlp.up_proj.weight.detach())
    want = hidden(model, tokens)
    stream_layers(model, torch.device("cpu"), 3)
    assert torch.equal(hidden(model, tokens), want)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_numbers_of_layers_that_make_no_sense(count):
    with pytest.raises(UsageError, match="2 to 3 layers"):
        stream_layers(draw_model(TINY[2]), torch.device("cpu"), count)
