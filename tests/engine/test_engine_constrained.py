import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import EOS, IMAGE_ID, TINY, draw_model, draw_prompt

from paligemma.engine import Engine, Generation, Sampling, generate_slowly
from paligemma.engine.ragged import Pool
from paligemma.errors import UsageError
from paligemma.model import PaliGemmaModel

VOCAB = TINY[1].text.vocab_size
WATCH = ((4, 20), (15, 40))
GENERATIONS = [1, 2]


class Automaton:
    """A random grammar: in half of the states one id is forced, in the others a range, a list or everything goes."""

    def __init__(self, seed: int, forced: float = 0.5):
        self.random = random.Random(seed)
        self.table = [self._draw(forced) for _ in range(self.random.randint(1, 12))]

    def _draw(self, forced: float) -> Any:
        if self.random.random() < forced:
            return [EOS] if self.random.random() < 0.05 else (self.random.randrange(2, VOCAB),)
        start = self.random.randrange(VOCAB - 8)
        some = self.random.sample(range(VOCAB), self.random.randint(2, 9))
        most = self.random.sample(range(TINY[1].text.embedding_rows), 40)
        return self.random.choice([range(start, start + 8), some, (EOS, *some), most, None])

    def start(self) -> int:
        return 0

    def allowed(self, state: int) -> Any:
        return self.table[state]

    def lone(self, state: int) -> int | None:
        ids = self.table[state]
        return ids[0] if isinstance(ids, tuple) and len(ids) > 1 else None

    def advance(self, state: int, token_id: int) -> int:
        assert token_id != EOS
        assert self.table[state] is None or token_id in self.table[state]
        return (7 * state + token_id) % len(self.table)

    def accepts(self, generation: Generation) -> bool:
        state = self.start()
        for token in generation.tokens:
            state = self.advance(state, token)
        return generation.finish_reason != "stop" or self.table[state] is None or EOS in self.table[state]


class Script:
    """Forces everything: these tokens, then eos. A tuple is a choice instead."""

    def __init__(self, *tokens: Any):
        self.tokens = tokens

    def start(self) -> int:
        return 0

    def allowed(self, state: int) -> Any:
        if state == len(self.tokens):
            return [EOS]
        return self.tokens[state] if isinstance(self.tokens[state], tuple) else [self.tokens[state]]

    def lone(self, state: int) -> None:
        return None

    def advance(self, state: int, token_id: int) -> int:
        assert token_id in self.allowed(state)
        return state + 1


class Lists:
    """Allows one list, whatever was said."""

    def __init__(self, allowed: Sequence[int]):
        self.ids = allowed

    def start(self) -> int:
        return 0

    def allowed(self, state: int) -> Sequence[int]:
        return self.ids

    def lone(self, state: int) -> None:
        return None

    def advance(self, state: int, token_id: int) -> int:
        return state


@cache
def tiny(generation: int, seed: int = 0) -> PaliGemmaModel:
    return draw_model(TINY[generation], seed)


def engine_of(generation: int, seed: int = 0) -> Engine:
    return Engine(tiny(generation, seed), eos_id=EOS, forbidden_ids=[IMAGE_ID])


def prompts_of(generation: int, shapes: Sequence[tuple[int, int, int]], seed: int = 0) -> list[Any]:
    return [
        draw_prompt(TINY[generation], images, length, seed=seed + i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(shapes)
    ]


def log_p_of(model: PaliGemmaModel, prompt: Any, tokens: Sequence[int]) -> torch.Tensor:
    """float[n, V]: what the model expects in the place of each token, by one pass over everything."""
    row = torch.cat((prompt.tokens, torch.tensor(tokens, dtype=torch.int64)))
    mask_ar = torch.cat((prompt.mask_ar, torch.ones(len(tokens), dtype=torch.int64)))
    with torch.no_grad():
        return model(row[None], prompt.pixels, mask_ar[None])[0, len(prompt.tokens) - 1 :].log_softmax(-1)


def agree(one: Generation, other: Generation) -> None:
    assert one.tokens == other.tokens
    assert one.finish_reason == other.finish_reason
    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    for a, b in zip(one.watched, other.watched, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-4)


def follows(model: PaliGemmaModel, prompt: Any, script: Script, found: Generation) -> None:
    """Every token is the best allowed one, with the model's own log-probability, up to eos."""
    said = [*found.tokens, EOS]
    assert found.finish_reason == "stop"
    log_p = log_p_of(model, prompt, found.tokens)
    for place, token in enumerate(said):
        assert token == max(script.allowed(place), key=lambda i: float(log_p[place, i]))
    assert found.logprobs == pytest.approx([float(log_p[i, t]) for i, t in enumerate(said)], abs=1e-4)


SHAPES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=5)


