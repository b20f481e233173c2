import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import EOS, IMAGE_ID, TINY, draw_model, draw_prompt

from paligemma.engine import Engine, Sampling, generate_slowly
from paligemma.engine.ragged import Pass, Pool
from paligemma.errors import CheckFailed, InputError, ResourceError, UsageError
from paligemma.model import PaliGemmaModel

GENERATIONS = [1, 2]


@cache
def tiny(generation: int, seed: int = 0) -> PaliGemmaModel:
    return draw_model(TINY[generation], seed)


def engine_of(generation: int, eos_id: int | Sequence[int] = EOS, seed: int = 0) -> Engine:
    return Engine(tiny(generation, seed), eos_id=eos_id, forbidden_ids=[IMAGE_ID])


def prompts_of(generation: int, shapes: Sequence[tuple[int, int, int]], seed: int = 0) -> list[Any]:
    return [
        draw_prompt(TINY[generation], images, length, seed=seed + i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(shapes)
    ]


MIXED = [(1, 5, 0), (2, 3, 3), (0, 7, 0), (1, 1, 1), (0, 0, 0)]
SHAPES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=6)


@given(st.sampled_from(GENERATIONS), SHAPES, st.integers(0, 3), st.integers(1, 7), st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_the_engine_says_what_the_oracle_says(
    generation: int, shapes: list[tuple[int, int, int]], seed: int, batch_size: int, max_tokens: int, data: Any
) -> None:
    model, prompts = tiny(generation, seed), prompts_of(generation, shapes, seed)
    said = generate_slowly(model, prompts[0], max_tokens, eos_ids=[EOS], forbidden_ids=[IMAGE_ID])
    eos_ids = [EOS, data.draw(st.sampled_from(said or [EOS]))]  # one that some rows reach
    limits = [data.draw(st.integers(1, max_tokens)) for _ in prompts]
    got = Engine(model, eos_id=eos_ids, forbidden_ids=[IMAGE_ID]).generate(
        prompts, [Sampling(max_tokens=limit) for limit in limits], batch_size=batch_size
    )
    for prompt, limit, generation_ in zip(prompts, limits, got, strict=True):
        want = generate_slowly(model, prompt, limit, eos_ids=eos_ids, forbidden_ids=[IMAGE_ID])
        assert generation_.tokens == want
        assert generation_.finish_reason == ("stop" if len(generation_.logprobs) > len(want) else "length")
        assert len(want) == limit or generation_.finish_reason == "stop"


def test_sixteen_frames() -> None:
    prompts = prompts_of(2, [(16, 3, 0), (1, 2, 0)])
    got = engine_of(2).generate(prompts, Sampling(max_tokens=8))
    for prompt, generation in zip(prompts, got, strict=True):
        assert generation.tokens == generate_slowly(tiny(2), prompt, 8, eos_ids=[EOS], forbidden_ids=[IMAGE_ID])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_logprobs_are_the_models_own(generation: int) -> None:
    """Of the whole distribution: nothing forbidden, no temperature."""
    (prompt,) = prompts_of(generation, [(1, 4, 0)])
    sampling = Sampling(max_tokens=5, temperature=3.0, top_k=9, seed=4)
    (got,) = engine_of(generation).generate([prompt], sampling)
    tokens = torch.cat((prompt.tokens, torch.tensor(got.tokens)))
    mask_ar = torch.cat((prompt.mask_ar, torch.ones(len(got.tokens), dtype=torch.int64)))
    with torch.no_grad():
        log_p = tiny(generation)(tokens[None], prompt.pixels, mask_ar[None])[0].log_softmax(-1)
    want = [float(log_p[len(prompt.tokens) + i - 1, token]) for i, token in enumerate(got.tokens)]
    assert got.logprobs[: len(want)] == pytest.approx(want, abs=1e-4)
    assert got.score == pytest.approx(math.fsum(got.logprobs))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_request_draws_alone_what_it_draws_in_a_batch(generation: int) -> None:
    engine, prompts = engine_of(generation), prompts_of(generation, MIXED)
    samplings = [
        Sampling(max_tokens=6, temperature=1.5, seed=1),
        Sampling(max_tokens=9),
        Sampling(max_tokens=4, temperature=0.7, top_p=0.9, seed=2),
        Sampling(max_tokens=7, num_beams=3),
        Sampling(max_tokens=5, temperature=1.0, top_k=5, seed=2**40),
    ]
    alone = [engine.generate([p], s)[0] for p, s in zip(prompts, samplings, strict=True)]
    for batch_size in (1, 2, 100):
        together = engine.generate(prompts, samplings, batch_size=batch_size)
        assert [g.tokens for g in together] == [g.tokens for g in alone]
        for a, b in zip(together, alone, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_other_seeds_say_other_things() -> None:
    (prompt,) = prompts_of(2, [(1, 4, 0)])
    said = {tuple(engine_of(2).generate([prompt], Sampling(max_tokens=6, temperature=1.5, seed=s))[0].tokens)
            for s in range(8)}  # fmt: skip
    assert len(said) > 5


def test_several_answers_are_the_seeds_that_follow() -> None:
    engine, prompts = engine_of(2), prompts_of(2, MIXED[:2])
    several = engine.generate(prompts, Sampling(max_tokens=5, temperature=1.5, seed=7), num_return=3)
    for i, prompt in enumerate(prompts):
        for answer in range(3):
            alone = engine.generate([prompt], Sampling(max_tokens=5, temperature=1.5, seed=7 + answer))[0]
            assert several[3 * i + answer].tokens == alone.tokens


def test_first_tokens_follow_the_tempered_distribution() -> None:
    (prompt,) = prompts_of(1, [(1, 4, 0)])
    answers = engine_of(1).generate(
        [prompt], Sampling(max_tokens=1, temperature=0.7, top_k=8), num_return=1500, batch_size=1
    )
    with torch.no_grad():
        logits = tiny(1)(prompt.tokens[None], prompt.pixels, prompt.mask_ar[None])[0, -1, : TINY[1].text.vocab_size]
    best, ids = (logits / 0.7).topk(8)
    drawn = torch.tensor([answer.tokens[0] if answer.tokens else EOS for answer in answers])
    counts = torch.stack([(drawn == token).sum() for token in ids])
    assert counts.sum() == 1500
    expected = 1500 * best.softmax(-1)
    assert float(((counts - expected).square() / expected).sum()) < 24.3  # 7 degrees, p = 0.001


@pytest.mark.parametrize("settings_", [{}, {"temperature": 1.2, "seed": 3, "top_p": 0.95}])
def test_streaming_equals_generate(settings_: dict[str, Any]) -> None:
    for i, prompt in enumerate(prompts_of(2, MIXED)):
        sampling = Sampling(max_tokens=6, **settings_)
        likely = (engine_of(2).generate([prompt], sampling)[0].tokens or [EOS])[-1]
        for engine in (engine_of(2), engine_of(2, eos_id=likely)):
            (whole,) = engine.generate([prompt], sampling)
            streamed = list(engine.stream(prompt, sampling))
            assert [t.logprob for t in streamed] == whole.logprobs, i
            assert [t.finish_reason for t in streamed] == [None] * (len(streamed) - 1) + [whole.finish_reason]
            assert [t.id for t in streamed][: len(whole.tokens)] == whole.tokens
            assert len(streamed) - len(whole.tokens) == (whole.finish_reason == "stop")


def test_a_stream_is_lazy_and_leaves_the_callers_gradients_on() -> None:
    (prompt,) = prompts_of(1, [(1, 4, 0)])
    stream = engine_of(1).stream(prompt, Sampling(max_tokens=50))
    next(stream)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    next(stream)
    stream.close()


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"temperature": 5.0},
        {"temperature": 5.0, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.5},
        {"num_beams": 4},
        {"num_beams": 3, "beam_scoring": "big_vision"},
    ],
)
def test_forbidden_rows_are_never_produced_even_when_they_score_highest(settings_: dict[str, Any]) -> None:
    text = TINY[2].text
    model = draw_model(TINY[2])
    prompts = prompts_of(2, MIXED)
    with torch.no_grad():  # rows along the hidden states: the best of all scores
        hidden = torch.stack([model.hidden(p.tokens[None], p.pixels, p.mask_ar[None])[0, -1] for p in prompts])
        rows = model.language_model.embed_tokens.weight
        rows[text.vocab_size : text.vocab_size + len(prompts)] = rows[30 : 30 + len(prompts)] = hidden / 4
    forbidden = [30, 31, 32, 33, 34]
    engine = Engine(model, eos_id=EOS, forbidden_ids=forbidden)
    best = [int(model(p.tokens[None], p.pixels, p.mask_ar[None])[0, -1].argmax()) for p in prompts]
    assert all(token >= text.vocab_size or token in forbidden for token in best), "the test is vacuous"
    for generation in engine.generate(prompts, Sampling(max_tokens=6, **settings_), batch_size=3):
        assert all(token < text.vocab_size and token not in forbidden for token in generation.tokens)
        assert all(math.isfinite(logprob) for logprob in generation.logprobs)


