"""How sure the model was of each box: its tokens' distributions -> scores 0..1.

In: what was read of an answer, its tokens, their log-probabilities and, for location and mask tokens, the whole
distribution over their alphabet, all under the model's own distribution, whatever a grammar allowed. Out: one
`BoxScore` per box, with the parts it is made of. Not done here: calibration (`metrics.calibration`), a model.

    score = presence * label * localisation

`presence`: the model goes on instead of ending, and goes on with a location. `label`: the words behind the box.
`localisation`: the box's expected IoU if its true edges were distributed as the model's location tokens are; this sees
how far apart the likely bins are, which the probability of one bin does not. Chosen among thirty formulas by what
ranks best: docs/decisions/0008-box-scores.md.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS
from paligemma.results import Box
from paligemma.tasks.grammar import MASK_TOKENS, REFERENCE, Divisor, Reading, Span, decode_bin
from paligemma.tokenizer import Tokenizer

NEAR_BINS = 64  # how far around another object's edge the model's doubt about that edge reaches
Edges = tuple[float, float, float, float]
Floats = NDArray[np.float64]

# 256 points spread evenly over the unit cube of four edges, always the same ones: additive recurrence with the powers
# of the root of x**5 = x + 1 (M. Roberts 2018, "The unreasonable effectiveness of quasirandom sequences").
_ROOT = 1.1673039782614187
_POINTS: Floats = (0.5 + np.arange(1, 257)[:, None] * _ROOT ** -np.arange(1.0, 5.0)) % 1


@dataclass(frozen=True, kw_only=True)
class BoxScore:
    """What the model thought of one box. All probabilities are of its whole distribution, all edges y, x, y, x.

    Args:
        presence: that an object follows here at all: of the separator before it, times that of any location token.
        label: of the label's tokens; 1 where the dialect has no label.
        localisation: expected IoU of the box as written, 0..1.
        mask: geometric mean of the mask tokens' probabilities; None without a mask.
        median_bin: the median of each edge's distribution, in bins 0..1023.
        expected_bin, spread_bin: its mean and standard deviation.
    """

    presence: float
    label: float
    localisation: float
    mask: float | None = None
    median_bin: tuple[int, int, int, int]
    expected_bin: Edges
    spread_bin: Edges

    @property
    def score(self) -> float:
        """How sure the model is of the whole box, 0..1; not calibrated."""
        return self.presence * self.label * self.localisation


def score_boxes(
    reading: Reading,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    watched: Sequence[Any],
    tokenizer: Tokenizer,
    *,
    start: str = "",
) -> list[BoxScore | None]:
    """One score per box of `reading`; None where its tokens are not known or nothing was watched (beams).

    Args:
        reading: of the raw text `start + tokenizer.decode(tokens)`.
        tokens: of the answer; an eos at the end may be missing.
        logprobs: natural, of each token and perhaps of eos.
        watched: for each of `logprobs`: float[1024] log-probabilities of all location tokens where one was chosen,
            float[128] of all mask tokens, else None.
        start: given beginning of the answer, which has no tokens here.
    """
    aligned = _Aligned(tokens, tokenizer, len(start))
    scores: list[BoxScore | None] = []
    firsts = [aligned.first(span) for span in reading.spans]
    label_stop = 0  # where the tokens of the label before this box end
    for number, (span, first) in enumerate(zip(reading.spans, firsts, strict=True)):
        lead_start, label_stop = label_stop, aligned.label_stop(span)
        if first is None or not all(_has(watched, i, NUM_LOC_TOKENS) for i in range(first, first + 4)):
            scores.append(None)
            continue
        behind = first + 4 + span.num_masks
        scores.append(
            _score(
                [token - tokenizer.loc_start for token in tokens[first : first + 4]],
                [_array(watched[i]) for i in range(first, first + 4)],
                later=[tokens[i] - tokenizer.loc_start for i in firsts[number + 1 :] if i is not None],
                lead=math.fsum(logprobs[lead_start:first]),
                label=math.fsum(logprobs[behind:label_stop]),
                masks=logprobs[first + 4 : first + 4 + MASK_TOKENS] if span.num_masks >= MASK_TOKENS else (),
            )
        )
    return scores


def with_scores(
    boxes: Sequence[Box], scores: Sequence[BoxScore | None], calibrate: Callable[[float], float] | None = None
) -> tuple[Box, ...]:
    """The same boxes with `raw_score`, `score` (through `calibrate`, raw score -> score) and `mask_score`."""
    found = []
    for box, one in zip(boxes, scores, strict=True):
        if one is not None:
            score = one.score if calibrate is None else calibrate(one.score)
            box = replace(box, raw_score=one.score, score=score, mask_score=one.mask)
        found.append(box)
    return tuple(found)


def refine_boxes(
    boxes: Sequence[Box], scores: Sequence[BoxScore | None], divisor: Divisor = REFERENCE
) -> tuple[Box, ...]:
    """Boxes with each edge at the median of its distribution instead of its likeliest bin; `loc` stays as written.

    Tighter than what was written, on average. A box whose medians leave it no area stays as it is.

    Args:
        divisor: as the boxes were read with.
    """
    found = []
    for box, one in zip(boxes, scores, strict=True):
        if one is not None:
            y1, x1, y2, x2 = one.median_bin
            if y1 < y2 and x1 < x2:
                top, left, bottom, right = (decode_bin(edge, divisor) for edge in one.median_bin)
                box = replace(box, box_yxyx_norm=(top, left, bottom, right))
        found.append(box)
    return tuple(found)


def expected_iou(bins: Sequence[int], cumulative: Floats) -> float:
    """Mean IoU of a box with boxes whose edges are drawn independently from four distributions, by 256 fixed points.

    Args:
        bins: the box, y, x, y, x.
        cumulative: float64[4, 1024], each row rising to 1.
    """
    drawn = _quantiles(cumulative, _POINTS)
    y1, x1, y2, x2 = (float(edge) for edge in bins)
    heights = np.clip(np.minimum(y2, drawn[:, 2]) - np.maximum(y1, drawn[:, 0]), 0, None)
    widths = np.clip(np.minimum(x2, drawn[:, 3]) - np.maximum(x1, drawn[:, 1]), 0, None)
    drawn_areas = np.clip(drawn[:, 2] - drawn[:, 0], 0, None) * np.clip(drawn[:, 3] - drawn[:, 1], 0, None)
    shared = heights * widths
    joint = np.maximum((y2 - y1) * (x2 - x1) + drawn_areas - shared, 1e-9)
    return float(np.mean(shared / joint))


def _without_order(p: Floats, own: int, later: Sequence[int]) -> Floats:
    """A top edge's distribution float64[1024] without the places of objects that the answer names later.

    Before the first location the model also chooses which object comes next; that another one might have, is no doubt
    about this one. Bins near a later object's top edge, and nearer to it than to this one's, are left out.
    """
    axis = np.arange(len(p))
    mine = np.abs(axis - own)
    for other in later:
        theirs = np.abs(axis - other)
        p = np.where((theirs <= NEAR_BINS) & (theirs < mine), 0.0, p)
    return p


def _score(
    bins: Sequence[int],
    edges: Sequence[Floats],
    *,
    later: Sequence[int],
    lead: float,
    label: float,
    masks: Sequence[float],
) -> BoxScore:
    """
    Args:
        bins: the box. edges: float64[1024], log-probabilities of each edge's bins. later: top edges of later boxes.
        lead: log-probability of what stands between the box before and this one; label: of the label.
        masks: of each mask token.
    """
    p = np.exp(np.stack(edges))
    presence = float(p[0].sum())
    p[0] = _without_order(p[0], bins[0], later)
    p = p / np.maximum(p.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cumulative = np.minimum(p.cumsum(axis=1), 1)
    axis = np.arange(NUM_LOC_TOKENS)
    mean = p @ axis
    spread = np.sqrt(np.maximum(p @ axis**2 - mean**2, 0))
    y1, x1, y2, x2 = (int(edge) for edge in _quantiles(cumulative, np.full((1, 4), 0.5))[0])
    return BoxScore(
        presence=_probability(lead) * min(presence, 1.0),
        label=_probability(label),
        localisation=expected_iou(bins, cumulative),
        mask=_probability(math.fsum(masks) / len(masks)) if masks else None,
        median_bin=(y1, x1, y2, x2),
        expected_bin=_edges(mean),
        spread_bin=_edges(spread),
    )


def _quantiles(cumulative: Floats, shares: Floats) -> Floats:
    """float64[n, 4]: the bin at which each edge's distribution reaches each of the shares [n, 4]."""
    columns = [np.searchsorted(row, shares[:, i]) for i, row in enumerate(cumulative)]
    return np.stack(columns, axis=1).clip(0, NUM_LOC_TOKENS - 1).astype(np.float64)