@given(st.sampled_from(GENERATIONS), SHAPES, st.integers(0, 3), st.integers(1, 7), st.integers(0, 10**6), st.data())
@settings(max_examples=20, deadline=None)
def test_forced_tokens_in_one_pass_change_nothing(
    generation: int, shapes: list[tuple[int, int, int]], seed: int, batch_size: int, grammar: int, data: Any
) -> None:
    model, prompts = tiny(generation, seed), prompts_of(generation, shapes, seed)
    constraints = [
        data.draw(st.sampled_from([Automaton(grammar + i), Automaton(grammar + i, 0.9), None]))
        for i in range(len(prompts))
    ]
    limits = [data.draw(st.integers(1, 14)) for _ in prompts]
    samplings = [Sampling(max_tokens=limit) for limit in limits]
    together, apart = (
        engine_of(generation, seed).generate(
            prompts, samplings, batch_size=batch_size, constraints=constraints, watch=WATCH, force_in_one_step=one_step
        )
        for one_step in (True, False)
    )
    for prompt, limit, constraint, fast, slow in zip(prompts, limits, constraints, together, apart, strict=True):
        agree(fast, slow)
        want = generate_slowly(
            model, prompt, limit, eos_ids=[EOS], forbidden_ids=[IMAGE_ID], constraint=constraint
        )  # fmt: skip
        assert fast.tokens == want
        assert fast.finish_reason == ("stop" if len(fast.logprobs) > len(want) else "length")
        assert constraint is None or constraint.accepts(fast)
        assert fast.steps <= slow.steps == len(slow.logprobs) - 1
        log_p = log_p_of(model, prompt, want)
        said = want + [EOS] * (fast.finish_reason == "stop")
        assert fast.logprobs == pytest.approx([float(log_p[i, t]) for i, t in enumerate(said)], abs=1e-4)
        for i, token in enumerate(said):
            start, stop = next((r for r in WATCH if r[0] <= token < r[1]), (0, 0))
            assert (fast.watched[i] is None) == (stop == 0)
            assert stop == 0 or torch.allclose(fast.watched[i], log_p[i, start:stop], atol=1e-4)


def test_padding_inside_the_cache_does_not_move_a_window() -> None:
    """Gemma 2 sees 6 positions back; the long chains of one row put far more padding than that into the other."""
    prompts = prompts_of(2, [(1, 4, 0), (1, 4, 0)])
    chatty = Script(*[t for _ in range(3) for t in ((5, 6), *range(8, 20))])
    short = Script(*[(20 + i, 30 + i) for i in range(9)])
    got = engine_of(2).generate(prompts, Sampling(max_tokens=40), constraints=[chatty, short])
    assert [g.steps for g in got] == [3, 9]
    for prompt, script, found in zip(prompts, (chatty, short), got, strict=True):
        follows(tiny(2), prompt, script, found)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_chains_of_any_lengths_fit_their_rows(generation: int) -> None:
    """Chains that fall in turn, one row's after another's, up to the last slot."""
    rows, turns, length = 5, 4, 12
    limit = rows * turns + turns * (length - 1) + 1  # and eos, in the last slot
    scripts = [
        Script(*[
            token
            for turn in range(rows * turns)
            for token in ((4, 5), *(range(8, 8 + length - 1) if turn % rows == row else ()))
        ])
        for row in range(rows)
    ]  # fmt: skip
    prompts = prompts_of(generation, [(1, n, 0) for n in range(rows)])
    got = engine_of(generation).generate(prompts, Sampling(max_tokens=limit), constraints=scripts)
    for prompt, script, found in zip(prompts, scripts, got, strict=True):
        follows(tiny(generation), prompt, script, found)


