"""How the next token is chosen: what a request may ask for, and the functions that do it.

In: one `Step` of scores (rows of this request only). Out: a token and its log-probability, and the tokens that must
follow it. Beam search is in `beam.py`, what a constraint is in `constraints.py`.
Not done here: the model, batches, text. Source: big_vision `trainers/proj/paligemma/predict_fns.py` (nucleus and its
ties); order of temperature, top-k, top-p as in Hugging Face `generate`.

Constrained rows choose among the scores of the allowed ids, gathered: nothing of the vocabulary's size is touched.
Every draw depends on the request alone: its own seed, its own row. Other requests of a batch change nothing.
Letters: R rows of one request, V vocabulary.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from paligemma.engine.constraints import FREE, Choice, Rule
from paligemma.errors import UsageError

BEAM_SCORINGS = ("hf", "big_vision")
MAX_SEED = 2**63 - 1
FEWEST_REPEATED = 48  # tokens: a shorter tail is never called a repetition
FinishReason = Literal["stop", "length", "repetition"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request is decoded; the default is greedy, as all published results of the family are.

    Args:
        max_tokens: the most new tokens, eos included.
        temperature: 0 takes the likeliest token; otherwise logits are divided by it and a token is drawn.
        top_k: draw among the k likeliest tokens (and what ties with the last of them).
        top_p: draw among the likeliest tokens that together reach this probability (nucleus), ties kept.
        seed: of this request's draws; the i-th of several answers (`num_return`) draws as seed + i alone would.
        num_beams: more than 1 searches with beams instead.
        beam_scoring: "hf" is Hugging Face's search, "big_vision" the reference's own (sum of log-probabilities without
            length normalisation; with one beam it is not the same as greedy).
        length_penalty: "hf" only: a finished beam scores sum of log-probabilities / length ** length_penalty.
        stop_repeats: ends an answer whose last tokens are one cycle this many times in a row, and at least 48 tokens;
            None never does, nor do beams. Answers that run in circles go on to `max_tokens`, so nothing is lost by
            waiting: the default lets columns of equal cells and dotted lines pass, as tables have them.

    Raises:
        UsageError: a value out of range, or beams together with a temperature.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    num_beams: int = 1
    beam_scoring: Literal["hf", "big_vision"] = "hf"
    length_penalty: float = 1.0
    stop_repeats: int | None = 16

    def __post_init__(self) -> None:
        _require(_is_int(self.max_tokens) and self.max_tokens >= 1, "max_tokens", self.max_tokens, "an integer from 1")
        finite = math.isfinite(self.temperature) and self.temperature >= 0
        _require(finite, "temperature", self.temperature, "0 (greedy) or a positive number")
        whole = self.top_k is None or (_is_int(self.top_k) and self.top_k >= 1)
        _require(whole, "top_k", self.top_k, "an integer from 1, or None")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1, or None")
        _require(_is_int(self.seed) and 0 <= self.seed <= MAX_SEED, "seed", self.seed, "an integer from 0 to 2**63 - 1")
        _require(_is_int(self.num_beams) and self.num_beams >= 1, "num_beams", self.num_beams, "an integer from 1")
        _require(self.beam_scoring in BEAM_SCORINGS, "beam_scoring", self.beam_scoring, " or ".join(BEAM_SCORINGS))
        _require(math.isfinite(self.length_penalty), "length_penalty", self.length_penalty, "a finite number")
        repeats = self.stop_repeats is None or (_is_int(self.stop_repeats) and self.stop_repeats >= 2)
        _require(repeats, "stop_repeats", self.stop_repeats, "an integer from 2, or None")
        if self.is_beam and self.temperature:
            raise UsageError(
                f"{self.num_beams} beams and temperature {self.temperature} were asked for, but beams are searched, "
                "not drawn; leave one of the two out"
            )
        if self.beam_scoring == "big_vision" and self.length_penalty != 1.0:
            raise UsageError(
                f"length_penalty {self.length_penalty} was given, but big_vision's beam search has none; "
                'use beam_scoring="hf"'
            )

    @property
    def is_beam(self) -> bool:
        return self.num_beams > 1 or self.beam_scoring == "big_vision"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, name: str, found: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"{name} is {found!r}; give {expected}")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One finished answer.

    Log-probabilities are natural and those of the model's whole distribution: before any token was forbidden, before
    temperature, top-k and top-p. Forced tokens have theirs too.

    Attributes:
        tokens: without eos.
        logprobs: of each chosen token; one more than `tokens` when eos was chosen.
        finish_reason: "stop" (eos), "length" (max_tokens) or "repetition" (see `Sampling.stop_repeats`).
        score: the sum of `logprobs`, or the beam's score.
        watched: for each of `logprobs`, float32[stop - start] log-probabilities of all ids in the first watched range
            that holds the token, else None. Beams watch nothing.
        steps: forward passes it took part in after the prompt's.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    score: float
    watched: list[Tensor | None] = field(default_factory=list)
    steps: int = 0


class Scored(NamedTuple):
    """What the model thinks of one token."""

    logprob: float
    watched: Tensor | None  # see Generation


Ranges = Sequence[tuple[int, int]]


def watch(logits: Tensor, log_z: Tensor, ranges: Ranges) -> list[Tensor]:
    """float32[R, stop - start] of each range: its log-probabilities, out of scores [R, V] and their logsumexp [R]."""
    return [(logits[:, start:stop].float() - log_z[:, None]).cpu() for start, stop in ranges]


def _outweigh(scores: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
    """Score and id of the best of the others, where together they are likelier than the lone id; else that one's."""
    assert choice.lone is not None
    ids = choice.others(len(scores), scores.device)
    if len(ids) and scores[ids].logsumexp(-1) > scores[choice.lone]:
        best, place = scores[ids].max(-1)
        return best, ids[place]
    return scores[choice.lone], torch.tensor(choice.lone, device=scores.device)


