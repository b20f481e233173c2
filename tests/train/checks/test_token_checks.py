from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.train.first_rows import (
    BOX,
    Spoilt,
    labels_one_early,
    labels_one_late,
    nano,
    nothing_learnt,
    padding_learnt,
    stream,
    whole_row_learnt,
    without_eos,
)

from paligemma.train.checks.rows import rows_of
from paligemma.train.checks.token_checks import CHECKS, Alphabet, check_rows

ALPHABET = Alphabet.of(nano().processor, max_positions=8192)


def found(source, alphabet=ALPHABET):
    rows = rows_of(source.micro_batches(0, 0, 1), nano().processor)
    return check_rows(rows, alphabet)


def of_text(prefix, suffix):
    return found(stream((prefix, suffix), batch_size=1))


def test_healthy_rows_pass_every_check():
    masked = BOX[:36] + "<seg001>" * 16 + " cat"
    texts = [("caption en", "a red cat"), ("detect cat", BOX), ("answer en how many?", "2"), ("ocr", "")]
    assert found(stream(*texts, ("segment cat", masked), batch_size=8)) == []


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (nothing_learnt, {"nothing trained"}),
        (whole_row_learnt, {"prompt trained"}),
        (labels_one_early, {"prompt trained", "answer not trained"}),
        (labels_one_late, {"answer not trained"}),
        (padding_learnt, {"prompt trained"}),
        (without_eos, {"eos missing"}),
    ],
)
def test_wrong_masks_are_refused(change, checks):
    findings = found(Spoilt(change))
    assert {finding.check for finding in findings} == checks
    assert all(finding.refused for finding in findings)
    assert findings[0].id.startswith("rows:")
    assert len({finding.id for finding in findings}) == 4 if change is not padding_learnt else 3


@pytest.mark.parametrize("prefix", ["find the boxes", "caption en", "answer en where is the cat?"])
def test_a_location_that_is_read_as_letters_is_refused(prefix):
    (finding,) = of_text(prefix, BOX)
    assert finding.check == "location split"
    assert "<loc0100>" in finding.sentence
    assert "begin it with `detect` or `segment`" in finding.sentence


def test_a_mask_code_in_the_prompt_alone_is_refused():
    (finding,) = of_text("what is <seg001>?", "a cat")
    assert finding.check == "location split"
    assert "in its prefix" in finding.sentence


@pytest.mark.parametrize("wrong", ["<loc1024>", "<loc9999>", "<loc12>", "<seg128>"])
def test_locations_that_do_not_exist_are_refused(wrong):
    findings = of_text("detect cat", f"<loc0001><loc0001><loc0009>{wrong} cat")
    assert "location split" in {finding.check for finding in findings}


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        ("<loc0500><loc0100><loc0400><loc0800> cat", "has no area"),
        ("<loc0100><loc0800><loc0400><loc0800> cat", "has no area"),
        ("<loc0100><loc0200><loc0400> cat", "3 location tokens"),
        ("<loc0100><loc0200><loc0400><loc0800><seg001> cat", "1 mask codes stand behind a box"),
        ("<seg001>" * 16 + " cat", "16 mask codes stand without a box"),
    ],
)
def test_wrong_boxes_are_refused(suffix, words):
    findings = of_text("segment cat", suffix)
    assert [finding.check for finding in findings] == ["box wrong"]
    assert words in findings[0].sentence


@given(st.lists(st.integers(0, 1023), min_size=4, max_size=4))
def test_a_box_is_refused_just_where_it_has_no_area(bins):
    suffix = "".join(f"<loc{b:04d}>" for b in bins) + " cat"
    y1, x1, y2, x2 = bins
    assert bool(of_text("detect cat", suffix)) == (y2 <= y1 or x2 <= x1)


def test_a_row_longer_than_the_model_takes_is_refused():
    findings = found(stream(batch_size=2), replace(ALPHABET, max_positions=70))
    assert {finding.check for finding in findings} == {"too long"}


def test_an_answer_that_stands_in_its_prompt_is_worth_a_look():
    (finding,) = of_text("answer en is it a small red cat on a mat?", "a small red cat")
    assert finding.check == "answer in the prompt"
    assert not finding.refused
    assert of_text("answer en is it a cat or a dog?", "a cat") == []
    two = " ; ".join([BOX, BOX.replace("cat", "tall tree")])
    assert of_text("detect cat ; tall tree", two) == []


def test_refusals_come_first():
    rows = stream(("answer en is it a small red cat?", "a small red cat"), ("caption en", BOX), batch_size=2)
    assert [finding.refused for finding in found(rows)] == [True, False]


def test_names_of_checks_differ():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
