"""Beam search for one request, in the two ways of the reference implementations.

In: one `Step` after another, one row per live beam, best first. Out: which beams go on with which tokens.

    hf          finished beams compete by sum of log-probabilities / length ** length_penalty; the n best of them come
                back; stops when the best live beam at today's length cannot beat the worst of n finished ones
                (`generate` with early_stopping=False).
    big_vision  each step every live beam could end here; the best such ending so far is the one answer; stops when no
                live beam scores above it. No length normalisation: short answers win, and width 1 is not greedy.

Source: big_vision `predict_fns.py` `_beam_decode`; Hugging Face transformers 5.23 `_beam_search`.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from paligemma.engine.sampling import DONE, Advance, Generation, Sampling, Step
from paligemma.errors import UsageError


@dataclass(frozen=True)
class Beam:
    """A partial answer: its tokens (with eos, if it ended), their log-probabilities and their sum."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    total: float = 0.0

    def extended(self, token: int, logprob: float, total: float) -> "Beam":
        return Beam([*self.tokens, token], [*self.logprobs, logprob], total)


@dataclass(frozen=True)
class Finished:
    beam: Beam
    score: float
    finish_reason: Literal["stop", "length"]

    def generation(self) -> Generation:
        tokens = self.beam.tokens[:-1] if self.finish_reason == "stop" else self.beam.tokens
        return Generation(
            tokens=tokens, logprobs=self.beam.logprobs, finish_reason=self.finish_reason, score=self.score
        )


class HuggingFaceBeams:
    """`generate(num_beams=n, length_penalty=..., early_stopping=False)`; several best answers on request."""

    def __init__(self, sampling: Sampling, eos_ids: Collection[int], num_return: int = 1):
        if num_return > sampling.num_beams:
            raise UsageError(
                f"{num_return} answers were asked of {sampling.num_beams} beams; each gives one, so raise num_beams"
            )
        self.sampling, self.eos_ids, self.num_return = sampling, eos_ids, num_return
        self.rows = sampling.num_beams
        self.live = [Beam()]
        self.finished: list[Finished] = []

    def advance(self, step: Step) -> Advance:
        width = self.sampling.num_beams
        totals = step.log_p + step.log_p.new_tensor([beam.total for beam in self.live])[:, None]
        keep = max(2, 1 + len(self.eos_ids)) * width  # enough to go on with `width` beams when every eos is among them
        values, places = totals.flatten().topk(min(keep, totals.numel()))
        length = len(self.live[0].tokens) + 1
        last = length == self.sampling.max_tokens
        going_on: list[tuple[int, int, Beam]] = []
        for rank, (total, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            if total == -math.inf:
                break
            parent, token = divmod(place, totals.shape[1])
            beam = self.live[parent].extended(token, float(step.log_p[parent, token]), total)
            ended = token in self.eos_ids
            if not (ended or last):
                going_on.append((parent, token, beam))
            elif rank < width:  # a candidate beyond the width only stands by
                self.finished.append(Finished(beam, self._score(total, length), "stop" if ended else "length"))
        self.finished = sorted(self.finished, key=lambda found: -found.score)[:width]
        going_on = going_on[:width]
        self.live = [beam for _, _, beam in going_on]
        if not going_on or self._decided(length):
            return DONE
        return Advance([parent for parent, _, _ in going_on], [token for _, token, _ in going_on])

    def _score(self, total: float, length: int) -> float:
        return total / length**self.sampling.length_penalty

    def _decided(self, length: int) -> bool:
        full = len(self.finished) == self.sampling.num_beams
        return full and self._score(self.live[0].total, length) <= self.finished[-1].score

    def results(self) -> list[Generation]:
        return [found.generation() for found in self.finished[: self.num_return]]


class BigVisionBeams:
    """The reference's `beam_decode`; exactly one answer."""

    def __init__(self, sampling: Sampling, eos_ids: Collection[int], num_return: int = 1):
        if num_return != 1:
            raise UsageError(
                f'{num_return} answers were asked of big_vision\'s beam search, which gives one; use beam_scoring="hf"'
            )
        self.sampling, self.eos_ids = sampling, sorted(eos_ids)
        self.rows = sampling.num_beams
        self.live = [Beam()]
        self.best = Beam(total=-math.inf)

    def advance(self, step: Step) -> Advance:
        self._end_here(step)
        going_on = self._expand(step)
        self.live = [beam for _, _, beam in going_on]
        if not going_on or len(self.live[0].tokens) == self.sampling.max_tokens or self.live[0].total < self.best.total:
            return DONE
        return Advance([parent for parent, _, _ in going_on], [token for _, token, _ in going_on])

    def _end_here(self, step: Step) -> None:
        """Every live beam could end now; keeps the best ending so far."""
        for beam, log_p in zip(self.live, step.log_p[:, self.eos_ids].tolist(), strict=True):
            eos_logprob = max(log_p)
            eos = self.eos_ids[log_p.index(eos_logprob)]
            if beam.total + eos_logprob > self.best.total:
                self.best = beam.extended(eos, eos_logprob, beam.total + eos_logprob)

    def _expand(self, step: Step) -> list[tuple[int, int, Beam]]:
        """The best beams that go on, from the n + number-of-eos best tokens of each."""
        width = self.sampling.num_beams
        keep = min(width + len(self.eos_ids), step.log_p.shape[1])
        values, tokens = step.log_p.topk(keep)
        candidates = [
            (parent, token, self.live[parent].extended(token, logprob, self.live[parent].total + logprob))
            for parent, row in enumerate(zip(values.tolist(), tokens.tolist(), strict=True))
            for logprob, token in zip(*row, strict=True)
            if token not in self.eos_ids and logprob > -math.inf
        ]
        return sorted(candidates, key=lambda candidate: -candidate[2].total)[:width]

    def results(self) -> list[Generation]:
        return [Finished(self.best, self.best.total, "stop").generation()]
