"""Requests that come and go while others are being decoded: nobody waits for the longest answer of a batch.

In: requests, at any time, each with a priority. Out: nothing but their searches' own results; `step` says whose answers
grew. Waiting requests are prefilled between passes as soon as rows are free, the most urgent first. Rows that go on
greedily are decoded several tokens at a time without a look at them; a constraint, a watched range or a draw looks at
each. Not done here: checking requests, beams (`scheduler.py`), the passes themselves (`ragged.py`).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from paligemma.engine.constraints import Choice
from paligemma.engine.ragged import BURST, Pool, Row
from paligemma.engine.sampling import Advance, Chain, Ranges, Single, Step
from paligemma.engine.scheduler import Request
from paligemma.engine.scoring import require_numbers, score_chains

PREFILL_TOKENS = 16_384  # of padded prompts run between two passes, so that those who decode wait a bounded time


@dataclass(eq=False)
class Ticket:
    """A request in line, being decoded, or done."""

    request: Request
    ranges: Ranges = ()
    running: int = 0  # searches that hold rows
    admitted: bool = False
    cancelled: bool = False

    @property
    def done(self) -> bool:
        return self.cancelled or (self.admitted and self.running == 0)


@dataclass(eq=False)
class Active:
    """A search with a row, and the tokens to feed it next."""

    ticket: Ticket
    search: Single
    row: Row
    chain: Chain = field(default_factory=lambda: Chain([]))

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is all there is to know."""
        one = self.search
        return (
            one.sampling.temperature == 0 and one.rule.constraint is None and not self.ticket.ranges
            and len(self.chain.tokens) == 1 and not self.chain.ends
        )  # fmt: skip


