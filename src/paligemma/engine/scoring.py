"""What the model thinks of tokens that are given: forced ones of an answer, or whole candidate answers.

In: hidden states of chains that were fed, or prompts with candidates. Out: log-probabilities, natural and of the whole
distribution. Scores over the vocabulary exist for the tokens fed only, and for a bounded number of them at a time.
Letters: P tokens fed, R rows, D width, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from paligemma.engine.ragged import Pool
from paligemma.engine.runner import Prompt, Runner
from paligemma.engine.sampling import Chain, Ranges, Scored, watch
from paligemma.errors import CheckFailed

SCORED_AT_ONCE = 64  # tokens: bounds the memory of their scores, 64 MiB in float32 over the whole vocabulary
OPEN = -1  # in place of the token that follows: it is still to be chosen


@torch.inference_mode()
def score_chains(
    runner: Runner, hidden: Tensor, chains: Sequence[Chain], ranges: Ranges = ()
) -> tuple[Tensor, list[list[Scored]]]:
    """What the pass over some chains says: float[R, V] after each open chain, and each chain's scored forced tokens.

    Args:
        hidden: float[P, D] of the tokens fed, chain after chain.
    """
    if all(len(chain.tokens) == 1 for chain in chains):  # nothing is forced
        return runner.logits(hidden), [[] for _ in chains]
    targets = [token for chain in chains for token in (chain.tokens[1:] + ([] if chain.ends else [OPEN]))]
    scored: list[Scored] = []
    after: list[Tensor] = []
    for start in range(0, len(targets), SCORED_AT_ONCE):
        part = targets[start : start + SCORED_AT_ONCE]
        logits = runner.logits(hidden[start : start + SCORED_AT_ONCE])
        scored.extend(_score(logits, part, ranges))
        after.append(logits[[place for place, target in enumerate(part) if target == OPEN]])
    require_numbers([one.logprob for one in scored], hidden)
    rest = iter(scored)
    return torch.cat(after), [[next(rest) for _ in chain.tokens[1:]] for chain in chains]


def _score(logits: Tensor, targets: Sequence[int], ranges: Ranges) -> list[Scored]:
    """Each target that is not open, scored by its row of float[P, V]."""
    log_z = logits.float().logsumexp(-1)
    wanted = [place for place, target in enumerate(targets) if target != OPEN]
    tokens = [targets[place] for place in wanted]
    logprobs = (logits[wanted, tokens].float() - log_z[wanted]).tolist()
    watched: list[Tensor | None] = [None] * len(wanted)
    for start, stop in reversed(ranges):
        inside = [i for i, token in enumerate(tokens) if start <= token < stop]
        if not inside:
            continue
        places = [wanted[i] for i in inside]
        (values,) = watch(logits[places], log_z[places], [(start, stop)])
        for i, row in zip(inside, values, strict=True):
            watched[i] = row.clone()
    return [Scored(*pair) for pair in zip(logprobs, watched, strict=True)]


def require_numbers(logprobs: Sequence[float], scores: Tensor) -> None:
    """
    Raises:
        CheckFailed: a log-probability is none.
    """
    if not all(map(math.isfinite, logprobs)):
        raise CheckFailed(
            f"the model gave scores that are no numbers in {scores.dtype}; Gemma 2 overflows in float16, "
            "so load the model in bfloat16 or float32"
        )


@torch.inference_mode()
def score_candidates(
    pool: Pool, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Sequence[int]]]
) -> list[list[list[float]]]:
    """Log-probabilities of the tokens of each candidate after its prompt; each prompt runs once for all of them.

    Args:
        pool: with a row for each prompt, and others for as many candidates at a time.
    """
    prompt_rows, logits = pool.prefill(prompts)
    first = logits.float().log_softmax(-1)
    result: list[list[list[float]]] = [[[] for _ in own] for own in candidates]
    for row, own in enumerate(candidates):
        for place, tokens in enumerate(own):
            result[row][place] = first[row, list(tokens[:1])].tolist()
            require_numbers(result[row][place], logits)
    rest = [(row, place) for row, own in enumerate(candidates) for place, tokens in enumerate(own) if len(tokens) > 1]
    rest.sort(key=lambda pair: -len(candidates[pair[0]][pair[1]]))  # neighbours need little padding
    at_once = pool.free
    for start in range(0, len(rest), at_once):
        part = rest[start : start + at_once]
        chains = [Chain(list(candidates[row][place]), ends=True) for row, place in part]
        forks = [pool.fork(prompt_rows[row]) for row, _ in part]
        _, scored = score_chains(pool.runner, pool.feed(forks, [chain.fed for chain in chains]), chains)
        for fork in reversed(forks):  # the last first, so that none of them moves
            pool.release(fork)
        for (row, place), own_scores in zip(part, scored, strict=True):
            result[row][place].extend(one.logprob for one in own_scores)
    return result
