"""Random token sequences of nano's vocabulary, decoded and read: boxes inside the picture, notices, no exception.

The slow one reads a million: `pytest -m slow tests/tasks/test_grammar_random.py`.
"""

import random
from pathlib import Path

import pytest

import paligemma
from paligemma.tasks import TASKS
from paligemma.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(Path(paligemma.__file__).parent / "checkpoints" / "nano")


def alphabets():
    """Kinds of ids: locations, masks, words, separators, controls, newlines, bytes of foreign characters, pieces that
    spell a location token letter by letter."""
    loc, seg = TOKENIZER.loc_start, TOKENIZER.seg_start
    typed = TOKENIZER.encode("<loc0512><seg012>")
    return [
        (range(loc, loc + 1024), 30),
        (range(seg, seg + 128), 15),
        (range(loc), 10),
        (TOKENIZER.encode(" ; ") + TOKENIZER.encode(";"), 12),
        ([TOKENIZER.pad_id, TOKENIZER.eos_id, TOKENIZER.bos_id, TOKENIZER.unk_id], 3),
        ([TOKENIZER.newline_id], 2),
        (TOKENIZER.encode(" cat") + TOKENIZER.encode(" dog"), 6),
        (TOKENIZER.encode("é猫🐈\u3000\x00\x85"), 3),
        (typed, 4),
    ]


def sequences(count, seed):
    """Up to 40 ids each; some keep to one kind for a while, so that whole boxes and masks come about."""
    rng = random.Random(seed)
    kinds, weights = zip(*alphabets(), strict=True)
    for _ in range(count):
        ids = []
        while len(ids) < rng.randint(0, 40):
            (kind,) = rng.choices(kinds, weights)
            if kind is kinds[0] and rng.random() < 0.1:  # a whole box and mask, or nearly
                ids += rng.choices(kind, k=4) + rng.choices(kinds[1], k=rng.choice((15, 16, 16, 16, 17)))
            ids += rng.choices(kind, k=rng.choice((1, 1, 2, 4, 4, 16)))
        yield ids


def read_all(count, seed):
    """How many boxes, masks and notices there were."""
    found = [0, 0, 0]
    parse, size = TASKS["segment"].parse, (130, 90)
    for i, ids in enumerate(sequences(count, seed)):
        raw = TOKENIZER.decode(ids)
        reading = parse(raw, size, divisor=(1023, 1024)[i % 2], default_label="thing")
        for box in reading.boxes:
            x1, y1, x2, y2 = box.xyxy
            assert 0 <= x1 < x2 <= 130 and 0 <= y1 < y2 <= 90, ids  # noqa: PT018  (a million times)
        for notice in reading.warnings:
            assert notice.at is None or raw.startswith(notice.fragment, notice.at), ids
        found[0] += len(reading.boxes)
        found[1] += sum(box.mask_codes is not None for box in reading.boxes)
        found[2] += len(reading.warnings)
    return found


def test_twenty_thousand_random_sequences():
    boxes, masks, notices = read_all(20_000, seed=1)
    assert boxes > 2_000
    assert masks > 100
    assert notices > 20_000


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_random_sequences():
    boxes, _, notices = read_all(1_000_000, seed=2)
    assert min(boxes, notices) > 100_000
