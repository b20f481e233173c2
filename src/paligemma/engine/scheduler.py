"""One batch of requests, from their prompts to their last tokens.

In: requests, each with its searches. Out: nothing but the searches' own results; `Decoding.steps` yields after each
pass. Not done here: checking requests, making batches (`engine.py`), choosing tokens (`sampling.py`, `beam.py`).

The loop knows rows only. A search says after each step which of its rows go on, and with which chain of tokens: the one
it chose and those its constraint forces after it. All chains are fed in one pass, whose scores give the forced tokens
their log-probabilities and every row its next choice. Finished requests leave, beams fork, by one selection of rows.

    chosen + forced, fed    a1 a2 a3      one pass; a2 and a3 are scored at a1 and a2, a4 is chosen at a3
                             .  . b1      padding, seen by no one
                             . c1 c2      c2 and a forced eos after it are scored; c leaves
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paligemma.engine.constraints import Choice
from paligemma.engine.runner import Prompt, Runner
from paligemma.engine.sampling import Chain, Generation, Ranges, Scored, Search, Step
from paligemma.engine.scoring import require_numbers, score_chains


@dataclass
class Request:
    """A prompt on its way, with the searches that share its prefill (several for several sampled answers)."""

    prompt: Prompt
    searches: list[Search]
    max_tokens: int

    @property
    def rows(self) -> int:
        return sum(search.rows for search in self.searches)

    def results(self) -> list[Generation]:
        return [generation for search in self.searches for generation in search.results()]


@dataclass(frozen=True)
class Active:
    """A search that goes on, and which of the next scores are its own."""

    search: Search
    start: int
    stop: int


class Decoding:
    """
    Args:
        forbidden: int64[F], ids never to be produced.
        ranges: of ids, whose log-probabilities are kept wherever a token falls into one.
    """

    def __init__(self, runner: Runner, requests: Sequence[Request], forbidden: Tensor, ranges: Ranges = ()):
        self.runner, self.requests, self.ranges = runner, requests, ranges
        self.forbidden = forbidden.to(runner.device)

    def steps(self) -> Iterator[None]:
        """Runs the batch to its end, yielding after each step."""
        room = max(request.max_tokens for request in self.requests) - 1
        batch, logits = self.runner.prefill([request.prompt for request in self.requests], room)
        active = [
            Active(search, row, row + 1) for row, request in enumerate(self.requests) for search in request.searches
        ]
        rows = list(range(len(batch)))  # of the batch, for each row of scores
        while active:
            going_on, parents, chains = self._advance(active, logits)
            yield
            if not going_on:
                return
            batch.select([rows[parent] for parent in parents])
            hidden = self.runner.feed(batch, [chain.fed for chain in chains])
            logits, scored = score_chains(self.runner, hidden, chains, self.ranges)
            active, rows = _settle(going_on, chains, scored)
        yield

    @torch.inference_mode()
    def _advance(self, active: list[Active], logits: Tensor) -> tuple[list[Active], list[int], list[Chain]]:
        """Lets every search choose; returns those with something to feed, the rows' parents and their chains."""
        choices: list[Choice | None] = [None] * len(logits)
        for one in active:
            choices[one.start : one.stop] = one.search.choices()
        step = Step.of(logits, self.forbidden, choices, self.ranges)
        require_numbers(step.best_logprob, logits)
        going_on: list[Active] = []
        parents: list[int] = []
        chains: list[Chain] = []
        for one in active:
            advance = one.search.advance(step.rows(one.start, one.stop))
            if advance.chains:
                one.search.steps += 1
                going_on.append(Active(one.search, len(chains), len(chains) + len(advance.chains)))
                parents.extend(one.start + parent for parent in advance.parents)
                chains.extend(advance.chains)
        return going_on, parents, chains


def _settle(
    active: list[Active], chains: Sequence[Chain], scored: Sequence[Sequence[Scored]]
) -> tuple[list[Active], list[int]]:
    """Hands out what was scored; returns the searches that still have to choose, and the batch's rows they have."""
    choosing: list[Active] = []
    rows: list[int] = []
    for one in active:
        for row in range(one.start, one.stop):
            one.search.forced(scored[row])
        if not chains[one.start].ends:
            choosing.append(Active(one.search, len(rows), len(rows) + one.stop - one.start))
            rows.extend(range(one.start, one.stop))
    return choosing, rows


def batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[Request]]:
    """Groups of at most `batch_size` rows (or one request), longest prompts first: neighbours need little padding."""
    batch: list[Request] = []
    for request in sorted(requests, key=lambda request: -len(request.prompt.tokens)):
        if batch and sum(other.rows for other in batch) + request.rows > batch_size:
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch
