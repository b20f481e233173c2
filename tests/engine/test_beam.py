import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import EOS, IMAGE_ID, TINY, collate, draw_pair, draw_prompt, hf_inputs

from paligemma.engine import Engine, Sampling
from paligemma.engine.beam import BigVisionBeams, HuggingFaceBeams
from paligemma.engine.sampling import Generation, Search, Step
from paligemma.errors import UsageError

A, B, STOP = 0, 1, 2
Table = Callable[[tuple[int, ...]], Sequence[float]]  # probabilities of the next token after these


def search_table(search: Search, table: Table) -> list[Generation]:
    """What the engine does, with a table instead of a model."""
    nothing = torch.tensor([], dtype=torch.int64)
    rows: list[tuple[int, ...]] = [()]
    while rows:
        step = Step.of(torch.tensor([table(row) for row in rows]).log(), nothing)
        advance = search.advance(step)
        rows = [(*rows[parent], *chain.tokens) for parent, chain in zip(*advance, strict=True)]
    return search.results()


def big_vision(width: int, max_tokens: int) -> BigVisionBeams:
    return BigVisionBeams(Sampling(num_beams=width, max_tokens=max_tokens, beam_scoring="big_vision"), {STOP})


def hugging_face(width: int, max_tokens: int, penalty: float = 1.0, num_return: int = 1) -> HuggingFaceBeams:
    sampling = Sampling(num_beams=width, max_tokens=max_tokens, length_penalty=penalty)
    return HuggingFaceBeams(sampling, {STOP}, num_return)


def test_big_vision_of_width_1_is_not_greedy() -> None:
    table = {(): (0.5, 0.1, 0.4), (A,): (0.5, 0.2, 0.3), (A, A): (0.1, 0.2, 0.7)}.get
    (found,) = search_table(big_vision(1, 3), table)  # type: ignore[arg-type]
    # Greedy would say A A STOP (0.5 * 0.5 * 0.7 = 0.175); ending at once has 0.4, and no live beam beats it after A A.
    assert (found.tokens, found.finish_reason) == ([], "stop")
    assert found.score == pytest.approx(math.log(0.4), abs=1e-5)


def test_big_vision_goes_on_when_the_likeliest_token_is_eos() -> None:
    table = {(): (0.3, 0.0, 0.7), (A,): (0.9, 0.0, 0.1)}
    search = big_vision(1, 3)
    advance = search.advance(Step.of(torch.tensor([table[()]]).log(), torch.tensor([], dtype=torch.int64)))
    assert advance.chains == [], "0.3 < 0.7: nothing can still win"
    table = {(): (0.45, 0.0, 0.55), (A,): (0.0, 0.0, 1.0)}
    (found,) = search_table(big_vision(1, 3), lambda row: table[row])
    assert found.tokens == []


def test_big_vision_keeps_the_best_ending_seen_on_the_way() -> None:
    table = {(): (0.6, 0.35, 0.05), (A,): (0.2, 0.2, 0.6), (B,): (0.05, 0.05, 0.9)}
    (found,) = search_table(big_vision(2, 2), lambda row: table[row])
    assert found.tokens == [A]  # 0.36 against 0.315
    assert found.logprobs == pytest.approx([math.log(0.6), math.log(0.6)], abs=1e-5)
    one_token_only = search_table(big_vision(2, 1), lambda row: table[row])
    assert one_token_only[0].tokens == [], "with one token, it must be eos"


def test_width_2_finds_what_width_1_misses() -> None:
    table = {(): (0.55, 0.44, 0.01), (A,): (0.5, 0.4, 0.1), (B,): (0.01, 0.01, 0.98)}

    def after(row: tuple[int, ...]) -> Sequence[float]:
        return table.get(row, (0.4, 0.4, 0.2))

    assert search_table(big_vision(1, 3), after)[0].tokens != [B]
    assert search_table(big_vision(2, 3), after)[0].tokens == [B]
    assert search_table(hugging_face(2, 3, penalty=0.0), after)[0].tokens == [B]


def test_eos_among_the_best_tokens_costs_no_beam() -> None:
    table = {(): (0.35, 0.25, 0.4), (A,): (0.9, 0.05, 0.05), (B,): (0.5, 0.0, 0.5)}
    search = big_vision(2, 5)
    advance = search.advance(Step.of(torch.tensor([table[()]]).log(), torch.tensor([], dtype=torch.int64)))
    assert advance.chains == [], "0.35 cannot beat 0.4 any more"
    assert [beam.tokens for beam in search.live] == [[A], [B]]


