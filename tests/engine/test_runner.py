from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.oracle import TINY, draw_model, draw_prompt
from torch import Tensor

from paligemma.engine import Runner
from paligemma.engine.runner import IMAGES_AT_ONCE, SPARE_SLOTS
from paligemma.errors import InputError
from paligemma.model import PaliGemmaModel

GENERATIONS = [1, 2]


def prompts_of(generation: int) -> list[Any]:
    """Other lengths, 0 to 2 images, one with the start of an answer."""
    shapes = [(1, 5, 0), (2, 3, 3), (0, 7, 0), (1, 1, 1)]
    return [
        draw_prompt(TINY[generation], images, length, seed=i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(shapes)
    ]


def last_logits(model: PaliGemmaModel, prompt: Any, more: list[int]) -> Tensor:
    """Without cache, batch and padding."""
    tokens = torch.cat((prompt.tokens, torch.tensor(more, dtype=torch.int64)))
    mask_ar = torch.cat((prompt.mask_ar, torch.ones(len(more), dtype=torch.int64)))
    with torch.no_grad():
        return model(tokens[None], prompt.pixels, mask_ar[None])[0, -1]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_cached_steps_of_a_mixed_batch_equal_uncached_rows_alone(generation: int) -> None:
    model, prompts = draw_model(TINY[generation]), prompts_of(generation)
    runner = Runner(model)
    batch, logits = runner.prefill(prompts, 9)
    said: list[list[int]] = [[] for _ in prompts]
    for step in range(10):  # beyond the window of 6
        for row, prompt in enumerate(prompts):
            want = last_logits(model, prompt, said[row])
            torch.testing.assert_close(logits[row], want, atol=2e-5, rtol=0)
        if step < 9:
            tokens = [(7 * step + 3 * row) % 40 for row in range(len(prompts))]
            said = [[*row, token] for row, token in zip(said, tokens, strict=True)]
            logits = runner.decode(batch, tokens)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_rows_may_fork_swap_and_leave(generation: int) -> None:
    model, prompts = draw_model(TINY[generation]), prompts_of(generation)
    runner = Runner(model)
    batch, _ = runner.prefill(prompts, 4)
    runner.decode(batch, [5, 6, 7, 8])
    batch.select([3, 1, 1])
    logits = runner.decode(batch, [9, 10, 11])
    for row, (prompt, said) in enumerate([(3, [8, 9]), (1, [6, 10]), (1, [6, 11])]):
        torch.testing.assert_close(logits[row], last_logits(model, prompts[prompt], said), atol=2e-5, rtol=0)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_rows_may_be_fed_chains_of_different_lengths(generation: int) -> None:
    """Far beyond the window of 6 and the slots there were at first; a fork does not disturb the batch it came from."""
    model, prompts = draw_model(TINY[generation]), prompts_of(generation)
    runner = Runner(model)
    batch, _ = runner.prefill(prompts, 8)
    said: list[list[int]] = [[] for _ in prompts]
    for turn in range(7):
        chains = [[(5 * turn + row + i) % 40 for i in range(1 + (turn + row) % 4 * 3)] for row in range(len(prompts))]
        for target in (batch.fork([2, 0, 1, 3]), batch):
            order = [2, 0, 1, 3] if target is not batch else [0, 1, 2, 3]
            logits = runner.logits(runner.feed(target, [chains[row] for row in order]))
            ends = torch.tensor([len(chains[row]) for row in order]).cumsum(0).tolist()
            assert len(logits) == ends[-1]
            for row, end in zip(order, ends, strict=True):
                for back in range(len(chains[row])):
                    more = said[row] + chains[row][: len(chains[row]) - back]
                    if back in (0, len(chains[row]) - 1):
                        want = last_logits(model, prompts[row], more)
                        torch.testing.assert_close(logits[end - 1 - back], want, atol=5e-5, rtol=0)
        said = [[*row, *chain] for row, chain in zip(said, chains, strict=True)]
    longest = max(len(p.tokens) + len(s) for p, s in zip(prompts, said, strict=True))
    assert batch.cache.length <= batch.cache.slots
    assert batch.cache.slots <= longest + 10 + SPARE_SLOTS
    assert batch.valid[:, : batch.cache.length].sum(-1).tolist() == [
        len(p.tokens) + len(s) for p, s in zip(prompts, said, strict=True)
    ]


def test_padding_is_taken_out_only_where_there_is_no_room() -> None:
    runner, prompts = Runner(draw_model(TINY[1])), prompts_of(1)
    batch, _ = runner.prefill(prompts, 3)
    before = batch.cache.slots
    for _ in range(3):
        runner.feed(batch, [[4]] * 4)
    assert (batch.cache.length, batch.cache.slots) == (before, before), "rows that go in step never pad"
    assert not batch.valid.all()
    runner.feed(batch, [[4]] * 4)
    assert batch.cache.length == before + 1, "the longest row has no padding to take out"
    assert batch.cache.slots == before + 1 + SPARE_SLOTS


def test_a_causal_prompt_survives_left_padding() -> None:
    model = draw_model(TINY[1])
    short, long = draw_prompt(TINY[1], 0, 3), draw_prompt(TINY[1], 1, 5)
    short = replace(short, mask_ar=torch.ones_like(short.mask_ar))  # padding on its left sees nothing at all
    _, logits = Runner(model).prefill([short, long], 0)
    torch.testing.assert_close(logits[0], last_logits(model, short, []), atol=2e-5, rtol=0)


def test_no_scores_but_the_last_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = draw_model(TINY[2])
    shapes = []
    logits = model.language_model.logits
    monkeypatch.setattr(model.language_model, "logits", lambda h, **kw: shapes.append(h.shape) or logits(h, **kw))
    runner = Runner(model)
    batch, _ = runner.prefill(prompts_of(2), 1)
    runner.decode(batch, [4, 4, 4, 4])
    assert shapes == [(4, 32), (4, 32)]


def test_features_can_be_given_instead_of_pixels() -> None:
    model, prompts = draw_model(TINY[2]), prompts_of(2)
    runner = Runner(model)
    _, want = runner.prefill(prompts, 0)
    features = runner.encode_images(prompts[1].pixels)
    prompts[1] = replace(prompts[1], pixels=None, features=features)
    _, got = runner.prefill(prompts, 0)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    runner.check(prompts[1], "it")


def test_many_images_are_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = draw_model(TINY[1])
    pixels = torch.rand(2 * IMAGES_AT_ONCE + 3, 3, 8, 8)
    want = model.encode_images(pixels)
    sizes = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda p: sizes.append(len(p)) or encode(p))
    torch.testing.assert_close(Runner(model).encode_images(pixels), want, atol=1e-6, rtol=0)
    assert sizes == [IMAGES_AT_ONCE, IMAGES_AT_ONCE, 3]


