"""How well texts agree: the same, the same words, the same characters.

In: what was said and what is true. Out: figures. Spaces and line breaks count as one space. A Chinese, Japanese or
Korean character is a word of its own, as is usual where word error rates are given for them. Not here: the metrics of
published benchmarks, which normalise in their own ways.
"""

import re
from collections.abc import Sequence

# Han with its extensions, kana, Hangul
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f]")


def exact_match(said: str, true: str, *, ignore_case: bool = False) -> bool:
    """Whether the two are the same text."""
    first, second = (" ".join(text.split()) for text in (said, true))
    return first.casefold() == second.casefold() if ignore_case else first == second


def words(text: str) -> list[str]:
    """Words between spaces; each CJK character is one."""
    return _CJK.sub(lambda found: f" {found.group()} ", text).split()


def words_right(said: str, true: str) -> tuple[int, int]:
    """How many words are right and in order, and out of how many: those that are there, or said if these are more.

    Words that were invented thus cost as much as words left out; (0, 0) where there are none at all.
    """
    first, second = words(said), words(true)
    return common_length(first, second), max(len(first), len(second))


def word_accuracy(said: Sequence[str], true: Sequence[str]) -> float:
    """Share of words read right over all texts, 0..1; nan where there is no word.

    Raises:
        ValueError: as many texts said as true were expected.
    """
    pairs = [words_right(a, b) for a, b in zip(said, true, strict=True)]
    total = sum(of for _, of in pairs)
    return sum(right for right, _ in pairs) / total if total else float("nan")


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest sequence that both hold in order, with gaps."""
    best = [0] * (len(b) + 1)
    for one in a:
        diagonal = 0
        for i, other in enumerate(b, 1):
            above = best[i]
            best[i] = diagonal + 1 if one == other else max(best[i], best[i - 1])
            diagonal = above
    return best[-1]


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Insertions, deletions and replacements that lead from one to the other (Levenshtein 1966)."""
    costs = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        diagonal, costs[0] = costs[0], i
        for k, other in enumerate(b, 1):
            above = costs[k]
            costs[k] = min(above + 1, costs[k - 1] + 1, diagonal + (one != other))
            diagonal = above
    return costs[-1]


def character_error_rate(said: Sequence[str], true: Sequence[str]) -> float:
    """Edit distance in characters over the characters that are there, over all texts; may exceed 1; nan without any.

    Raises:
        ValueError: as many texts said as true were expected.
    """
    pairs = [(" ".join(a.split()), " ".join(b.split())) for a, b in zip(said, true, strict=True)]
    there = sum(len(b) for _, b in pairs)
    return sum(edit_distance(a, b) for a, b in pairs) / there if there else float("nan")
