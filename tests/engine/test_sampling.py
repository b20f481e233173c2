import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paligemma.engine.constraints import Choice
from paligemma.engine.sampling import (
    FEWEST_REPEATED,
    Chain,
    Generation,
    Repeats,
    Sampling,
    Single,
    Step,
    distribution,
    draw,
    keep_top_k,
    keep_top_p,
)
from paligemma.errors import UsageError

NOTHING = torch.tensor([], dtype=torch.int64)


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


def step_of(*probabilities: float, forbidden: tuple[int, ...] = ()) -> Step:
    return Step.of(logits_of(*probabilities)[None].clone(), torch.tensor(forbidden, dtype=torch.int64))


def probabilities_of(logits: Tensor, **settings: Any) -> list[float]:
    return distribution(logits, Sampling(**{"temperature": 1.0, **settings})).tolist()


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return float(((counts - expected).square() / expected).sum())


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.4, 0.05, 0.3, 0.05, 0.2])
    random, sampling = torch.Generator().manual_seed(0), Sampling(temperature=1.0)
    drawn = torch.tensor([draw(probabilities.log(), sampling, random) for _ in range(4000)])
    assert chi_square(drawn.bincount(minlength=5), 4000 * probabilities) < 18.5  # 4 degrees, p = 0.001


def test_temperature_divides_the_logits() -> None:
    want = (logits_of(0.5, 0.3, 0.2) / 0.5).softmax(-1).tolist()
    assert probabilities_of(logits_of(0.5, 0.3, 0.2), temperature=0.5) == pytest.approx(want)
    nearly_zero = probabilities_of(logits_of(0.5, 0.3, 0.2), temperature=1e-30)
    assert nearly_zero == [1.0, 0.0, 0.0]


def test_top_k_keeps_k_and_what_ties_with_the_last() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0])
    kept = [sorted((keep_top_k(logits, k) > -math.inf).nonzero().flatten().tolist()) for k in (1, 2, 3, 4, 5, 99)]
    assert kept == [[1], [1, 2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert probabilities_of(logits_of(0.5, 0.25, 0.25), top_k=1) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-9, [0]), (0.49, [0]), (0.51, [0, 1]), (0.74, [0, 1]), (0.76, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p_with_ties(top_p: float, kept: list[int]) -> None:
    nucleus = keep_top_p(logits_of(0.5, 0.25, 0.125, 0.125), top_p)
    assert (nucleus > -math.inf).nonzero().flatten().tolist() == kept


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_the_nucleus_reaches_p_and_would_not_without_its_last(values: list[float], top_p: float) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    probabilities, kept = logits.softmax(-1), keep_top_p(logits, top_p) > -math.inf
    assert probabilities[kept].sum() >= top_p - 1e-9
    without_last = kept & (logits > logits[kept].min())
    assert probabilities[without_last].sum() < top_p + 1e-9
    assert not kept.all() or top_p > 0
    if (~kept).any():
        assert logits[~kept].max() < logits[kept].min()


def test_top_p_acts_on_what_top_k_left() -> None:
    both = probabilities_of(logits_of(0.4, 0.3, 0.2, 0.1), top_k=2, top_p=0.55)  # 4/7 of two is 0.571
    assert both == pytest.approx([1.0, 0.0, 0.0, 0.0])


def test_forbidden_tokens_are_never_drawn_and_leave_the_logprob_alone() -> None:
    for seed in range(50):
        search = Single(Sampling(temperature=5.0, seed=seed, max_tokens=1), {9})
        search.advance(step_of(0.9, 0.06, 0.04, forbidden=(0,)))
        (generation,) = search.results()
        assert generation.tokens[0] in (1, 2)
        assert generation.logprobs[0] == pytest.approx(math.log({1: 0.06, 2: 0.04}[generation.tokens[0]]), abs=1e-5)


def test_greedy_takes_the_best_allowed_token() -> None:
    search = Single(Sampling(max_tokens=1), {9})
    search.advance(step_of(0.9, 0.04, 0.06, forbidden=(0,)))
    (generation,) = search.results()
    assert generation.tokens == [2]
    assert generation.score == generation.logprobs[0] == pytest.approx(math.log(0.06), abs=1e-5)


def test_a_seed_repeats_itself_and_another_does_not() -> None:
    def tokens(seed: int, answer: int = 0) -> list[int]:
        search = Single(Sampling(temperature=1.0, seed=seed, max_tokens=20), {99}, answer)
        while search.advance(step_of(*[0.1] * 10)).chains:
            pass
        return search.results()[0].tokens

    assert tokens(3) == tokens(3)
    assert tokens(3) != tokens(4)
    assert tokens(3, answer=1) == tokens(4)


def test_eos_ends_and_is_counted_in_the_score_only() -> None:
    search = Single(Sampling(max_tokens=5), {1})
    assert search.advance(step_of(0.2, 0.1, 0.7)).chains == [Chain([2])]
    assert search.advance(step_of(0.2, 0.7, 0.1)).chains == []
    (generation,) = search.results()
    assert generation.tokens == [2]
    assert generation.finish_reason == "stop"
    assert generation.logprobs == pytest.approx([math.log(0.7)] * 2, abs=1e-5)
    assert generation.score == pytest.approx(2 * math.log(0.7), abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": 2.0},
        {"max_tokens": True},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"seed": -1},
        {"seed": 2**63},
        {"num_beams": 0},
        {"beam_scoring": "HF"},
        {"length_penalty": math.nan},
        {"stop_repeats": 1},
        {"stop_repeats": 2.5},
        {"num_beams": 2, "temperature": 1.0},
        {"beam_scoring": "big_vision", "length_penalty": 0.5},
    ],
)
def test_wrong_settings_are_refused_with_the_value_found(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(wrong.values()))).replace("*", ".")):
        Sampling(**wrong)