def test_what_is_forced_costs_no_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, prompts = engine_of(1), prompts_of(1, [(1, 3, 0), (0, 4, 0)])
    fed, scored = [], []
    feed, logits = Pool.feed, engine.runner.logits
    monkeypatch.setattr(Pool, "feed", lambda self, r, c: fed.append([list(one) for one in c]) or feed(self, r, c))
    monkeypatch.setattr(engine.runner, "logits", lambda h: scored.append(len(h)) or logits(h))
    scripts = [Script((5, 6), 7, 8, (9, 10), 11), Script(12, 13)]
    got = engine.generate(prompts, Sampling(max_tokens=9), constraints=scripts)
    a, b = (tokens[0] for tokens in (got[0].tokens, got[0].tokens[3:]))
    assert fed == [[[a, 7, 8], [12, 13]], [[b, 11]]], "eos is never fed, and all of the second row goes at once"
    assert scored == [3 + 2, 2]
    assert [g.steps for g in got] == [2, 1]
    assert [g.finish_reason for g in got] == ["stop", "stop"]
    assert [len(g.logprobs) for g in got] == [6, 3]


def test_max_tokens_cuts_inside_a_chain() -> None:
    (prompt,) = prompts_of(1, [(1, 3, 0)])
    whole = engine_of(1).generate([prompt], constraints=[Script((5, 6), 7, 8, 9)])[0]
    for limit in range(1, 6):
        (cut,) = engine_of(1).generate([prompt], Sampling(max_tokens=limit), constraints=[Script((5, 6), 7, 8, 9)])
        assert cut.tokens == whole.tokens[:limit]
        assert cut.logprobs == pytest.approx(whole.logprobs[:limit], abs=1e-5)
        assert cut.finish_reason == ("length" if limit < 5 else "stop")
        assert cut.steps == (limit > 1)


def test_a_very_long_chain_is_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, prompts = engine_of(2), prompts_of(2, [(1, 3, 0), (0, 2, 0), (1, 0, 0)])
    sizes, logits = [], engine.runner.logits
    monkeypatch.setattr(engine.runner, "logits", lambda h: sizes.append(len(h)) or logits(h))
    scripts = [Script(*[4 + (i * i) % 30 for i in range(n)]) for n in (70, 20, 60)]
    got = engine.generate(prompts, Sampling(max_tokens=100), constraints=scripts)
    assert sizes == [64, 64, 22]
    for prompt, script, found in zip(prompts, scripts, got, strict=True):
        follows(tiny(2), prompt, script, found)


@pytest.mark.parametrize(
    "settings_",
    [
        {"temperature": 3.0, "seed": 5},
        {"temperature": 3.0, "top_k": 3},
        {"temperature": 2.0, "top_p": 0.7},
        {"num_beams": 3},
        {"num_beams": 2, "length_penalty": 0.0},
        {"num_beams": 3, "beam_scoring": "big_vision"},
    ],
)
@pytest.mark.parametrize("grammar", range(6))
def test_nothing_malformed_is_ever_said(settings_: dict[str, Any], grammar: int) -> None:
    automaton, prompts = Automaton(grammar), prompts_of(2, [(1, 3, 0), (0, 4, 0), (1, 1, 1)])
    sampling = Sampling(max_tokens=9, **settings_)
    found, again = (
        engine_of(2).generate(prompts, sampling, constraints=[automaton] * 3, force_in_one_step=one_step)
        for one_step in (True, False)
    )
    for prompt, one, other in zip(prompts, found, again, strict=True):
        assert automaton.accepts(one)
        assert one.tokens == other.tokens
        assert len(one.watched) == len(one.logprobs)
        log_p = log_p_of(tiny(2), prompt, one.tokens)
        said = one.tokens + [EOS] * (one.finish_reason == "stop")
        assert one.logprobs == pytest.approx([float(log_p[i, t]) for i, t in enumerate(said)], abs=1e-4)


@pytest.mark.parametrize("allowed", [(5, 9, 11, 30), range(7, 11), tuple(i for i in range(48) if i % 3)])
def test_constrained_draws_are_those_of_the_allowed_tokens_alone(allowed: Sequence[int]) -> None:
    (prompt,) = prompts_of(1, [(1, 4, 0)])
    sampling = Sampling(max_tokens=1, temperature=2.0)
    drawn = engine_of(1).generate([prompt], sampling, num_return=1500, batch_size=1, constraints=[Lists(allowed)])
    spoken = [token for token in allowed if token < VOCAB]
    log_p = log_p_of(tiny(1), prompt, [])[0, spoken]
    expected = 1500 * (log_p / 2).softmax(-1)
    counts = torch.tensor([sum(g.tokens == [token] for g in drawn) for token in spoken])
    counts[[token == EOS for token in spoken]] = sum(g.tokens == [] for g in drawn)
    assert int(counts.sum()) == 1500
    limit = 16.3 if len(spoken) == 4 else 54.1  # 3 or 26 degrees, p = 0.001
    assert float(((counts - expected).square() / expected).sum()) < limit