def _probability(logprob: float) -> float:
    return min(math.exp(logprob), 1.0)


def _edges(values: Floats) -> Edges:
    y1, x1, y2, x2 = (float(value) for value in values)
    return (y1, x1, y2, x2)


def _has(watched: Sequence[Any], index: int, length: int) -> bool:
    return index < len(watched) and watched[index] is not None and len(watched[index]) == length


def _array(values: Any) -> Floats:
    """float64 of an array, or of a tensor on any device."""
    return np.asarray(values.detach().cpu().float() if hasattr(values, "detach") else values, dtype=np.float64)


class _Aligned:
    """Which tokens of an answer wrote which characters of its raw text."""

    def __init__(self, tokens: Sequence[int], tokenizer: Tokenizer, offset: int):
        self.tokens, self.offset = tokens, offset
        self.alphabets = (
            range(tokenizer.loc_start, tokenizer.loc_start + NUM_LOC_TOKENS),
            range(tokenizer.seg_start, tokenizer.seg_start + NUM_SEG_TOKENS),
        )
        stream, length = tokenizer.stream(), offset
        self.ends: list[int] = []  # characters that are complete after each token
        for token in tokens:
            length += len(stream.push(token))
            self.ends.append(length)

    def first(self, span: Span) -> int | None:
        """Index of a box's first location token; None where these tokens did not write it, one after another."""
        first = bisect_right(self.ends, span.start)
        places, masks = self.tokens[first : first + 4], self.tokens[first + 4 : first + 4 + span.num_masks]
        whole = len(places) == 4 and len(masks) == span.num_masks and span.start >= self.offset
        locations, codes = self.alphabets
        return first if whole and all(t in locations for t in places) and all(t in codes for t in masks) else None

    def label_stop(self, span: Span) -> int:
        """Index behind the token that completes a box's label, or its last location or mask token."""
        return 0 if span.end <= self.offset else min(bisect_left(self.ends, span.end) + 1, len(self.tokens))
