from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import TINY, draw_model, draw_prompt
from tests.recorder import Again
from torch import Tensor

from paligemma.engine.ragged import BURST, CHAIN, Pool, Row, stop_for
from paligemma.engine.runner import Runner
from paligemma.model import PaliGemmaModel

NONE = torch.tensor([], dtype=torch.int64)
SHAPES = [(1, 5, 0), (2, 3, 3), (0, 7, 0), (1, 1, 1)]


@cache
def tiny(generation: int) -> PaliGemmaModel:
    return draw_model(TINY[generation])


def prompts_of(generation: int) -> list[Any]:
    return [
        draw_prompt(TINY[generation], images, length, seed=i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(SHAPES)
    ]


def pool_of(generation: int, rows: int = 4, slots: int = 60, forbidden: Tensor = NONE, **options: Any) -> Pool:
    return Pool(Runner(tiny(generation)), rows, slots, forbidden, **options)


def last_logits(prompt: Any, more: list[int], generation: int) -> Tensor:
    """Without cache, batch and padding."""
    tokens = torch.cat((prompt.tokens, torch.tensor(more, dtype=torch.int64)))
    mask_ar = torch.cat((prompt.mask_ar, torch.ones(len(more), dtype=torch.int64)))
    with torch.no_grad():
        return tiny(generation)(tokens[None], prompt.pixels, mask_ar[None])[0, -1]


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=3e-5, rtol=0)


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("records", [False, True])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_rows_of_any_lengths_are_fed_forked_and_released(generation: int, records: bool, data: Any) -> None:
    prompts, pool = prompts_of(generation), pool_of(generation, 6, recorder=Again() if records else None)
    rows, logits = pool.prefill(prompts)
    live: list[tuple[Row, Any, list[int]]] = [(row, prompt, []) for row, prompt in zip(rows, prompts, strict=True)]
    for (_, prompt, said), scores in zip(live, logits, strict=True):
        close(scores, last_logits(prompt, said, generation))
    for _ in range(6):
        what = data.draw(st.sampled_from(["feed", "feed", "fork", "release"]))
        if what == "fork" and pool.free:
            row, prompt, said = data.draw(st.sampled_from(live))
            live.append((pool.fork(row), prompt, list(said)))
        elif what == "release" and len(live) > 1:
            pool.release(live.pop(data.draw(st.integers(0, len(live) - 1)))[0])
        else:
            some = data.draw(st.lists(st.sampled_from(live), min_size=1, unique_by=lambda one: id(one[0])))
            chains = [data.draw(st.lists(st.integers(3, 39), min_size=1, max_size=CHAIN + 2)) for _ in some]
            if any(row.length + len(chain) > pool.slots for (row, _, _), chain in zip(some, chains, strict=True)):
                continue
            hidden = pool.feed([row for row, _, _ in some], chains)
            assert len(hidden) == sum(map(len, chains))
            ends = torch.tensor([len(chain) for chain in chains]).cumsum(0) - 1
            for (_, prompt, said), chain, scores in zip(some, chains, pool.runner.logits(hidden[ends]), strict=True):
                said.extend(chain)
                close(scores, last_logits(prompt, said, generation))
        assert sorted(row.index for row, _, _ in live) == [i for i, row in enumerate(pool.rows) if row is not None]


@pytest.mark.parametrize("records", [False, True])
def test_a_burst_takes_the_likeliest_tokens_that_are_not_forbidden(records: bool) -> None:
    prompts, forbidden = prompts_of(2), torch.arange(5, 30)
    pool = pool_of(2, forbidden=forbidden, recorder=Again() if records else None)
    rows, _ = pool.prefill(prompts)
    said: list[list[int]] = [[4] for _ in prompts]
    for passes in (BURST, 1, 3):
        found = pool.burst(rows, [own[-1] for own in said], passes)
        assert len(found.tokens) == len(found.logprobs) == passes
        for tokens, logprobs in zip(found.tokens, found.logprobs, strict=True):
            for prompt, own, token, logprob in zip(prompts, said, tokens, logprobs, strict=True):
                scores = last_logits(prompt, own, 2)
                assert logprob == pytest.approx(float(scores.log_softmax(-1)[token]), abs=1e-4)
                scores[forbidden] = -torch.inf
                assert token == int(scores.argmax())
                own.append(token)
    assert [row.length for row in rows] == [len(p.tokens) + BURST + 4 for p in prompts]


def test_recorded_passes_are_few() -> None:
    recorder = Again()
    pool = pool_of(1, rows=8, slots=2000, recorder=recorder)
    rows, _ = pool.prefill(prompts_of(1))
    for number in range(30):
        fed = rows[: 1 + number % 4]
        pool.feed(fed, [[4] * (1 + number % 3)] * len(fed))
        pool.burst(fed, [4] * len(fed), 2)
    assert {(shape.rows, shape.tokens) for shape in pool.passes} == {(r, t) for r in (1, 2, 4) for t in (1, CHAIN)}
    assert recorder.recorded == 9, "three to feed one token, three to feed several, three to go on greedily"


def test_rows_move_up_where_that_makes_passes_smaller() -> None:
    prompts = prompts_of(2)
    for recorder, before in ((None, [0, 1]), (Again(), [0, 1])):
        pool = pool_of(2, recorder=recorder)
        rows, _ = pool.prefill(prompts)
        pool.release(rows[0])
        pool.release(rows[2])
        assert sorted(rows[i].index for i in (1, 3)) == before
        logits = pool.runner.logits(pool.feed([rows[3], rows[1]], [[7], [9]]))
        close(logits[0], last_logits(prompts[3], [7], 2))
        close(logits[1], last_logits(prompts[1], [9], 2))