def test_wide_beams_find_the_best_allowed_answer() -> None:
    prompts = prompts_of(1, [(1, 4, 0), (0, 3, 0)])
    grammar = Script((5, 9), 7, (11, 12, 13))
    for scoring in ("hf", "big_vision"):
        sampling = Sampling(max_tokens=8, num_beams=6, beam_scoring=scoring)  # type: ignore[arg-type]
        for prompt, found in zip(
            prompts, engine_of(1).generate(prompts, sampling, constraints=[grammar] * 2), strict=True
        ):
            answers = {}
            for a in (5, 9):
                for b in (11, 12, 13):
                    log_p = log_p_of(tiny(1), prompt, [a, 7, b])
                    answers[a, 7, b] = sum(float(log_p[i, t]) for i, t in enumerate([a, 7, b, EOS]))
            assert tuple(found.tokens) == max(answers, key=lambda answer: answers[answer])
            assert math.fsum(found.logprobs) == pytest.approx(max(answers.values()), abs=1e-4)


def test_a_grammar_without_an_end_is_cut_under_beams_too() -> None:
    (prompt,) = prompts_of(1, [(1, 4, 0)])
    for scoring in ("hf", "big_vision"):
        sampling = Sampling(max_tokens=3, num_beams=2, beam_scoring=scoring)  # type: ignore[arg-type]
        (found,) = engine_of(1).generate([prompt], sampling, constraints=[Script(*[(5, 6)] * 9)])
        assert (len(found.tokens), found.finish_reason) == (3, "length")
        assert math.isfinite(found.score)


def test_several_answers_share_a_grammar() -> None:
    (prompt,) = prompts_of(1, [(1, 4, 0)])
    grammar, sampling = Script((5, 6), 7, (8, 9), 10, (11, 12)), Sampling(temperature=9.0, seed=3)
    several = engine_of(1).generate([prompt], sampling, num_return=6, constraints=[grammar])
    assert len({tuple(g.tokens) for g in several}) > 1
    for i, one in enumerate(several):
        (alone,) = engine_of(1).generate([prompt], replace(sampling, seed=3 + i), constraints=[grammar])
        agree(one, alone)


@pytest.mark.parametrize("seed", range(4))
def test_a_constrained_stream_equals_generate(seed: int) -> None:
    for prompt in prompts_of(2, [(1, 4, 0), (0, 2, 1)]):
        for grammar in (Automaton(seed), Automaton(seed, 0.9), Script((4, 5), 6, 7)):
            (whole,) = engine_of(2).generate([prompt], Sampling(max_tokens=7), constraints=[grammar])
            tokens = list(engine_of(2).stream(prompt, Sampling(max_tokens=7), grammar))
            assert [t.logprob for t in tokens] == whole.logprobs
            assert [t.id for t in tokens][: len(whole.tokens)] == whole.tokens
            assert [t.finish_reason for t in tokens] == [None] * (len(tokens) - 1) + [whole.finish_reason]


def test_wrong_constraints_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, (prompt,) = engine_of(1), prompts_of(1, [(1, 4, 0)])
    monkeypatch.setattr(Pool, "begin", None)
    with pytest.raises(UsageError, match="2 constraints were given for 1 prompts"):
        engine.generate([prompt], constraints=[None, None])
    with pytest.raises(UsageError, match="0 constraints were given for 1 prompts"):
        engine.generate([prompt], constraints=[])
    for beams in (1, 2):
        with pytest.raises(UsageError, match="allows ids from 99 to 99"):
            engine.generate([prompt], Sampling(num_beams=beams), constraints=[Script(99)])
        with pytest.raises(UsageError, match="allows no token"):
            engine.generate([prompt], Sampling(num_beams=beams), constraints=[Script(())])
    for wrong in ((-1, 4), (4, 4), (4, 49)):
        with pytest.raises(UsageError, match="cannot be watched among 48 ids"):
            engine.generate([prompt], watch=[wrong])