def test_finished_rows_leave_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    hidden = Pass._hidden
    monkeypatch.setattr(Pass, "_hidden", lambda self: sizes.append(self.shape.rows) or hidden(self))
    engine, prompts = engine_of(1), prompts_of(1, [(1, 3, 0)] * 4)
    engine.generate(prompts, [Sampling(max_tokens=n, stop_repeats=None) for n in (1, 2, 2, 4)])
    assert sizes == [3, 1, 1]


def test_batch_size_counts_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, prompts = engine_of(1), prompts_of(1, [(0, n, 0) for n in (1, 5, 3, 9, 7)])
    seen = []
    begin = Pool.begin
    monkeypatch.setattr(Pool, "begin", lambda self, p: seen.append([len(x.tokens) for x in p]) or begin(self, p))
    engine.generate(prompts, Sampling(max_tokens=1), batch_size=2)
    assert seen == [[10, 8], [6, 4], [2]]
    seen.clear()
    engine.generate(prompts, Sampling(max_tokens=1, num_beams=3), batch_size=6)
    assert seen == [[10, 8], [6, 4], [2]]
    seen.clear()
    engine.generate(prompts[:2], Sampling(max_tokens=1, num_beams=3), batch_size=1)
    assert seen == [[6], [2]]


def test_nothing_in_nothing_out() -> None:
    assert engine_of(1).generate([], Sampling()) == []