# --- answers that run in circles --------------------------------------------------------------------------------------


def ends_in_a_circle(tokens: Sequence[int], times: int) -> bool:
    """The definition, word by word."""
    for cycle in range(1, len(tokens) // times + 1):
        length = max(times * cycle, FEWEST_REPEATED)
        tail = tokens[-length:]
        if len(tail) == length and all(tail[i] == tail[i % cycle] for i in range(length)):
            return True
    return False


@given(
    st.integers(2, 20), st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), min_size=1, max_size=9)
)
def test_a_circle_is_noticed_as_soon_as_it_is_one(times: int, before: list[int], cycle: list[int]) -> None:
    tokens = before + cycle * (times + FEWEST_REPEATED // len(cycle) + 1)
    repeats = Repeats(times, len(tokens))
    for length in range(1, len(tokens) + 1):
        found = repeats.found(tokens[:length])
        assert found == ends_in_a_circle(tokens[:length], times)
        if found:
            return
    pytest.fail("never noticed")


def says(tokens: Sequence[int], **settings: Any) -> Generation:
    """What comes of a model that wants to say these tokens."""
    search = Single(Sampling(**settings), {9})
    for token in tokens:
        if not search.advance(step_of(*[0.91 if i == token else 0.01 for i in range(10)])).chains:
            break
    return search.results()[0]


def test_an_answer_that_runs_in_circles_is_ended_and_kept() -> None:
    circle = [8, 8, *[1, 2, 3, 4] * 30]
    stopped = says(circle)
    assert (stopped.finish_reason, stopped.tokens) == ("repetition", circle[: 2 + 16 * 4])
    assert len(stopped.logprobs) == len(stopped.tokens) == len(stopped.watched)
    assert says(circle, stop_repeats=12).tokens == circle[: 2 + 48]
    assert says(circle, stop_repeats=None, max_tokens=100).finish_reason == "length"
    assert says([1] * 128).tokens == [1] * 48


def test_tables_may_repeat_themselves() -> None:
    dotted, column = [1] * 47, [1, 2, 3, 4, 5] * 15
    for table in (dotted, column, [*column, 7, *column], [*dotted, 2, *dotted]):
        assert says([*table, 9], max_tokens=500).finish_reason == "stop"


def test_the_largest_seed_works() -> None:
    Single(Sampling(seed=2**63 - 1, temperature=1.0), {1}, answer=1).advance(step_of(0.5, 0.5))


@pytest.mark.parametrize("ids", [slice(0, 4), torch.tensor([0, 1, 3]), slice(None)])
@pytest.mark.parametrize(
    ("probabilities", "best"),
    [((0.4, 0.3, 0.05, 0.25), 1), ((0.6, 0.2, 0.05, 0.15), 0), ((0.2, 0.1, 0.0, 0.7), 3)],
)
def test_a_lone_id_needs_more_than_all_the_others_together(ids: Any, probabilities: Any, best: int) -> None:
    """The third case: it is not even the likeliest."""
    excluded = torch.tensor([2]) if ids == slice(None) else None
    scores = logits_of(*probabilities)[None].clone()
    step = Step.of(scores, NOTHING, [Choice(ids, excluded=excluded, lone=0)])
    assert step.best == [best]
    assert step.best_logprob == pytest.approx([math.log(probabilities[best])], abs=1e-5)
    without = Step.of(scores, NOTHING, [Choice(ids, excluded=excluded)])
    assert without.best == [max(range(4), key=lambda i: probabilities[i])]
