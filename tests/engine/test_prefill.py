from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import TINY, draw_model, draw_prompt

from paligemma.engine.prefill import PICTURES_AT_ONCE, Prefill, tokens_of_a_picture
from paligemma.engine.ragged import Pool
from paligemma.engine.runner import Runner

NONE = torch.tensor([], dtype=torch.int64)
SHAPES = [(1, 5, 0), (2, 3, 3), (0, 7, 0), (1, 1, 1)]
MODELS = {generation: draw_model(TINY[generation]) for generation in (1, 2)}


def prompts_of(generation: int) -> list[Any]:
    return [
        draw_prompt(TINY[generation], images, length, seed=i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(SHAPES)
    ]


def pool_of(generation: int) -> Pool:
    return Pool(Runner(MODELS[generation]), 6, 40, NONE)


@given(st.sampled_from([1, 2]), st.lists(st.floats(0.1, 60), max_size=20))
@settings(max_examples=20, deadline=None)
def test_pauses_change_nothing(generation: int, work: list[float]) -> None:
    prompts = prompts_of(generation)
    whole, paused = pool_of(generation), pool_of(generation)
    _, want = whole.prefill(prompts)
    prefill = paused.begin(prompts)
    for most in work:
        prefill.advance(most)
    got = prefill.advance()
    assert got is not None
    assert torch.equal(got, want)
    for ours, theirs in zip(paused.cache.keys, whole.cache.keys, strict=True):
        assert torch.equal(ours, theirs)
    assert prefill.advance() is got


def test_a_prefill_stops_between_pictures_and_between_layers() -> None:
    prefill = pool_of(1).begin(prompts_of(1))
    times = 1
    while prefill.advance(0.001) is None:
        times += 1
    assert times == 1 + TINY[1].text.depth + 1  # four pictures at a time; layers; their end


def test_more_work_is_done_where_more_is_allowed() -> None:
    def turns(most: float) -> int:
        prefill = pool_of(1).begin(prompts_of(1))
        return next(turn for turn in range(1, 100) if prefill.advance(most) is not None)

    few = turns(4 * tokens_of_a_picture(Runner(MODELS[1])) + 4 * 15)
    assert 1 < few < turns(1)


def test_who_is_decoded_in_a_pause_is_not_disturbed_and_may_leave() -> None:
    prompts, pool = prompts_of(2), pool_of(2)
    (first, second), _ = pool.prefill(prompts[:2])
    entering = pool.begin(prompts[2:])
    alone, fed = pool_of(2), []
    twins, _ = alone.prefill(prompts[:2])
    for turn in range(4):
        entering.advance(1)
        if turn == 2:
            pool.release(first)
        rows, others = ([second], twins[1:]) if turn >= 2 else ([first, second], twins)
        fed = [[4 + turn]] * len(rows)
        torch.testing.assert_close(pool.feed(rows, fed)[-1], alone.feed(others, fed)[-1], atol=3e-5, rtol=0)
    got = entering.advance()
    _, want = pool_of(2).prefill(prompts[2:])
    assert got is not None
    torch.testing.assert_close(got, want, atol=3e-5, rtol=0)
    after = pool.runner.logits(pool.feed(entering.rows, [[7], [9]]))
    fresh = pool_of(2)
    rows, _ = fresh.prefill(prompts[2:])
    torch.testing.assert_close(after, fresh.runner.logits(fresh.feed(rows, [[7], [9]])), atol=3e-5, rtol=0)


def test_no_scores_but_the_last_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, shapes = pool_of(2), []
    head = pool.runner.model.language_model
    logits = head.logits
    monkeypatch.setattr(head, "logits", lambda h, **kw: shapes.append(h.shape) or logits(h, **kw))
    pool.prefill(prompts_of(2))
    assert shapes == [(4, 32)]


def test_pictures_are_seen_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, sizes = pool_of(1), []
    encode = pool.runner.encode_images
    monkeypatch.setattr(pool.runner, "encode_images", lambda p: sizes.append(len(p)) or encode(p))
    few = PICTURES_AT_ONCE["cpu"]
    prompts = [draw_prompt(TINY[1], few + 1, 2), draw_prompt(TINY[1], 1, 2)]
    Prefill(pool.runner, pool.cache, prompts, pool.begin(prompts).rows).advance()
    assert sizes == [few, 2]


@pytest.mark.parametrize("length", [7, 8, 9])
def test_products_have_a_number_of_rows_that_the_processor_likes(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    seen = []
    pool = Pool(Runner(MODELS[2]), 2, 17, NONE)
    embed = pool.runner.model.embed
    monkeypatch.setattr(
        pool.runner.model, "embed", lambda tokens, *rest: seen.append(tokens.shape) or embed(tokens, *rest)
    )
    prompt = draw_prompt(TINY[2], 0, length, seed=1)
    _, scores = pool.prefill([prompt])
    assert seen == [(1, 8 if len(prompt.tokens) <= 8 else 16)]
    assert torch.isfinite(scores).all()
