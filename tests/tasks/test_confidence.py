"""Scores see what the model saw: its whole distributions, through any text, in parts that mean something."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paligemma
from paligemma.results import Box
from paligemma.results.boxes import iou
from paligemma.tasks.confidence import BoxScore, expected_iou, refine_boxes, score_boxes, with_scores
from paligemma.tasks.grammar import read_boxes
from paligemma.tokenizer import LOCATIONS, Tokenizer

TOKENIZER = Tokenizer.load(Path(paligemma.__file__).parent / "checkpoints" / "nano")
SIZE = (640, 480)
CAT, DOG = "<loc0100><loc0200><loc0500><loc0600>", "<loc0600><loc0100><loc0900><loc0400>"
SEG = "".join(f"<seg{i:03d}>" for i in range(16))


def made(raw, *, spread=0.0, mass=0.99, p_text=0.5, p_mask=0.25):
    """Tokens of `raw` with what an engine would report: triangular distributions of `spread` bins around each edge."""
    tokens = TOKENIZER.encode(raw, allow=frozenset({LOCATIONS}))
    logprobs, watched = [], []
    for token in tokens:
        if TOKENIZER.loc_start <= token < TOKENIZER.loc_start + 1024:
            bins = np.arange(1024)
            p = np.maximum(1 - abs(bins - (token - TOKENIZER.loc_start)) / (spread + 1), 0)
            p = p / p.sum() * mass
            with np.errstate(divide="ignore"):
                watched.append(torch.tensor(np.log(p), dtype=torch.float32))
            logprobs.append(math.log(p[token - TOKENIZER.loc_start]))
        elif TOKENIZER.seg_start <= token < TOKENIZER.seg_start + 128:
            watched.append(torch.full((128,), -math.log(128.0)))
            logprobs.append(math.log(p_mask))
        else:
            watched.append(None)
            logprobs.append(math.log(p_text))
    return tokens, logprobs, watched


def scores_of(raw, *, start="", **more):
    reading = read_boxes(start + raw, SIZE)
    return score_boxes(reading, *made(raw, **more), TOKENIZER, start=start)


def test_the_parts_of_a_score():
    first, second = scores_of(f"{CAT}{SEG} cat ; {DOG}{SEG} dog", mass=0.8)
    assert first.presence == pytest.approx(0.8, rel=1e-5)
    assert second.presence == pytest.approx(0.8 * 0.5**3, rel=1e-5)  # " ", ";", " " in nano's vocabulary
    assert (first.label, first.mask) == (0.5, pytest.approx(0.25))
    assert first.localisation == pytest.approx(1, abs=1e-6)
    assert first.median_bin == (100, 200, 500, 600)
    assert first.expected_bin == pytest.approx((100, 200, 500, 600), abs=1e-3)
    assert first.score == pytest.approx(0.8 * 0.5, rel=1e-5)


def test_labels_of_many_tokens_and_none():
    (long,) = scores_of(f"{CAT} traffic light")
    assert long.label == pytest.approx(0.5 ** len(TOKENIZER.encode(" traffic light")))
    (nameless,) = scores_of(CAT)
    assert (nameless.label, nameless.mask) == (1.0, None)
    foreign, cat = scores_of(f"{CAT} 猫 ; {DOG} cat")  # one character of three byte tokens
    assert foreign.label == pytest.approx(0.5 ** len(TOKENIZER.encode(" 猫")))
    assert cat.presence == pytest.approx(0.99 * 0.5**3, rel=1e-4)


def test_a_wider_distribution_scores_lower_whatever_its_best_bin():
    localisation = [scores_of(f"{CAT} cat", spread=spread)[0].localisation for spread in (0, 10, 40, 120, 300)]
    assert localisation == sorted(localisation, reverse=True)
    assert localisation[0] > 0.99 > localisation[1] > 0.9 > localisation[3] > localisation[4] > 0.3
    (score,) = scores_of(f"{CAT} cat", spread=40)
    assert score.spread_bin == pytest.approx([math.sqrt(41**2 / 6)] * 4, rel=0.02)


@settings(max_examples=12, deadline=None)
@given(st.tuples(st.integers(0, 480), st.integers(0, 480), st.integers(520, 1023), st.integers(520, 1023)),
       st.integers(1, 200), st.integers(0, 99))  # fmt: skip
def test_expected_iou_agrees_with_many_draws(box, width, seed):
    rng = np.random.default_rng(seed)
    p = np.stack([np.maximum(1 - abs(np.arange(1024) - edge) / width, 1e-9) for edge in box])
    p /= p.sum(axis=1, keepdims=True)
    drawn = np.stack([rng.choice(1024, size=2000, p=row) for row in p], axis=1)
    mean = np.mean([iou(box, row) if row[0] < row[2] and row[1] < row[3] else 0 for row in drawn])
    assert expected_iou(box, p.cumsum(axis=1)) == pytest.approx(mean, abs=0.03)


def test_what_was_not_watched_has_no_score():
    reading = read_boxes(f"{CAT} cat", SIZE)
    tokens, logprobs, watched = made(f"{CAT} cat")
    assert score_boxes(reading, tokens, logprobs, [None] * len(tokens), TOKENIZER) == [None]
    assert score_boxes(reading, tokens, logprobs, [], TOKENIZER) == [None]
    typed = TOKENIZER.encode(f"{CAT} cat")  # the same characters, as ordinary text
    assert score_boxes(reading, typed, [-1.0] * len(typed), [None] * len(typed), TOKENIZER) == [None]
    assert (watched[-1], len(reading.spans)) == (None, 1)


def test_a_given_start_has_no_tokens():
    given, own = scores_of(f"{DOG} dog", start=f"{CAT} cat ; ")
    assert (given, own.presence) == (None, pytest.approx(0.99, rel=1e-5))
    (rest,) = scores_of(f"{CAT[9:]} cat", start=CAT[:9])
    assert rest is None


def test_malformed_answers_are_scored_where_they_can_be():
    raw = f"oh: {CAT}{SEG}<seg001> cat ; dog ; <loc0001> ; {DOG.replace('>', '> ')} dog ; {CAT} "
    scores = scores_of(raw)
    assert [score is None for score in scores] == [False, True, False]
    assert scores[0].mask == pytest.approx(0.25)
    assert scores_of(f"{CAT}<seg001> cat")[0].mask is None


PIECES = ["<loc0000>", "<loc0511>", "<loc1023>", "<seg000>", " ", ";", " ; ", "cat", "\n", "<", "é", "猫", CAT, SEG]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.integers(0, 12))
def test_any_answer_gives_a_probability_or_none(raw, given_start):
    scores = scores_of(raw[given_start:], start=raw[:given_start], spread=25)
    assert len(scores) == len(read_boxes(raw, SIZE).boxes)
    assert all(0 <= score.score <= 1 for score in scores if score)


def test_scores_go_into_boxes_and_through_a_calibration():
    reading = read_boxes(f"{CAT}{SEG} cat ; {DOG} dog", SIZE)
    (first, _) = scores_of(f"{CAT}{SEG} cat ; {DOG} dog")
    a, b = with_scores(reading.boxes, [first, None])
    assert (a.score, a.raw_score, a.mask_score) == (first.score, first.score, first.mask)
    assert (b.score, b.raw_score, b.mask_score) == (None, None, None)
    (a, _) = with_scores(reading.boxes, [first, None], lambda raw: raw / 2)
    assert (a.score, a.raw_score) == (first.score / 2, first.score)


def test_boxes_at_the_median():
    def score(bins):
        return BoxScore(
            presence=1, label=1, localisation=1, median_bin=bins, expected_bin=(0, 0, 0, 0), spread_bin=(0, 0, 0, 0)
        )

    box = Box(label="cat", box_yxyx_norm=(0, 0, 1, 1), loc=(0, 0, 1023, 1023), image_size_px=SIZE)
    moved, flat, unknown = refine_boxes([box] * 3, [score((10, 20, 30, 40)), score((10, 20, 10, 40)), None])
    assert moved.box_yxyx_norm == (10 / 1023, 20 / 1023, 30 / 1023, 40 / 1023)
    assert (moved.loc, flat, unknown) == (box.loc, box, box)
    assert refine_boxes([box], [score((10, 20, 30, 40))], 1024)[0].box_yxyx_norm[3] == 40 / 1024


def test_which_object_comes_first_is_no_doubt_about_where_it_is():
    """Half of the first top edge's mass lies where the dog begins: an order where the dog follows, doubt where not."""
    raw = f"{CAT} cat ; {DOG} dog"
    alone, both = f"{CAT} cat", raw
    found = {}
    for text in (alone, both):
        tokens, logprobs, watched = made(text)
        p = torch.zeros(1024)
        p[100], p[600] = 0.5, 0.49
        watched[0] = p.log()
        found[text] = score_boxes(read_boxes(text, SIZE), tokens, logprobs, watched, TOKENIZER)[0]
    assert found[both].localisation == pytest.approx(1, abs=1e-6)
    assert found[alone].localisation == pytest.approx(0.5, abs=0.05)
    assert found[both].presence == found[alone].presence == pytest.approx(0.99)