class Continuous:
    """
    Args:
        forbidden: int64[F], ids never to be produced.
        burst: most tokens a greedy row goes on without a look; 1 looks at each.
    """

    def __init__(self, pool: Pool, forbidden: Tensor, *, burst: int = BURST):
        self.pool, self.runner, self.burst = pool, pool.runner, burst
        self.forbidden = forbidden.to(self.runner.device)
        self.waiting: list[tuple[int, int, Ticket]] = []  # a heap: least number first, then who came first
        self.active: list[Active] = []
        self.arrivals = count()

    @property
    def idle(self) -> bool:
        return not self.active and not self.waiting

    def submit(self, request: Request, *, priority: int = 0, ranges: Ranges = ()) -> Ticket:
        """Puts a request in line, before all of a greater `priority` number and behind those of the same."""
        assert request.rows <= len(self.pool), f"{request.rows} rows do not fit a pool of {len(self.pool)}"
        ticket = Ticket(request, ranges)
        heapq.heappush(self.waiting, (priority, next(self.arrivals), ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forgets a request; its rows are free at once."""
        ticket.cancelled = True
        self.waiting = [entry for entry in self.waiting if entry[2] is not ticket]
        heapq.heapify(self.waiting)
        for one in [one for one in self.active if one.ticket is ticket]:
            self._leave(one)

    def close(self) -> None:
        """Cancels all there is."""
        for ticket in [*(entry[2] for entry in self.waiting), *(one.ticket for one in self.active)]:
            self.cancel(ticket)

    def run(self) -> None:
        """Until everybody is done; whatever happens, the rows are free afterwards."""
        try:
            while not self.idle:
                self.step()
        finally:
            self.close()

    def step(self) -> list[Ticket]:
        """Admits who fits, then decodes a little; returns the requests whose answers grew."""
        grown = self._admit()
        if self.active:
            grown += [one.ticket for one in self.active]
            if all(one.is_greedy for one in self.active):
                self._burst()
            else:
                self._feed()
        return list(dict.fromkeys(grown))

    # --- who comes in ---

    @torch.inference_mode()
    def _admit(self) -> list[Ticket]:
        group: list[Ticket] = []
        free, longest = self.pool.free, 0
        while self.waiting:
            request = self.waiting[0][2].request
            longest = max(longest, len(request.prompt.tokens))
            many = longest * (len(group) + 1) > PREFILL_TOKENS or self.pool.fixed_shapes
            if request.rows > free or (group and many):
                break
            group.append(heapq.heappop(self.waiting)[2])
            free -= request.rows
        if not group:
            return []
        rows, logits = self.pool.prefill([ticket.request.prompt for ticket in group])
        starting: list[Active] = []
        for ticket, row in zip(group, rows, strict=True):
            searches = ticket.request.searches
            own = [row, *(self.pool.fork(row) for _ in searches[1:])]
            for search, line in zip(searches, own, strict=True):
                assert isinstance(search, Single), "beams are searched in batches of their own"
                starting.append(Active(ticket, search, line))
            ticket.admitted, ticket.running = True, len(searches)
        self.active += starting
        which = [place for place, ticket in enumerate(group) for _ in ticket.request.searches]
        if self.pool.fixed_shapes:
            for one in starting:
                self._choose([one], logits.clone(), [0])
        else:
            self._choose(starting, logits[which], range(len(which)))
        return group

    # --- what goes on ---

    @torch.inference_mode()
    def _choose(self, choosing: Sequence[Active], logits: Tensor, places: Sequence[int]) -> None:
        """Lets each search choose by the row of float[B, V] at its place."""
        choices: list[Choice | None] = [None] * len(logits)
        for place, one in zip(places, choosing, strict=True):
            choices[place] = one.search.choice
        ranges = list(dict.fromkeys(pair for one in choosing for pair in one.ticket.ranges))
        step = Step.of(logits, self.forbidden, choices, ranges)
        require_numbers([step.best_logprob[place] for place in places], logits)
        for place, one in zip(places, choosing, strict=True):
            own = step.rows(place, place + 1)
            if not one.ticket.ranges:
                own = Step(own.logits, own.log_z, own.best, own.best_logprob, own.choices)
            self._take(one, one.search.advance(own))

    def _take(self, one: Active, advance: Advance) -> None:
        if advance.chains:
            one.search.steps += 1
            one.chain = advance.chains[0]
        else:
            self._leave(one)

    def _leave(self, one: Active) -> None:
        self.active.remove(one)
        self.pool.release(one.row)
        one.ticket.running -= 1

    def _feed(self) -> None:
        """One pass over every chain, and the next choice of those that go on."""
        fed = list(self.active)
        chains = [one.chain for one in fed]
        if self.pool.fixed_shapes:
            hidden = self.pool.feed_one([one.row for one in fed], [chain.tokens[0] for chain in chains])
            return self._choose(fed, self.runner.logits(hidden), [one.row.index for one in fed])
        ranges = list(dict.fromkeys(pair for one in fed for pair in one.ticket.ranges))
        hidden = self.pool.feed([one.row for one in fed if one.chain.fed], [c.fed for c in chains if c.fed])
        logits, scored = score_chains(self.runner, hidden, chains, ranges)
        choosing: list[Active] = []
        for one, own in zip(fed, scored, strict=True):
            one.search.forced(own if one.ticket.ranges else [entry._replace(watched=None) for entry in own])
            if one.chain.ends:
                self._leave(one)
            else:
                choosing.append(one)
        if choosing:
            self._choose(choosing, logits, range(len(choosing)))

    def _burst(self) -> None:
        """Several tokens for every row, as many as none of them needs fewer; who stops early wasted a few."""
        left = min(one.search.sampling.max_tokens - len(one.search.tokens) for one in self.active)
        passes = max(1, min(self.burst, left))
        fed = list(self.active)
        said = self.pool.burst([one.row for one in fed], [one.chain.tokens[0] for one in fed], passes)
        for tokens, logprobs in zip(said.tokens, said.logprobs, strict=True):
            require_numbers(logprobs, self.runner.model.projector.weight)
            for place, one in enumerate(fed):
                if one.search.finish_reason is None:
                    self._take(one, one.search.advance(greedy_step(tokens[place], logprobs[place])))


def greedy_step(token: int, logprob: float) -> Step:
    """What a greedy row needs to know of a pass."""
    nothing = torch.empty(0)
    return Step(nothing, nothing, [token], [logprob], [None])
