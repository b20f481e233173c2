"""How the next token is chosen: what a request may ask for, and the functions that do it.

In: one `Step` of scores (rows of this request only). Out: a token and its log-probability. Beam search is in `beam.py`.
Not done here: the model, batches, text. Source: big_vision `trainers/proj/paligemma/predict_fns.py` (nucleus and its
ties); order of temperature, top-k, top-p as in Hugging Face `generate`.

Every draw depends on the request alone: its own seed, its own row. Other requests of a batch change nothing.
Letters: R rows of one request, V vocabulary.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from paligemma.errors import UsageError

BEAM_SCORINGS = ("hf", "big_vision")
MAX_SEED = 2**63 - 1


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
    temperature, top-k and top-p.
    """

    tokens: list[int]  # without eos
    logprobs: list[float]  # of each chosen token; one more than `tokens` when eos was chosen
    finish_reason: Literal["stop", "length"]
    score: float  # the sum of `logprobs`, or the beam's score


@dataclass(frozen=True)
class Step:
    """What the model said: scores of the next token, for some rows."""

    logits: Tensor  # float32[R, V], forbidden tokens at -inf
    log_z: Tensor  # float32[R], logsumexp of the scores before any was forbidden
    best: Sequence[int]  # likeliest allowed token of each row
    best_logprob: Sequence[float]

    @classmethod
    def of(cls, logits: Tensor, forbidden: Tensor) -> "Step":
        """Takes float[R, V] scores over (they are written to) and forbids the ids int64[F]."""
        logits = logits.float()
        log_z = logits.logsumexp(-1)
        logits[:, forbidden] = -math.inf
        best_logit, best = logits.max(-1)
        return cls(logits, log_z, best.tolist(), (best_logit - log_z).tolist())

    def rows(self, start: int, stop: int) -> "Step":
        part = slice(start, stop)
        return Step(self.logits[part], self.log_z[part], self.best[part], self.best_logprob[part])

    @cached_property
    def log_p(self) -> Tensor:
        """float32[R, V]: log-probabilities, -inf where forbidden."""
        return self.logits - self.log_z[:, None]


class Advance(NamedTuple):
    """The rows a request goes on with: from which of its rows each one comes, and its new token. Empty: it is done."""

    parents: list[int]
    tokens: list[int]


DONE = Advance([], [])


class Search(Protocol):
    """One request on its way: fed one step after another until it is done."""

    @property
    def rows(self) -> int:
        """The most rows it will ever need."""
        ...

    def advance(self, step: Step) -> Advance: ...

    def results(self) -> list[Generation]: ...


class Single:
    """Greedy or sampled decoding of one row."""

    rows = 1

    def __init__(self, sampling: Sampling, eos_ids: Collection[int], answer: int = 0):
        self.sampling, self.eos_ids = sampling, eos_ids
        self.tokens: list[int] = []  # with eos, if it came
        self.logprobs: list[float] = []
        self.finish_reason: Literal["stop", "length"] | None = None
        self.random = torch.Generator().manual_seed((sampling.seed + answer) % (MAX_SEED + 1))

    def advance(self, step: Step) -> Advance:
        if self.sampling.temperature == 0:
            token, logprob = step.best[0], step.best_logprob[0]
        else:
            token = draw(step.logits[0], self.sampling, self.random)
            logprob = float(step.log_p[0, token])
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in self.eos_ids:
            self.finish_reason = "stop"
        elif len(self.tokens) == self.sampling.max_tokens:
            self.finish_reason = "length"
        return DONE if self.finish_reason else Advance([0], [token])

    def results(self) -> list[Generation]:
        assert self.finish_reason is not None, "asked for the result of a request that is still running"
        tokens = self.tokens[:-1] if self.finish_reason == "stop" else self.tokens
        return [
            Generation(
                tokens=tokens, logprobs=self.logprobs, finish_reason=self.finish_reason, score=math.fsum(self.logprobs)
            )
        ]


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
