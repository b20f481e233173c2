"""Requests that come and go while others are being decoded: nobody waits for the longest answer of a batch.

In: requests, at any time, each with a priority. Out: nothing but their searches' own results; `step` says whose answers
grew. The most urgent of those who wait come in together as soon as rows are free, and pause between their layers for
those who are being decoded. A search says after each pass which of its rows go on, and with which chain of tokens: the
one it chose and those its constraint forces after it. All chains are fed in one pass, whose scores give forced tokens
their log-probabilities and every row its next choice:

    chosen + forced, fed    a1 a2 a3      one pass; a2 and a3 are scored at a1 and a2, a4 is chosen at a3
                            b1            its beams b and b' go on from b1, b' in a row of its own
                            c1 c2         c2 and a forced eos after it are scored; c leaves

Where passes are recorded, rows that go on greedily take several tokens without a look at them. Not done here: checking
requests (`engine.py`), choosing tokens (`sampling.py`, `beam.py`), the passes themselves (`ragged.py`).
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from paligemma.engine.constraints import Choice
from paligemma.engine.prefill import Prefill
from paligemma.engine.ragged import BURST, Pool, Row
from paligemma.engine.runner import Prompt
from paligemma.engine.sampling import Advance, Chain, Generation, Ranges, Scored, Search, Single, Step
from paligemma.engine.scoring import require_numbers, score_chains

# Tokens of padded prompts that run together: on a CPU more are no faster, and need memory.
PREFILL_TOKENS = {"cpu": 2_048}
# Of them, so many through all layers between two passes of those who decode: a few times what such a pass takes.
PREFILL_BETWEEN = {"cpu": 64}
ELSEWHERE = 16_384  # both
# Prompts of different lengths run together where padding is little: a share of their tokens, or so few of its own.
PADDING, LITTLE = 0.25, 64


@dataclass
class Request:
    """A prompt on its way, with the searches that share its prefill (several for several sampled answers)."""

    prompt: Prompt
    searches: list[Search]
    max_tokens: int

    @property
    def rows(self) -> int:
        return sum(search.rows for search in self.searches)

    @property
    def slots(self) -> int:
        """The most tokens of a row."""
        return len(self.prompt.tokens) + self.max_tokens

    def results(self) -> list[Generation]:
        return [generation for search in self.searches for generation in search.results()]


@dataclass(eq=False)
class Ticket:
    """A request in line, being decoded, or done."""

    request: Request
    ranges: Ranges = ()
    running: int = 0  # searches that hold rows
    admitted: bool = False
    cancelled: bool = False
    error: BaseException | None = None  # of the line, which ended it

    @property
    def done(self) -> bool:
        return self.cancelled or (self.admitted and self.running == 0)


@dataclass(eq=False)
class Active:
    """A search, its rows, and the tokens to feed each of them next."""

    ticket: Ticket
    search: Search
    rows: list[Row]
    chains: list[Chain] = field(default_factory=list)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is all there is to know."""
        one = self.search
        return (
            isinstance(one, Single) and one.sampling.temperature == 0 and one.rule.constraint is None
            and not self.ticket.ranges and len(self.chains[0].tokens) == 1 and not self.chains[0].ends
        )  # fmt: skip


@dataclass(eq=False)
class Entering:
    """Requests whose prompts run together, not yet to their end."""

    tickets: list[Ticket]
    prefill: Prefill