def test_big_vision_leaves_the_first_scores_uncapped() -> None:
    model, prompts = draw_model(TINY[2]), prompts_of(2)
    model.language_model.norm.weight.data += 3  # large logits, so that the cap shows
    uncapped = draw_model(replace(TINY[2], text=replace(TINY[2].text, final_logit_softcap=None)))
    uncapped.load_state_dict(model.state_dict())
    ours, theirs, never = Runner(model), Runner(model, big_vision_softcap=True), Runner(uncapped)
    batches, firsts = zip(*(runner.prefill(prompts, 1) for runner in (ours, theirs, never)), strict=True)
    assert torch.equal(firsts[1], firsts[2])
    torch.testing.assert_close(firsts[0], 30 * torch.tanh(firsts[1] / 30))
    assert (firsts[0] - firsts[1]).abs().max() > 0.1
    seconds = [runner.decode(batch, [4] * 4) for runner, batch in zip((ours, theirs, never), batches, strict=True)]
    assert torch.equal(seconds[0], seconds[1])
    assert not torch.equal(seconds[1], seconds[2])


def test_a_bfloat16_cache_rounds_keys_and_values_in_the_prefill_too() -> None:
    model, prompts = draw_model(TINY[1]), prompts_of(1)
    batch, rounded = Runner(model, cache_dtype=torch.bfloat16).prefill(prompts, 1)
    _, exact = Runner(model).prefill(prompts, 1)
    assert batch.cache.keys[0].dtype == torch.bfloat16
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - exact).abs().max() < 0.5


def test_a_bfloat16_model_runs_in_bfloat16() -> None:
    model = draw_model(TINY[2]).bfloat16()
    batch, logits = Runner(model).prefill(prompts_of(2), 1)
    assert logits.dtype == batch.cache.keys[0].dtype == torch.bfloat16


def test_prompts_that_do_not_fit_the_model_are_refused() -> None:
    runner = Runner(draw_model(TINY[1]))

    def refused(match: str, **changes: Any) -> None:
        prompt = SimpleNamespace(**{**vars(draw_prompt(TINY[1], 1, 3)), **changes})
        with pytest.raises(InputError, match=match):
            runner.check(prompt, "prompt 7")

    plain = draw_prompt(TINY[1], 1, 3)
    runner.check(plain, "prompt 7")
    refused("prompt 7 has 4 image slots and 0 images", pixels=None)
    refused("prompt 7 has 4 image slots and 2 images", pixels=plain.pixels.repeat(2, 1, 1, 1))
    refused(r"pixels of shape \(1, 3, 12, 12\); this model takes \[images, 3, 8, 8\]", pixels=torch.zeros(1, 3, 12, 12))
    refused(r"features of shape \(1, 4, 9\); this model takes \[images, 4, 32\]", features=torch.zeros(1, 4, 9))
    refused("token ids from -1 to 48, but this model has 48", tokens=torch.tensor([-1, -1, -1, -1, 48, 2, 2, 2]))
    refused("token ids from -2", tokens=torch.tensor([-1, -1, -1, -1, -2, 2, 2, 2]))
    refused("0 tokens", tokens=torch.tensor([], dtype=torch.int64))
    refused("8 tokens and 2 mask_ar", mask_ar=torch.tensor([0, 0]))


def test_fine_ids_are_scored_in_float32_from_the_same_hidden_states() -> None:
    model = draw_model(TINY[2]).bfloat16()
    prompts = prompts_of(2)
    plain, fine = Runner(model), Runner(model, fine=[(10, 20), (30, 33)])
    for runner in (plain, fine):
        runner.batch, runner.first = runner.prefill(prompts, 2)
        runner.second = runner.decode(runner.batch, [5, 6, 7, 8])
    inside = [*range(10, 20), *range(30, 33)]
    outside = [i for i in range(plain.first.shape[1]) if i not in inside]
    for coarse, exact in ((plain.first, fine.first), (plain.second, fine.second)):
        assert coarse.dtype == torch.bfloat16
        assert exact.dtype == torch.float32
        assert torch.equal(coarse[:, outside].float(), exact[:, outside])
        torch.testing.assert_close(coarse[:, inside].float(), exact[:, inside], atol=0.05, rtol=0.02)
        rounded = exact[:, inside].bfloat16().float()
        assert (rounded != exact[:, inside]).float().mean() > 0.8  # finer than bfloat16 can say
