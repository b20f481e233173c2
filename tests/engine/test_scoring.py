import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import EOS, IMAGE_ID, TINY, collate, draw_model, draw_pair, draw_prompt, hf_inputs

from paligemma.engine import Engine, Sampling
from paligemma.engine.ragged import Pool
from paligemma.errors import CheckFailed, InputError, ResourceError, UsageError
from paligemma.model import PaliGemmaModel

VOCAB = TINY[1].text.vocab_size
CANDIDATES = [[], [EOS], [5], [7, 8, EOS], [7, 9], [30, 3, 3, 12, 20, 4, 9, 11, EOS]]


@cache
def tiny(generation: int) -> PaliGemmaModel:
    return draw_model(TINY[generation])


def engine_of(generation: int) -> Engine:
    return Engine(tiny(generation), eos_id=EOS, forbidden_ids=[IMAGE_ID])


def teacher_forced(model: PaliGemmaModel, prompt: Any, candidate: list[int]) -> list[float]:
    row = torch.cat((prompt.tokens, torch.tensor(candidate, dtype=torch.int64)))
    mask_ar = torch.cat((prompt.mask_ar, torch.ones(len(candidate), dtype=torch.int64)))
    with torch.no_grad():
        log_p = model(row[None], prompt.pixels, mask_ar[None])[0].log_softmax(-1)
    return [float(log_p[len(prompt.tokens) + i - 1, token]) for i, token in enumerate(candidate)]


@given(
    st.sampled_from([1, 2]),
    st.lists(
        st.lists(st.lists(st.integers(0, VOCAB + 7), max_size=9), max_size=5), min_size=1, max_size=4
    ),
    st.integers(1, 5),
    st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_scores_are_those_of_one_pass_over_everything(
    generation: int, candidates: list[list[list[int]]], batch_size: int, seed: int
) -> None:
    prompts = [
        draw_prompt(TINY[generation], (seed + i) % 3, (seed // 3 + 5 * i) % 7, seed=seed + i)
        for i in range(len(candidates))
    ]
    got = engine_of(generation).score(prompts, candidates, batch_size=batch_size)
    for prompt, own, scores in zip(prompts, candidates, got, strict=True):
        assert len(own) == len(scores)
        for candidate, found in zip(own, scores, strict=True):
            assert found == pytest.approx(teacher_forced(tiny(generation), prompt, candidate), abs=1e-4)


@pytest.mark.parametrize("generation", [1, 2])
def test_transformers_gives_the_same_scores(generation: int) -> None:
    hf, ours = draw_pair(generation, 3)
    prompts = [draw_prompt(TINY[generation], 1, 4, seed=1), draw_prompt(TINY[generation], 2, 2, seed=2)]
    got = Engine(ours, eos_id=EOS).score(prompts, [CANDIDATES, CANDIDATES])
    for prompt, scores in zip(prompts, got, strict=True):
        for candidate, found in zip(CANDIDATES, scores, strict=True):
            ones = torch.ones(len(candidate), dtype=torch.int64)
            row = replace(
                prompt,
                tokens=torch.cat((prompt.tokens, torch.tensor(candidate, dtype=torch.int64))),
                mask_ar=torch.cat((prompt.mask_ar, ones)),
                mask_loss=torch.cat((prompt.mask_loss, ones)),
            )
            batch = collate([row], "left")
            with torch.no_grad():
                logits = hf(**hf_inputs(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)).logits[0]
            log_p = logits.float().log_softmax(-1)
            want = [float(log_p[len(prompt.tokens) + i - 1, token]) for i, token in enumerate(candidate)]
            assert found == pytest.approx(want, abs=1e-4)


def test_what_was_said_scores_what_it_was_said_with() -> None:
    prompts = [draw_prompt(TINY[2], 1, n, seed=n) for n in (3, 0, 6)]
    said = engine_of(2).generate(prompts, Sampling(max_tokens=7, temperature=2.0))
    answers = [[g.tokens + [EOS] * (g.finish_reason == "stop")] for g in said]
    for (scores,), generation in zip(engine_of(2).score(prompts, answers), said, strict=True):
        assert scores == pytest.approx(generation.logprobs, abs=1e-4)


def test_first_tokens_are_a_distribution() -> None:
    prompt = draw_prompt(TINY[1], 1, 3)
    rows = TINY[1].text.embedding_rows
    (scores,) = engine_of(1).score([prompt], [[[token] for token in range(rows)]])
    assert math.fsum(math.exp(one) for (one,) in scores) == pytest.approx(1, abs=1e-5)


def test_a_prompt_runs_once_for_all_its_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, prompts = engine_of(1), [draw_prompt(TINY[1], 1, n) for n in (3, 5, 1)]
    prefilled, fed = [], []
    prefill, feed = Pool.prefill, Pool.feed
    monkeypatch.setattr(Pool, "prefill", lambda self, p: prefilled.append(len(p)) or prefill(self, p))
    monkeypatch.setattr(Pool, "feed", lambda self, r, c: fed.append([len(one) for one in c]) or feed(self, r, c))
    engine.score(prompts, [CANDIDATES] * 3, batch_size=4)
    assert prefilled == [3]
    assert fed == [[8, 8, 8, 2], [2, 2, 1, 1], [1]], "single tokens come with the prompt"
    prefilled.clear(), fed.clear()
    engine.score(prompts, [[[4], [5]]] * 3, batch_size=2)
    assert (prefilled, fed) == ([2, 1], [])


def test_no_prompt_no_score() -> None:
    assert engine_of(1).score([], []) == []
    assert engine_of(1).score([draw_prompt(TINY[1], 1, 3)], [[]]) == [[]]


def test_candidates_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, prompt = engine_of(1), draw_prompt(TINY[1], 1, 3)
    monkeypatch.setattr(Pool, "prefill", None)
    with pytest.raises(UsageError, match="candidates for 2 prompts were given with 1 prompts"):
        engine.score([prompt], [[], []])
    with pytest.raises(UsageError, match="batch_size 0"):
        engine.score([prompt], [[]], batch_size=0)
    with pytest.raises(UsageError, match="8 tokens and the longest candidate is 8190, but this model knows 8192"):
        engine.score([prompt], [[[4], [4] * 8190]])
    for ids in ([4, 48], [-1]):
        with pytest.raises(InputError, match="prompt 0 has candidates with token ids from"):
            engine.score([prompt], [[ids]])
    with pytest.raises(InputError, match="prompt 0 has 4 image slots and 0 images"):
        engine.score([replace(prompt, pixels=None)], [[[4]]])


def test_scores_that_are_no_numbers_and_too_little_memory_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = draw_model(TINY[1]), draw_prompt(TINY[1], 1, 4)
    engine = Engine(model, eos_id=EOS)
    model.language_model.norm.weight.data[3] = math.nan
    with pytest.raises(CheckFailed, match="scores that are no numbers"):
        engine.score([prompt], [[[4, 5]]])

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Pool, "prefill", exhausted)
    with pytest.raises(ResourceError, match="with 1 prompts at once"):
        engine.score([prompt], [[[4, 5]]])