class Continuous:
    """
    Args:
        forbidden: int64[F], ids never to be produced.
        burst: most tokens a greedy row goes on without a look; 1 looks at each.
        patient: nobody watches the answers grow, so prompts run without a pause.
    """

    def __init__(self, pool: Pool, forbidden: Tensor, *, burst: int | None = None, patient: bool = False):
        self.pool, self.runner = pool, pool.runner
        self.burst = burst or (1 if pool.recorder is None else BURST)
        self.forbidden = forbidden.to(self.runner.device)
        self.waiting: list[tuple[int, int, Ticket]] = []  # a heap: least number first, then who came first
        self.entering: Entering | None = None
        self.active: list[Active] = []
        self.arrivals = count()
        kind = self.runner.device.type
        self.together = PREFILL_TOKENS.get(kind, ELSEWHERE)
        self.between = math.inf if patient else PREFILL_BETWEEN.get(kind, ELSEWHERE)

    @property
    def free(self) -> int:
        """Rows that nobody has or may still need."""
        entering = self.entering.tickets if self.entering else []
        needed = sum(one.search.rows for one in self.active) + sum(ticket.request.rows for ticket in entering)
        return len(self.pool) - needed

    @property
    def idle(self) -> bool:
        return not self.active and not self.waiting and self.entering is None

    def submit(self, request: Request, *, priority: int = 0, ranges: Ranges = ()) -> Ticket:
        """Puts a request in line, before all of a greater `priority` number and behind those of the same."""
        assert request.rows <= len(self.pool), f"{request.rows} rows do not fit a pool of {len(self.pool)}"
        ticket = Ticket(request, ranges)
        heapq.heappush(self.waiting, (priority, next(self.arrivals), ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forgets a request; its rows are free at once, or when the prompts it came in with are through."""
        ticket.cancelled = True
        self.waiting = [entry for entry in self.waiting if entry[2] is not ticket]
        heapq.heapify(self.waiting)
        for one in [one for one in self.active if one.ticket is ticket]:
            self._leave(one)
        if self.entering is not None and all(other.cancelled for other in self.entering.tickets):
            for row in self.entering.prefill.rows:
                self.pool.release(row)
            self.entering = None

    def close(self, error: BaseException | None = None) -> None:
        """Cancels all there is; `error` is why."""
        entering = self.entering.tickets if self.entering else []
        for ticket in [*(entry[2] for entry in self.waiting), *entering, *(one.ticket for one in self.active)]:
            ticket.error = error
            self.cancel(ticket)

    def run(self) -> None:
        """Until everybody is done; whatever happens, the rows are free afterwards."""
        try:
            while not self.idle:
                self.step()
        finally:
            self.close()

    def step(self) -> list[Ticket]:
        """Lets in who fits, then decodes a little; returns the requests whose answers grew."""
        grown = self._enter()
        if self.active:
            grown += [one.ticket for one in self.active]
            if all(one.is_greedy for one in self.active):
                self._burst()
            else:
                self._feed()
        return list(dict.fromkeys(grown))

    # --- who comes in ---

    def _enter(self) -> list[Ticket]:
        """Runs prompts, to their end or as far as those who decode let them; returns the requests that are in."""
        if self.entering is None:
            group = self._next_group()
            if not group:
                return []
            self.entering = Entering(group, self.pool.begin([ticket.request.prompt for ticket in group]))
        scores = self.entering.prefill.advance(self.between if self.active else math.inf)
        if scores is None:
            return []
        entered, self.entering = self.entering, None
        self._start(entered, scores)
        return entered.tickets

    def _next_group(self) -> list[Ticket]:
        """The next in line that fit, and that run well together."""
        group: list[Ticket] = []
        lengths: list[int] = []
        free = self.free
        while self.waiting:
            request = self.waiting[0][2].request
            lengths.append(len(request.prompt.tokens))
            if request.rows > free or (group and not self._run_well(lengths)):
                break
            group.append(heapq.heappop(self.waiting)[2])
            free -= request.rows
        return group

    def _run_well(self, lengths: Sequence[int]) -> bool:
        """Whether prompts of these lengths may and should run together."""
        tokens, padded = sum(lengths), max(lengths) * len(lengths)
        little = padded - tokens <= max(LITTLE, PADDING * tokens)
        return padded <= self.together and little and not self.pool.fixed_shapes

    @torch.inference_mode()
    def _start(self, entered: Entering, scores: Tensor) -> None:
        """Gives every search its first row, and lets it choose by what follows its prompt."""
        starting: list[Active] = []
        places: list[list[int]] = []
        for place, (ticket, row) in enumerate(zip(entered.tickets, entered.prefill.rows, strict=True)):
            if ticket.cancelled:
                self.pool.release(row)
                continue
            searches = ticket.request.searches
            rows = self.pool.branch([row], [0] * len(searches))
            starting += [Active(ticket, search, [own]) for search, own in zip(searches, rows, strict=True)]
            places += [[place]] * len(searches)
            ticket.admitted, ticket.running = True, len(searches)
        self.active += starting
        if not starting:
            return
        if self.pool.fixed_shapes:
            for one in starting:
                self._choose([one], scores.clone(), [[0]])
        else:
            which = [place for (place,) in places]
            self._choose(starting, scores[which], [[place] for place in range(len(which))])

    # --- what goes on ---

    @torch.inference_mode()
    def _choose(self, choosing: Sequence[Active], logits: Tensor, places: Sequence[Sequence[int]]) -> None:
        """Lets each search choose by the rows of float[B, V] at its places."""
        choices: list[Choice | None] = [None] * len(logits)
        for one, own in zip(choosing, places, strict=True):
            for place, choice in zip(own, one.search.choices(), strict=True):
                choices[place] = choice
        step = Step.of(logits, self.forbidden, choices, _watched(choosing))
        require_numbers([step.best_logprob[place] for own in places for place in own], logits)
        for one, own in zip(choosing, places, strict=True):
            self._take(one, one.search.advance(step.at(own, one.ticket.ranges)))

    def _take(self, one: Active, advance: Advance) -> None:
        if advance.chains:
            one.search.steps += 1
            one.rows = self.pool.branch(one.rows, advance.parents)
            one.chains = advance.chains
        else:
            self._leave(one)

    def _leave(self, one: Active) -> None:
        self.active.remove(one)
        for row in one.rows:
            self.pool.release(row)
        one.ticket.running -= 1

    def _feed(self) -> None:
        """One pass over every chain, and the next choice of those that go on."""
        fed = list(self.active)
        rows = [row for one in fed for row in one.rows]
        chains = [chain for one in fed for chain in one.chains]
        if self.pool.fixed_shapes:
            hidden = self.pool.feed_one(rows, [chain.tokens[0] for chain in chains])
            return self._choose(fed, self.runner.logits(hidden), [[row.index for row in one.rows] for one in fed])
        pairs = [(row, chain.fed) for row, chain in zip(rows, chains, strict=True) if chain.fed]
        hidden = self.pool.feed([row for row, _ in pairs], [tokens for _, tokens in pairs])
        logits, scored = score_chains(self.runner, hidden, chains, _watched(fed))
        said = iter(scored)
        choosing: list[Active] = []
        places: list[list[int]] = []
        place = 0
        for one in fed:
            for _ in one.rows:
                self._forced(one, next(said))
            if one.chains[0].ends:
                self._leave(one)
            else:
                choosing.append(one)
                places.append(list(range(place, place + len(one.rows))))
                place += len(one.rows)
        if choosing:
            self._choose(choosing, logits, places)

    def _forced(self, one: Active, scored: Sequence[Scored]) -> None:
        one.search.forced(scored if one.ticket.ranges else [entry._replace(watched=None) for entry in scored])

    def _burst(self) -> None:
        """Several tokens for every row, as many as none of them needs fewer; who stops early wasted a few."""
        fed = [(one, one.search) for one in self.active if isinstance(one.search, Single)]
        left = min(search.sampling.max_tokens - len(search.tokens) for _, search in fed)
        passes = max(1, min(self.burst, left))
        said = self.pool.burst([one.rows[0] for one, _ in fed], [one.chains[0].tokens[0] for one, _ in fed], passes)
        for tokens, logprobs in zip(said.tokens, said.logprobs, strict=True):
            require_numbers(logprobs, self.runner.model.projector.weight)
            for (one, search), token, logprob in zip(fed, tokens, logprobs, strict=True):
                if search.finish_reason is None:
                    self._take(one, search.advance(greedy_step(token, logprob)))


def _watched(searching: Sequence[Active]) -> Ranges:
    """All ranges that someone watches, each once."""
    return list(dict.fromkeys(pair for one in searching for pair in one.ticket.ranges))


def greedy_step(token: int, logprob: float) -> Step:
    """What a greedy row needs to know of a pass."""
    nothing = torch.empty(0)
    return Step(nothing, nothing, [token], [logprob], [None])