@dataclass(frozen=True)
class Step:
    """What the model said: scores of the next token, for some rows."""

    logits: Tensor  # float32[R, V], forbidden tokens at -inf
    log_z: Tensor  # float32[R], logsumexp of the scores before any was forbidden
    best: Sequence[int]  # likeliest allowed token of each row
    best_logprob: Sequence[float]
    choices: Sequence[Choice | None]  # what each row's constraint allows; None is everything
    ranges: Ranges = ()
    watched: Sequence[Tensor] = ()  # float32[R, stop - start] of each range

    @classmethod
    def of(
        cls, logits: Tensor, forbidden: Tensor, choices: Sequence[Choice | None] | None = None, ranges: Ranges = ()
    ) -> "Step":
        """Takes float[R, V] scores over (they are written to) and forbids the ids int64[F]."""
        logits = logits.float()
        log_z = logits.logsumexp(-1)
        watched = watch(logits, log_z, ranges)
        logits[:, forbidden] = -math.inf
        choices = [None] * len(logits) if choices is None else choices
        for row, choice in enumerate(choices):
            if choice is not None and choice.excluded is not None:
                logits[row, choice.excluded] = -math.inf
        best_logit, best = logits.max(-1)
        for row, choice in enumerate(choices):
            if choice is not None and choice.excluded is None:
                best_logit[row], place = logits[row, choice.ids].max(-1)
                best[row] = choice.ids.start + place if isinstance(choice.ids, slice) else choice.ids[place]
            if choice is not None and choice.lone is not None and choice.lone == best[row]:
                best_logit[row], best[row] = _outweigh(logits[row], choice)
        return cls(logits, log_z, best.tolist(), (best_logit - log_z).tolist(), choices, ranges, watched)

    def at(self, places: Sequence[int], ranges: Ranges = ()) -> "Step":
        """What was said for the rows at some places, with these of the ranges that were watched."""
        first, stop = places[0], places[-1] + 1
        part = slice(first, stop) if list(places) == list(range(first, stop)) else list(places)
        watched = dict(zip(self.ranges, self.watched, strict=True))
        return Step(
            self.logits[part], self.log_z[part], [self.best[place] for place in places],
            [self.best_logprob[place] for place in places], [self.choices[place] for place in places],
            ranges, [watched[one][part] for one in ranges],
        )  # fmt: skip

    @cached_property
    def log_p(self) -> Tensor:
        """float32[R, V]: log-probabilities, -inf where forbidden or not allowed."""
        log_p = self.logits - self.log_z[:, None]
        for row, choice in enumerate(self.choices):
            if choice is not None:
                allowed = log_p[row, choice.ids].clone()
                log_p[row] = -math.inf
                log_p[row, choice.ids] = allowed
        return log_p

    def watched_at(self, row: int, token: int) -> Tensor | None:
        for (start, stop), values in zip(self.ranges, self.watched, strict=True):
            if start <= token < stop:
                return values[row].clone()
        return None


class Chain(NamedTuple):
    """Tokens a row goes on with: one was chosen, those after it are forced, and all are fed in one pass."""

    tokens: list[int]
    ends: bool = False  # the answer ends with them: the last one is scored by the pass but not fed

    @property
    def fed(self) -> list[int]:
        return self.tokens[:-1] if self.ends else self.tokens


class Advance(NamedTuple):
    """The rows a request goes on with: from which of its rows each one comes, and its new tokens. Empty: it is done."""

    parents: list[int]
    chains: list[Chain]


DONE = Advance([], [])


class Search(Protocol):
    """One request on its way: fed one step after another until it is done."""

    steps: int  # forward passes after the prompt's

    @property
    def rows(self) -> int:
        """The most rows it will ever need."""
        ...

    def choices(self) -> list[Choice | None]:
        """What each of its rows may choose next; None is everything."""
        ...

    def advance(self, step: Step) -> Advance: ...

    def forced(self, scored: Sequence[Scored]) -> None:
        """Takes what the model thinks of the forced tokens of its chain."""
        ...

    def results(self) -> list[Generation]: ...


