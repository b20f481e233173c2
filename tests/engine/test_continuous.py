from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import EOS, IMAGE_ID, TINY, draw_model, draw_prompt
from tests.recorder import Again

from paligemma.engine import Engine, Sampling, generate_slowly
from paligemma.engine.continuous import Continuous, Request
from paligemma.engine.engine import weights_at
from paligemma.engine.sampling import Single
from paligemma.model import PaliGemmaModel


@cache
def tiny(generation: int, seed: int = 0) -> PaliGemmaModel:
    return draw_model(TINY[generation], seed)


@cache
def half(generation: int, seed: int = 0) -> PaliGemmaModel:
    return draw_model(TINY[generation], seed).bfloat16()


SHAPES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=7)


def prompts_of(generation: int, shapes: Any, seed: int = 0) -> list[Any]:
    return [
        draw_prompt(TINY[generation], images, length, seed=seed + i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(shapes)
    ]


@given(st.sampled_from([1, 2]), SHAPES, st.integers(0, 3), st.integers(1, 7), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_that_come_and_go_say_what_the_oracle_says(
    generation: int, shapes: Any, seed: int, rows: int, records: bool, data: Any
) -> None:
    model, prompts = tiny(generation, seed), prompts_of(generation, shapes, seed)
    said = generate_slowly(model, prompts[0], 20, eos_ids=[EOS], forbidden_ids=[IMAGE_ID])
    eos_ids = [EOS, data.draw(st.sampled_from(said or [EOS]))]  # one that some rows reach
    limits = [data.draw(st.integers(1, 20)) for _ in prompts]
    engine = Engine(model, eos_id=eos_ids, forbidden_ids=[IMAGE_ID])
    if records:
        engine._recorder = Again  # type: ignore[method-assign]
    got = engine.generate(prompts, [Sampling(max_tokens=limit) for limit in limits], batch_size=rows)
    for prompt, limit, generation_ in zip(prompts, limits, got, strict=True):
        want = generate_slowly(model, prompt, limit, eos_ids=eos_ids, forbidden_ids=[IMAGE_ID])
        assert generation_.tokens == want
        assert generation_.finish_reason == ("stop" if len(generation_.logprobs) > len(want) else "length")


def engine_of(generation: int) -> Engine:
    return Engine(tiny(generation), eos_id=EOS, forbidden_ids=[IMAGE_ID])


def request_for(prompt: Any, max_tokens: int) -> Request:
    search = Single(Sampling(max_tokens=max_tokens, stop_repeats=None), set())
    return Request(prompt, [search], max_tokens)


def test_who_comes_while_others_are_decoded_is_answered_as_alone() -> None:
    engine, prompts = engine_of(2), prompts_of(2, [(1, 5, 0), (0, 2, 3), (2, 1, 0), (0, 9, 0), (1, 0, 1)])
    requests = [request_for(prompt, limit) for prompt, limit in zip(prompts, (19, 3, 9, 12, 1), strict=True)]
    line = engine.open(3, 60)
    for request in requests:
        line.submit(request)
        line.step()
    line.run()
    for prompt, request in zip(prompts, requests, strict=True):
        want = generate_slowly(tiny(2), prompt, request.max_tokens, eos_ids=[], forbidden_ids=[IMAGE_ID])
        assert request.results()[0].tokens == want
    assert line.idle
    assert line.pool.is_free


def test_the_urgent_go_first_and_the_others_in_their_order() -> None:
    engine, prompts = engine_of(1), prompts_of(1, [(0, 3, 0)] * 5)
    line = engine.open(1, 20)
    tickets = [
        line.submit(request_for(prompt, 3), priority=priority)
        for prompt, priority in zip(prompts, (0, 5, -1, 0, -1), strict=True)
    ]
    ended = []
    while not line.idle:
        line.step()
        ended += [place for place, ticket in enumerate(tickets) if ticket.done and place not in ended]
    assert ended == [2, 4, 0, 3, 1]


def test_a_cancelled_request_leaves_its_row_to_the_next() -> None:
    engine, prompts = engine_of(2), prompts_of(2, [(1, 3, 0), (0, 4, 0), (1, 1, 0)])
    requests = [request_for(prompt, 30) for prompt in prompts]
    line = engine.open(2, 60)
    tickets = [line.submit(request) for request in requests]
    line.step()
    assert [ticket.admitted for ticket in tickets] == [True, True, False]
    line.cancel(tickets[0])
    assert tickets[0].done
    assert line.pool.free == 1
    grown = line.step()
    assert set(map(id, grown)) == {id(tickets[1]), id(tickets[2])}
    line.cancel(tickets[2])
    line.run()
    want = generate_slowly(tiny(2), prompts[1], 30, eos_ids=[], forbidden_ids=[IMAGE_ID])
    assert requests[1].results()[0].tokens == want
    assert line.pool.is_free


def test_a_waiting_request_can_be_cancelled_too() -> None:
    engine, (first, second) = engine_of(1), prompts_of(1, [(0, 3, 0)] * 2)
    line = engine.open(1, 20)
    line.submit(request_for(first, 2))
    ticket = line.submit(request_for(second, 2))
    line.cancel(ticket)
    line.run()
    assert ticket.done
    assert not ticket.admitted


def test_long_prompts_wait_for_a_pass_of_those_who_decode() -> None:
    engine, prompts = engine_of(1), prompts_of(1, [(0, 11, 0)] * 4)
    line = engine.open(4, 40)
    line.together = 25
    tickets = [line.submit(request_for(prompt, 20)) for prompt in prompts]
    for admitted in (2, 4):
        line.step()
        assert sum(ticket.admitted for ticket in tickets) == admitted


def test_rows_are_free_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, prompts = engine_of(1), prompts_of(1, [(0, 3, 0)] * 3)
    line = engine.open(2, 40)
    for prompt in prompts:
        line.submit(request_for(prompt, 9))
    line.step()
    monkeypatch.setattr(line.pool, "burst", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        line.run()
    assert line.pool.is_free
    monkeypatch.setattr(engine.runner.model.language_model, "in_steps", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        line.pool.prefill(prompts[:1])
    line.submit(request_for(prompts[0], 9))
    with pytest.raises(ZeroDivisionError):
        line.run()
    assert line.pool.is_free
    assert line.idle


@given(st.sampled_from([1, 2]), SHAPES, st.integers(0, 3), st.sampled_from(["float32", "bfloat16"]), st.data())
@settings(max_examples=25, deadline=None)
def test_invariant_answers_have_the_same_bits_whoever_is_beside(
    generation: int, shapes: Any, seed: int, dtype: str, data: Any
) -> None:
    model = half(generation, seed) if dtype == "bfloat16" else tiny(generation, seed)
    prompts = prompts_of(generation, shapes, seed)
    engine = Engine(model, eos_id=EOS, forbidden_ids=[IMAGE_ID], invariant=True)
    limits = [data.draw(st.integers(1, 12)) for _ in prompts]
    kinds = st.sampled_from([{}, {"temperature": 1.0}, {"num_beams": 3}, {"num_beams": 5}])
    draws = [Sampling(max_tokens=n, **data.draw(kinds)) for n in limits]
    together = engine.generate(prompts, draws, batch_size=4)
    order = data.draw(st.permutations(range(len(prompts))))
    shuffled = engine.generate([prompts[i] for i in order], [draws[i] for i in order], batch_size=4)
    for place, i in enumerate(order):
        assert shuffled[place] == together[i]
        (alone,) = engine.generate([prompts[i]], [draws[i]], batch_size=4)
        assert alone == together[i]


def test_an_engine_notices_that_weights_were_exchanged_and_not_that_they_were_trained() -> None:
    model = draw_model(TINY[1])
    before = weights_at(model)
    with torch.no_grad():
        model.projector.weight.add_(1)
    assert weights_at(model) == before
    model.projector.weight = torch.nn.Parameter(model.projector.weight.clone())
    assert weights_at(model) != before


def test_two_lines_of_one_engine_do_not_meet() -> None:
    """A stream is half read while another request is answered."""
    engine, (first, second) = engine_of(2), prompts_of(2, [(1, 4, 0), (0, 6, 0)])
    want = [generate_slowly(tiny(2), p, 20, eos_ids=[EOS], forbidden_ids=[IMAGE_ID]) for p in (first, second)]
    stream = engine.stream(first, Sampling(max_tokens=20))
    begun = [next(stream)]
    assert engine.generate([second], Sampling(max_tokens=20))[0].tokens == want[1]
    tokens = [*begun, *stream]
    assert [token.id for token in tokens if token.finish_reason != "stop"] == want[0]


def test_a_long_prompt_comes_in_between_passes_of_those_who_decode() -> None:
    engine, prompts = engine_of(2), prompts_of(2, [(0, 3, 0), (2, 9, 0)])
    requests = [request_for(prompt, limit) for prompt, limit in zip(prompts, (30, 6), strict=True)]
    line = engine.open(2, 60)
    line.between = 1
    first = line.submit(requests[0])
    assert line.step() == [first], "alone it need not wait"
    second = line.submit(requests[1])
    while not second.admitted:
        known = len(requests[0].searches[0].tokens)  # type: ignore[attr-defined]
        line.step()
        assert len(requests[0].searches[0].tokens) > known  # type: ignore[attr-defined]
    assert known > 2
    line.run()
    for prompt, request in zip(prompts, requests, strict=True):
        want = generate_slowly(tiny(2), prompt, request.max_tokens, eos_ids=[], forbidden_ids=[IMAGE_ID])
        assert request.results()[0].tokens == want


@pytest.mark.parametrize("which", [[0], [1], [0, 1]])
def test_requests_are_cancelled_on_their_way_in(which: list[int]) -> None:
    engine, prompts = engine_of(2), prompts_of(2, [(0, 3, 0), (1, 5, 0), (1, 5, 2)])
    requests = [request_for(prompt, 20) for prompt in prompts]
    line = engine.open(3, 60)
    line.between = 1
    line.submit(requests[0])
    line.step()
    tickets = [line.submit(request) for request in requests[1:]]
    line.step()
    assert line.entering is not None
    for place in which:
        line.cancel(tickets[place])
        assert tickets[place].done
    assert (line.entering is None) == (len(which) == 2)
    line.run()
    assert line.pool.is_free
    for place in {0, 1} - set(which):
        want = generate_slowly(tiny(2), prompts[place + 1], 20, eos_ids=[], forbidden_ids=[IMAGE_ID])
        assert requests[place + 1].results()[0].tokens == want


def test_prompts_run_together_where_that_needs_little_padding() -> None:
    line = Continuous(engine_of(1).open(8, 60).pool, torch.tensor([], dtype=torch.int64))
    assert line._run_well([3, 60])
    assert line._run_well([100, 164])
    assert not line._run_well([100, 190])
    assert line._run_well([900, 1000])
    assert not line._run_well([1000, 1000, 1000])


@given(SHAPES, st.integers(0, 3), st.integers(1, 4), st.booleans(), st.data())
@settings(max_examples=30, deadline=None)
def test_beams_and_draws_share_their_passes_with_greedy_rows(
    shapes: Any, seed: int, rows: int, records: bool, data: Any
) -> None:
    engine, prompts = engine_of(2), prompts_of(2, shapes, seed)
    kinds = [
        Sampling(max_tokens=7, num_beams=3),
        Sampling(max_tokens=5, num_beams=2, beam_scoring="big_vision"),
        Sampling(max_tokens=9, temperature=1.3, seed=seed),
        Sampling(max_tokens=12),
    ]
    samplings = [data.draw(st.sampled_from(kinds)) for _ in prompts]
    alone = [engine.generate([p], s)[0] for p, s in zip(prompts, samplings, strict=True)]
    if records:
        engine._recorder = Again  # type: ignore[method-assign]
    together = engine.generate(prompts, samplings, batch_size=rows)
    for got, want in zip(together, alone, strict=True):
        assert got.tokens == want.tokens
        assert got.logprobs == pytest.approx(want.logprobs, abs=1e-4)
        assert got.steps == want.steps