def test_an_image_encoded_once_can_be_asked_often() -> None:
    engine, prompts = engine_of(2), prompts_of(2, [(1, 4, 0), (2, 3, 1)])
    asked = [replace(p, pixels=None, features=engine.runner.encode_images(p.pixels)) for p in prompts]
    mixed = [asked[0], prompts[1], asked[1], prompts[0], asked[0]]
    want = [engine.generate([p], Sampling(max_tokens=6))[0] for p in prompts]
    for got, i in zip(engine.generate(mixed, Sampling(max_tokens=6)), (0, 1, 1, 0, 0), strict=True):
        assert got.tokens == want[i].tokens
        assert got.logprobs == pytest.approx(want[i].logprobs, abs=1e-5)


def test_wrong_requests_are_refused_before_anything_runs() -> None:
    engine, (prompt,) = engine_of(1), prompts_of(1, [(1, 4, 0)])
    greedy = Sampling(max_tokens=2)
    with pytest.raises(UsageError, match="2 samplings were given for 1 prompts"):
        engine.generate([prompt], [greedy, greedy])
    with pytest.raises(UsageError, match="batch_size is 0"):
        engine.generate([prompt], greedy, batch_size=0)
    with pytest.raises(UsageError, match="3 greedy answers would all be the same"):
        engine.generate([prompt], greedy, num_return=3)
    with pytest.raises(UsageError, match="3 answers were asked of 2 beams"):
        engine.generate([prompt], Sampling(num_beams=2), num_return=3)
    with pytest.raises(UsageError, match="40 beams were asked for, but only 39 tokens"):
        engine.generate([prompt], Sampling(num_beams=40))
    with pytest.raises(UsageError, match="9 tokens and max_tokens is 8190, but this model knows 8192 positions"):
        engine.generate([prompt], Sampling(max_tokens=8190))
    with pytest.raises(UsageError, match="cannot be streamed"):
        engine.stream(prompt, Sampling(num_beams=2))
    with pytest.raises(InputError, match="prompt 1 has 4 image slots and 0 images"):
        engine.generate([prompt, replace(prompt, pixels=None)], greedy)


@pytest.mark.parametrize("eos_id", [(), 48, -1, 45, [EOS, IMAGE_ID]])
def test_an_engine_needs_an_end(eos_id: Any) -> None:
    with pytest.raises(UsageError, match="leave no way to end an answer"):
        Engine(tiny(1), eos_id=eos_id, forbidden_ids=[IMAGE_ID])


def test_scores_that_are_no_numbers_stop_the_run() -> None:
    model = draw_model(TINY[1])
    model.language_model.norm.weight.data[3] = math.nan
    with pytest.raises(CheckFailed, match="scores that are no numbers"):
        Engine(model, eos_id=EOS).generate(prompts_of(1, [(1, 4, 0)]))


def test_too_little_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(1)

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Pool, "begin", exhausted)
    with pytest.raises(ResourceError, match="with 2 prompts at once; lower batch_size"):
        engine.generate(prompts_of(1, MIXED[:2]), Sampling(max_tokens=2))