class Single:
    """Greedy or sampled decoding of one row."""

    rows = 1

    def __init__(self, sampling: Sampling, eos_ids: Collection[int], answer: int = 0, rule: Rule = FREE):
        self.sampling, self.eos_ids, self.rule = sampling, eos_ids, rule
        self.tokens: list[int] = []  # with eos, if it came
        self.scored: list[Scored] = []  # of `tokens`; forced ones follow a pass later
        self.finish_reason: FinishReason | None = None
        self.steps = 0
        self.random = torch.Generator().manual_seed((sampling.seed + answer) % (MAX_SEED + 1))
        self.repeats = Repeats(sampling.stop_repeats, sampling.max_tokens)
        self.state = rule.start()
        self.choice = rule.choice(self.state)

    def choices(self) -> list[Choice | None]:
        return [self.choice]

    def advance(self, step: Step) -> Advance:
        if self.sampling.temperature == 0:
            token, logprob = step.best[0], step.best_logprob[0]
        else:
            token = self._draw(step.logits[0])
            logprob = float(step.logits[0, token] - step.log_z[0])
        self.scored.append(Scored(logprob, step.watched_at(0, token)))
        self._append(token)
        chain = [token]
        while self.finish_reason is None and (only := self.rule.forced(self.choice)) is not None:
            self._append(only)
            chain.append(only)
        ended = self.finish_reason is not None
        return DONE if ended and len(chain) == 1 else Advance([0], [Chain(chain, ended)])

    def _draw(self, logits: Tensor) -> int:
        if self.choice is None:
            return draw(logits, self.sampling, self.random)
        if self.choice.only is not None:  # no number is spent, so draws do not depend on how forced tokens are fed
            return self.choice.only
        return self.choice.id_at(draw(logits[self.choice.ids], self.sampling, self.random))

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        if token in self.eos_ids:
            self.finish_reason = "stop"
        elif self.repeats.found(self.tokens):
            self.finish_reason = "repetition"
        elif len(self.tokens) == self.sampling.max_tokens:
            self.finish_reason = "length"
        else:
            self.state = self.rule.advance(self.state, token)
            self.choice = self.rule.choice(self.state)

    def forced(self, scored: Sequence[Scored]) -> None:
        self.scored.extend(scored)

    def results(self) -> list[Generation]:
        assert self.finish_reason is not None, "asked for the result of a request that is still running"
        assert len(self.scored) == len(self.tokens), "a forced token was not scored"
        logprobs = [scored.logprob for scored in self.scored]
        return [
            Generation(
                tokens=self.tokens[:-1] if self.finish_reason == "stop" else self.tokens,
                logprobs=logprobs,
                finish_reason=self.finish_reason,
                score=math.fsum(logprobs),
                watched=[scored.watched for scored in self.scored],
                steps=self.steps,
            )
        ]


class Repeats:
    """Notices that an answer runs in circles; a few comparisons per token.

    Args:
        times: how often a cycle must follow itself; None notices nothing.
        max_tokens: of the answer, which bounds the cycles that can ever be seen so often.
    """

    def __init__(self, times: int | None, max_tokens: int):
        self.times = times or 0
        self.equal = [0] * (max_tokens // times if times else 0)  # last tokens that equal the one a cycle before

    def found(self, tokens: Sequence[int]) -> bool:
        """Whether the tokens, one more than last time, end in such a circle."""
        last = len(tokens) - 1
        for place in range(min(last, len(self.equal))):
            same = tokens[last] == tokens[last - place - 1]
            self.equal[place] = self.equal[place] + 1 if same else 0
        return any(
            equal + cycle >= max(self.times * cycle, FEWEST_REPEATED) for cycle, equal in enumerate(self.equal, start=1)
        )


def draw(logits: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """Draws a token from float[V] scores with one uniform number, by the inverse of the cumulative distribution.

    One number per token, whatever the vocabulary and the device, keeps a request's draws its own.
    """
    probabilities = distribution(logits, sampling)
    uniform = torch.rand(1, dtype=torch.float64, generator=random).to(logits.device)
    cumulative = probabilities.cumsum(-1)
    token = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    last = probabilities.nonzero()[-1]  # where rounding would step over the end
    return int(torch.minimum(token, last))


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """float64[V]: what a token is drawn from, after temperature, then top-k, then top-p."""
    assert sampling.temperature > 0, "a greedy request draws nothing"
    scaled = (logits.double() - logits.max()) / sampling.temperature
    if sampling.top_k is not None:
        scaled = keep_top_k(scaled, sampling.top_k)
    if sampling.top_p is not None:
        scaled = keep_top_p(scaled, sampling.top_p)
    return scaled.softmax(-1)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """float[V] with -inf below the k-th best; ties with it stay."""
    worst = logits.topk(min(k, len(logits))).values[-1]
    return logits.masked_fill(logits < worst, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """float[V] with -inf outside the nucleus: the fewest best tokens whose probabilities reach p, and ties."""
    descending = logits.sort(descending=True).values
    reached = (descending.softmax(-1).cumsum(-1) < p).sum().clamp(max=len(logits) - 1)
    return logits.masked_fill(logits < descending[reached], -math.inf)