def test_a_row_beside_a_full_one_goes_on() -> None:
    """What passes write for rows that are not fed goes where nobody reads, at the end of the cache too."""
    prompts = prompts_of(1)
    longest = max(len(prompt.tokens) for prompt in prompts)
    pool = pool_of(1, slots=longest, recorder=Again())
    (full, other), _ = pool.prefill([max(prompts, key=lambda p: len(p.tokens)), prompts[2]])
    before = [keys[full.index, :, :longest].clone() for keys in pool.cache.keys]
    logits = pool.runner.logits(pool.feed([other], [[5, 6, 7]]))
    close(logits[-1], last_logits(prompts[2], [5, 6, 7], 1))
    for keys, want in zip(pool.cache.keys, before, strict=True):
        assert torch.equal(keys[full.index, :, :longest], want)


def test_fixed_shapes_pass_over_every_row_and_slot() -> None:
    pool = pool_of(2, slots=64, fixed_shapes=True)
    (row,), _ = pool.prefill(prompts_of(2)[:1])
    hidden = pool.feed_one([row], [7])
    assert len(hidden) == len(pool)
    close(pool.runner.logits(hidden)[row.index], last_logits(prompts_of(2)[0], [7], 2))
    pool.burst([row], [3], 2)
    assert list(pool.passes) == [(4, 1, 64, 0)]
    with pytest.raises(AssertionError, match="prompts run alone"):
        pool.prefill(prompts_of(2)[:2])


@given(st.integers(1, 20_000))
def test_recorded_passes_see_a_little_more_than_needed(seen: int) -> None:
    assert seen <= stop_for(seen) <= max(seen + 255, seen * 1.5)


def test_stops_are_few() -> None:
    assert len({stop_for(seen) for seen in range(1, 8193)}) <= 20


def test_a_bfloat16_cache_rounds_in_the_prefill_too() -> None:
    exact, runner = pool_of(1), Runner(tiny(1), cache_dtype=torch.bfloat16)
    pool = Pool(runner, 4, 60, NONE)
    _, rounded = pool.prefill(prompts_of(1))
    _, want = exact.prefill(prompts_of(1))
    assert pool.cache.keys[0].dtype == torch.bfloat16
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - want).abs().max() < 0.5


def test_big_vision_leaves_the_first_scores_uncapped() -> None:
    model = draw_model(TINY[2])
    model.language_model.norm.weight.data += 3  # large logits, so that the cap shows
    ours, theirs = (Pool(Runner(model, big_vision_softcap=wanted), 4, 60, NONE) for wanted in (False, True))
    (rows, capped), (others, uncapped) = ours.prefill(prompts_of(2)), theirs.prefill(prompts_of(2))
    torch.testing.assert_close(capped, 30 * torch.tanh(uncapped / 30))
    assert (capped - uncapped).abs().max() > 0.1
    fed = [[4]] * 4
    assert torch.equal(ours.runner.logits(ours.feed(rows, fed)), theirs.runner.logits(theirs.feed(others, fed)))


def test_a_causal_prompt_survives_padding() -> None:
    short, long = draw_prompt(TINY[1], 0, 3), draw_prompt(TINY[1], 1, 5)
    short = replace(short, mask_ar=torch.ones_like(short.mask_ar))
    _, logits = pool_of(1).prefill([short, long])
    close(logits[0], last_logits(short, [], 1))


def test_features_can_be_given_instead_of_pixels() -> None:
    pool, prompts = pool_of(2), prompts_of(2)
    _, want = pool.prefill(prompts)
    prompts[1] = replace(prompts[1], pixels=None, features=pool.runner.encode_images(prompts[1].pixels))
    _, got = pool_of(2).prefill(prompts)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@given(st.lists(st.integers(0, 3), max_size=5))
def test_branches_hold_what_their_parents_held(parents: list[int]) -> None:
    pool = pool_of(1, 6)
    rows, _ = pool.prefill(prompts_of(1))
    keys = [pool.cache.keys[0][row.index, :, : row.length].clone() for row in rows]
    own = pool.branch(rows, parents)
    assert sorted(row.index for row in own) == [i for i, row in enumerate(pool.rows) if row is not None]
    assert len(set(map(id, own))) == len(parents)
    for row, parent in zip(own, parents, strict=True):
        assert torch.equal(pool.cache.keys[0][row.index, :, : row.length], keys[parent])


def test_a_pool_grows_and_records_anew() -> None:
    prompts, recorder = prompts_of(1), Again()
    pool = pool_of(1, rows=1, slots=30, recorder=recorder)
    (row,), _ = pool.prefill(prompts[:1])
    pool.feed([row], [[7]])
    pool.grow(3, 20)
    assert (len(pool), pool.slots) == (3, 30)
    (other,), _ = pool.prefill(prompts[1:2])
    logits = pool.runner.logits(pool.feed([row, other], [[8], [9]]))
    close(logits[0], last_logits(prompts[0], [7, 8], 1))
    close(logits[1], last_logits(prompts[1], [9], 1))


def test_passes_leave_out_the_rows_before_the_first_that_is_fed() -> None:
    pool = pool_of(1)
    rows, _ = pool.prefill(prompts_of(1))
    close(pool.runner.logits(pool.feed(rows[2:], [[7], [9]]))[0], last_logits(prompts_of(1)[2], [7], 1))
    assert pool._pass(rows[2:], 1).shape[::3] == (2, 2)