def random_table(seed: int) -> Table:
    def after(row: tuple[int, ...]) -> Sequence[float]:
        generator = torch.Generator().manual_seed(seed * 1000 + sum((t + 1) * 4**i for i, t in enumerate(row)))
        return torch.randn(3, generator=generator).mul(2).softmax(-1).tolist()

    return after


def all_answers(table: Table, length: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every answer that stops, or reaches `length` tokens without."""
    found = {}
    for n in range(1, length + 1):
        for row in itertools.product((A, B, STOP), repeat=n):
            if STOP not in row[:-1] and (row[-1] == STOP or n == length):
                found[row] = math.fsum(math.log(table(row[:i])[token]) for i, token in enumerate(row))
    return found


@given(st.integers(0, 10**6))
def test_beams_as_wide_as_the_tree_find_the_best_answer(seed: int) -> None:
    table, length = random_table(seed), 3
    answers = all_answers(table, length)
    stopped = {row: logp for row, logp in answers.items() if row[-1] == STOP}
    (found,) = search_table(big_vision(8, length), table)
    assert found.score == pytest.approx(max(stopped.values()), abs=1e-4)
    assert stopped[(*found.tokens, STOP)] == pytest.approx(found.score, abs=1e-4)

    scores = sorted((logp / len(row) ** 0.7 for row, logp in answers.items()), reverse=True)
    best = search_table(hugging_face(8, length, penalty=0.7, num_return=3), table)
    assert [b.score for b in best] == pytest.approx(scores[:3], abs=1e-4)
    for b in best:
        assert math.fsum(b.logprobs) / len(b.logprobs) ** 0.7 == pytest.approx(b.score, abs=1e-4)


def suppressed(generation: int) -> list[int]:
    text = TINY[generation].text
    return [*range(text.vocab_size, text.embedding_rows)]


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize(
    ("width", "penalty", "max_tokens"), [(2, 1.0, 6), (3, 0.0, 7), (4, 2.0, 5), (3, -1.0, 6), (5, 0.5, 9)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_hf_scoring_equals_transformers(
    generation: int, width: int, penalty: float, max_tokens: int, seed: int
) -> None:
    hf, ours = draw_pair(generation, seed)
    shapes = [(1, 4), (2, 1)]
    prompts = [draw_prompt(TINY[generation], n, length, seed=seed + i) for i, (n, length) in enumerate(shapes)]
    batch = collate(prompts, "left")
    # A likely token as second eos, so that some beams end early.
    first = Engine(ours, eos_id=EOS).generate(prompts[:1], Sampling(max_tokens=3))[0].tokens
    eos_ids = [EOS, first[-1]]
    theirs = hf.generate(
        **hf_inputs(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input), num_beams=width, do_sample=False,
        num_return_sequences=2, length_penalty=penalty, early_stopping=False, max_new_tokens=max_tokens,
        eos_token_id=eos_ids, suppress_tokens=suppressed(generation), return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    sampling = Sampling(max_tokens=max_tokens, num_beams=width, length_penalty=penalty)
    got = Engine(ours, eos_id=eos_ids, forbidden_ids=[IMAGE_ID]).generate(prompts, sampling, num_return=2)
    for ids, score, found in zip(
        theirs.sequences[:, batch.tokens.shape[1] :].tolist(), theirs.sequences_scores.tolist(), got, strict=True
    ):
        ends = [i for i, token in enumerate(ids) if token in eos_ids]
        assert found.tokens == ids[: ends[0] if ends else None]
        assert found.finish_reason == ("stop" if ends else "length")
        assert found.score == pytest.approx(score, abs=2e-4)


def test_too_many_answers_are_refused() -> None:
    with pytest.raises(UsageError, match="3 answers were asked of 2 beams"):
        hugging_face(2, 4, num_return=3)
    with pytest.raises(UsageError, match="2 answers"):
        BigVisionBeams(Sampling(beam_scoring="big_vision"), {STOP}, num_return=2)


def test_impossible_tokens_never_enter_a_beam() -> None:
    table: dict[tuple[int, ...], Any] = {(): (0.5, 0.0, 0.5), (A,): (0.5, 0.0, 0.5), (A, A): (0.0, 0.0, 1.0)}
    for search in (hugging_face(3, 3, num_return=3), big_vision(3, 3)):
        for found in search_table(search, lambda row: table[row]):
            assert B not in found.tokens
            assert math.isfinite(found.score)
