"""Beam search for one request, in the two ways of the reference implementations.

In: one `Step` after another, one row per live beam, best first. Out: which beams go on with which tokens. A constraint
forbids what it does not allow; each beam has a state of its own. Forced tokens are fed one by one, like others.

    hf          finished beams compete by sum of log-probabilities / length ** length_penalty; the n best of them come
                back; stops when the best live beam at today's length cannot beat the worst of n finished ones
                (`generate` with early_stopping=False).
    big_vision  each step every live beam could end here; the best such ending so far is the one answer; stops when no
                live beam scores above it. No length normalisation: short answers win, and width 1 is not greedy.

Source: big_vision `predict_fns.py` `_beam_decode`; Hugging Face transformers 5.23 `_beam_search`.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from paligemma.engine.constraints import FREE, Choice, Rule
from paligemma.engine.sampling import DONE, Advance, Chain, Generation, Sampling, Scored, Step
from paligemma.errors import UsageError


@dataclass(frozen=True)
class Beam:
    """A partial answer: its tokens (with eos, if it ended), their log-probabilities, their sum, its grammar's state."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    total: float = 0.0
    state: Any = None

    def extended(self, token: int, logprob: float, total: float) -> "Beam":
        return Beam([*self.tokens, token], [*self.logprobs, logprob], total, self.state)

    def advanced(self, rule: Rule) -> "Beam":
        """The same beam with its state moved over its newest token."""
        return replace(self, state=rule.advance(self.state, self.tokens[-1]))


@dataclass(frozen=True)
class Finished:
    beam: Beam
    score: float
    finish_reason: Literal["stop", "length"]

    def generation(self, steps: int) -> Generation:
        return Generation(
            tokens=self.beam.tokens[:-1] if self.finish_reason == "stop" else self.beam.tokens,
            logprobs=self.beam.logprobs,
            finish_reason=self.finish_reason,
            score=self.score,
            watched=[None] * len(self.beam.logprobs),
            steps=steps,
        )


class Beams:
    """What both searches share: live beams, each with a state of the grammar."""

    def __init__(self, sampling: Sampling, eos_ids: Collection[int], rule: Rule):
        self.sampling, self.eos_ids, self.rule = sampling, eos_ids, rule
        self.rows = sampling.num_beams
        self.live = [Beam(state=rule.start())]
        self.steps = 0
        self.choices()  # refuses a constraint that does not fit before anything runs

    def choices(self) -> list[Choice | None]:
        return [self.rule.choice(beam.state) for beam in self.live]

    def forced(self, scored: Sequence[Scored]) -> None:
        assert not scored, "beams feed one token at a time"


class HuggingFaceBeams(Beams):
    """`generate(num_beams=n, length_penalty=..., early_stopping=False)`; several best answers on request."""

    def __init__(self, sampling: Sampling, eos_ids: Collection[int], num_return: int = 1, rule: Rule = FREE):
        if num_return > sampling.num_beams:
            raise UsageError(
                f"{num_return} answers were asked of {sampling.num_beams} beams; each gives one, so raise num_beams"
            )
        super().__init__(sampling, eos_ids, rule)
        self.num_return = num_return
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
        self.live = [beam.advanced(self.rule) for beam in self.live]
        return Advance([parent for parent, _, _ in going_on], [Chain([token]) for _, token, _ in going_on])

    def _score(self, total: float, length: int) -> float:
        return total / length**self.sampling.length_penalty

    def _decided(self, length: int) -> bool:
        full = len(self.finished) == self.sampling.num_beams
        return full and self._score(self.live[0].total, length) <= self.finished[-1].score

    def results(self) -> list[Generation]:
        return [found.generation(self.steps) for found in self.finished[: self.num_return]]


class BigVisionBeams(Beams):
    """The reference's `beam_decode`; exactly one answer."""

    def __init__(self, sampling: Sampling, eos_ids: Collection[int], num_return: int = 1, rule: Rule = FREE):
        if num_return != 1:
            raise UsageError(
                f'{num_return} answers were asked of big_vision\'s beam search, which gives one; use beam_scoring="hf"'
            )
        super().__init__(sampling, eos_ids, rule)
        self.ends = sorted(eos_ids)
        self.best = Beam(total=-math.inf)

    def advance(self, step: Step) -> Advance:
        self._end_here(step)
        going_on = self._expand(step)
        self.live = [beam for _, _, beam in going_on]
        if not going_on or len(self.live[0].tokens) == self.sampling.max_tokens or self.live[0].total < self.best.total:
            return DONE
        self.live = [beam.advanced(self.rule) for beam in self.live]
        return Advance([parent for parent, _, _ in going_on], [Chain([token]) for _, token, _ in going_on])

    def _end_here(self, step: Step) -> None:
        """Every live beam could end now; keeps the best ending so far."""
        for beam, log_p in zip(self.live, step.log_p[:, self.ends].tolist(), strict=True):
            eos_logprob = max(log_p)
            eos = self.ends[log_p.index(eos_logprob)]
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
        if self.best.tokens:
            return [Finished(self.best, self.best.total, "stop").generation(self.steps)]
        cut = self.live[0]  # a grammar never let it end
        return [Finished(cut, cut.total, "length").generation(self.steps)]
