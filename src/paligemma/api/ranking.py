"""Which of these answers is the likeliest? Pictures, a prompt and candidates in, candidates with probabilities out.

Every candidate is scored as the whole answer, its end included, so a short one is not preferred for being a beginning
of a longer one. The prompt and its pictures run once for all candidates.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paligemma.api.queries import Query
from paligemma.api.requests import prompt_of
from paligemma.errors import UsageError
from paligemma.tasks import Prompt

if TYPE_CHECKING:
    from paligemma.api.model import PaliGemma

_CONTROL = re.compile(r"<(?:bos|eos|pad|unk|image)>")
_TYPED = re.compile(r"<(?:loc[0-9]{4}|seg[0-9]{3})>")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One candidate answer.

    Args:
        text: as it was given.
        logprob: natural logarithm of the probability that the model answers exactly this, its end included.
        logprob_per_token: the mean of it over the tokens, end included: for candidates of unlike length.
        probability: its share among the candidates, 0..1; those of all candidates sum to 1.
    """

    text: str
    logprob: float
    logprob_per_token: float
    probability: float

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, 6 decimals."""
        numbers = {name: round(getattr(self, name), 6) for name in ("logprob", "logprob_per_token", "probability")}
        return {"text": self.text, **numbers}


def rank(
    model: "PaliGemma", examples: Sequence[Any], prompt: str | Prompt, candidates: Sequence[str], allow: frozenset[str],
    batch_size: int,
) -> list[list[Ranked]]:  # fmt: skip
    """The candidates of each example, likeliest first.

    Raises:
        UsageError: no candidate, one that is empty or stands twice, or one that spells a special token.
        InputError: no picture, one that cannot be read, or too much for this model.
    """
    query = Query(None, "generate", {"prompt": prompt}, {"allow": allow})
    query.check()
    made = prompt_of(model, query)
    tokens = [[*ids, model.tokenizer.eos_id] for ids in _candidate_ids(model, candidates, made.allow)]
    longest = model.config.text.max_positions - max(map(len, tokens))
    found: list[list[Ranked]] = []
    for first in range(0, len(examples), batch_size):
        opened = [model.encoder.opened(example) for example in examples[first : first + batch_size]]
        rows = model.encoder.with_features([model.encoder.row(pictures, made, longest) for pictures in opened])
        scores = model.engine.score(rows, [tokens] * len(rows), batch_size=batch_size)
        found += [_ranked(candidates, own) for own in scores]
    return found


def _candidate_ids(model: "PaliGemma", candidates: Sequence[str], allow: frozenset[str]) -> list[list[int]]:
    if isinstance(candidates, str) or not candidates:
        raise UsageError(f"the candidates are {candidates!r}; give a list of at least one possible answer")
    seen: dict[tuple[int, ...], int] = {}
    for i, text in enumerate(candidates):
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"candidate {i} is {text!r}; give a text, or leave it out")
        special = _CONTROL.search(text) or (None if allow else _TYPED.search(text))
        if special:
            way = "leave it out, the end is put in for you" if _CONTROL.match(special.group()) else (
                "give allow=frozenset({'locations'}) if the token is meant"
            )  # fmt: skip
            raise UsageError(f"candidate {i} spells {special.group()!r}, which would be scored as plain letters; {way}")
        ids = tuple(model.tokenizer.encode(text, allow=allow))
        if ids in seen:
            raise UsageError(f"candidates {seen[ids]} and {i} are both {text!r}; give each answer once")
        seen[ids] = i
    return [list(ids) for ids in seen]


def _ranked(candidates: Sequence[str], logprobs: Sequence[Sequence[float]]) -> list[Ranked]:
    totals = [math.fsum(own) for own in logprobs]
    best = max(totals)
    shares = [math.exp(total - best) for total in totals]
    whole = math.fsum(shares)
    ranked = [
        Ranked(text=text, logprob=total, logprob_per_token=total / len(own), probability=share / whole)
        for text, total, own, share in zip(candidates, totals, logprobs, shares, strict=True)
    ]
    return sorted(ranked, key=lambda one: -one.logprob)
