from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.oracle import TINY, collate, draw_model, draw_pair, draw_prompt, hf_inputs
from torch import Tensor

from paligemma.errors import InputError
from paligemma.model import AttentionMask, PaliGemmaModel, suffix_loss

GENERATIONS = [1, 2]


def draw_batch(generation: int, side: str = "left", seed: int = 0) -> SimpleNamespace:
    """Rows of other lengths, images and suffixes; prefixes and suffixes longer than the window of 6."""
    config = TINY[generation]
    rows = [(1, 5, 9), (2, 3, 2), (0, 7, 1), (1, 1, 4)]
    prompts = [
        draw_prompt(config, images, length, seed=100 * seed + i, suffix=range(4 + i, 4 + i + suffix))
        for i, (images, length, suffix) in enumerate(rows)
    ]
    return collate(prompts, side)


def run(model: PaliGemmaModel, batch: Any) -> Tensor:
    with torch.no_grad():
        return model(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_loss_equal_transformers(generation: int, seed: int, side: str) -> None:
    hf, ours = draw_pair(generation, seed)
    batch = draw_batch(generation, side, seed)
    labels = batch.tokens.masked_fill(batch.mask_loss == 0, -100)
    with torch.no_grad():
        want = hf(**hf_inputs(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input), labels=labels)
        hidden = ours.hidden(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)
        loss = suffix_loss(ours, hidden, batch.tokens, batch.mask_loss, per="token")
    real = batch.mask_input
    torch.testing.assert_close(run(ours, batch)[real], want.logits[real], atol=3e-5, rtol=0)
    torch.testing.assert_close(loss, want.loss, atol=1e-5, rtol=0)


def test_a_window_of_8_equals_transformers_and_matters() -> None:
    config = replace(TINY[2], text=replace(TINY[2].text, sliding_window=8))
    hf, ours = draw_pair(2, 4, config)
    prompt = draw_prompt(config, 2, 5, suffix=range(4, 16))  # a prefix of 14, a suffix of 12
    batch = collate([prompt], "left")
    with torch.no_grad():
        want = hf(**hf_inputs(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)).logits
    got = run(ours, batch)
    torch.testing.assert_close(got, want, atol=3e-5, rtol=0)

    unlimited = PaliGemmaModel(replace(config, text=replace(config.text, sliding_window=None))).eval()
    unlimited.load_state_dict(ours.state_dict())
    difference = (run(unlimited, batch) - got)[0].abs().amax(-1)
    assert difference[:14].max() == 0, "the prefix sees itself whole"
    assert difference[14:].min() > 1e-3, "every suffix token lost a part of the prefix"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_picture_sees_the_prompt_but_nothing_sees_the_suffix_ahead(generation: int) -> None:
    model = draw_model(TINY[generation])
    prompt = draw_prompt(TINY[generation], 1, 4, suffix=[5, 6, 7])

    def hidden(change: int | None = None) -> Tensor:
        tokens = prompt.tokens.clone()
        if change is not None:
            tokens[change] = 30
        with torch.no_grad():
            return model.hidden(tokens[None], prompt.pixels, prompt.mask_ar[None])[0]

    plain = hidden()
    by_prompt = (hidden(6) - plain).abs().amax(-1)
    assert by_prompt.min() > 1e-3, "a prompt token reaches every position, the image's too"
    by_suffix = (hidden(10) - plain).abs().amax(-1)  # the second of three suffix tokens
    assert by_suffix[:10].max() == 0
    assert by_suffix[10:].min() > 1e-3


@pytest.mark.parametrize("generation", GENERATIONS)
def test_padding_its_side_and_neighbours_change_nothing(generation: int) -> None:
    model = draw_model(TINY[generation])
    left, right = draw_batch(generation, "left"), draw_batch(generation, "right")
    got_left, got_right = run(model, left), run(model, right)
    rows = [(1, 5, 9), (2, 3, 2), (0, 7, 1), (1, 1, 4)]
    for i, (images, length, suffix) in enumerate(rows):
        prompt = draw_prompt(TINY[generation], images, length, seed=i, suffix=range(4 + i, 4 + i + suffix))
        alone = run(model, collate([prompt], "left"))[0]
        torch.testing.assert_close(got_left[i][left.mask_input[i]], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(got_right[i][right.mask_input[i]], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_stands_in_padding_does_not_matter(generation: int) -> None:
    model, batch = draw_model(TINY[generation]), draw_batch(generation)
    plain = run(model, batch)
    batch.tokens = batch.tokens.masked_fill(~batch.mask_input, 17)
    assert torch.equal(run(model, batch)[batch.mask_input], plain[batch.mask_input])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_positions_may_start_anywhere(generation: int) -> None:
    model, batch = draw_model(TINY[generation]), draw_batch(generation)
    with torch.no_grad():
        x = model.embed(batch.tokens, model.encode_images(batch.pixels))
        mask = AttentionMask.prefix_lm(batch.mask_ar, batch.mask_input)
        moved = [model.language_model(x, mask.query_position + first, mask) for first in (0, 1, 1000)]
    torch.testing.assert_close(moved[1], moved[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[2], moved[0], atol=3e-4, rtol=0)  # float32 angles beyond 1000


def test_images_fill_their_slots_in_order() -> None:
    model = draw_model(TINY[2])
    two = draw_prompt(TINY[2], 2, 3)
    features = model.encode_images(two.pixels)
    x = model.embed(two.tokens[None], features)[0]
    assert torch.equal(x[:8], features.flatten(0, 1)), "unscaled, in order"
    text = model.language_model.embed_tokens.weight[two.tokens[8:]] * TINY[2].text.width ** 0.5
    torch.testing.assert_close(x[8:], text)
    swapped = run(model, SimpleNamespace(**{**vars(collate([two], "left")), "pixels": two.pixels.flip(0)}))
    assert (swapped - run(model, collate([two], "left"))).abs().max() > 1e-2


def test_sixteen_frames_equal_transformers() -> None:
    hf, ours = draw_pair(2, 1)
    batch = collate([draw_prompt(TINY[2], 16, 3, suffix=[4, 5])], "left")
    with torch.no_grad():
        want = hf(**hf_inputs(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)).logits
    torch.testing.assert_close(run(ours, batch), want, atol=3e-5, rtol=0)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_parameter_gets_a_gradient(generation: int) -> None:
    model, batch = draw_model(TINY[generation]), draw_batch(generation)
    hidden = model.hidden(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)
    suffix_loss(model, hidden, batch.tokens, batch.mask_loss).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in without if not name.endswith("k_proj.bias")] == []  # softmax ignores a key bias


def test_slots_and_features_must_match() -> None:
    model = draw_model(TINY[1])
    prompt = draw_prompt(TINY[1], 1, 3)
    with pytest.raises(InputError, match="4 image slots but 8 image features"):
        model(prompt.tokens[None], prompt.pixels.repeat(2, 1, 1, 1))
    with pytest.raises(InputError, match="4 image slots but 0 image features"):
        model(prompt.tokens[None])


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"takes \[I, 3, 8, 8\]"):
        draw_model(TINY[1]).encode_images(torch.zeros(1, 3, 12, 12))
