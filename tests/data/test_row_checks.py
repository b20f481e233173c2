import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.checking import MASK, PLACE

from paligemma.config import VARIANTS
from paligemma.data.example import Example
from paligemma.data.row_checks import text_findings


def found(prefix, suffix, variant=None):
    example = Example(id="a:1", images=(), prefix=prefix, suffix=suffix)
    return [(finding.code, finding.field) for finding in text_findings(example, variant)]


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("caption en", "a cat"),
        ("answer en what is it?", "a cat; a dog"),
        ("ocr", "A < B"),
        ("detect cat", f"{PLACE} cat"),
        ("detect cat ; dog", f"{PLACE} cat ; <loc0000><loc0000><loc1023><loc1023> dog"),
        ("detect cat", ""),
        ("segment cat", f"{PLACE}{MASK} cat"),
        ("caption " + PLACE, "a cat"),
        ("what is this?", "a cat"),
    ],
)
def test_sound_rows_are_left_in_peace(prefix, suffix):
    assert found(prefix, suffix) == []


@pytest.mark.parametrize(
    ("prefix", "suffix", "code", "field"),
    [
        ("", "a cat", "empty_prefix", "prefix"),
        (" \n", "a cat", "empty_prefix", "prefix"),
        ("caption en\n", "a cat", "newline_in_prefix", "prefix"),
        (" caption en", "a cat", "outer_spaces", "prefix"),
        ("caption en", "a cat ", "outer_spaces", "suffix"),
        ("caption en", "", "empty_suffix", "suffix"),
        ("caption", "a cat", "unusual_prompt", "prefix"),
        ("captoin en", "a cat", "unusual_prompt", "prefix"),
        ("<image>caption en", "a cat", "unusual_prompt", "prefix"),
        ("detect cat;dog", f"{PLACE} cat", "unusual_prompt", "prefix"),
        ("caption en", f"a cat {PLACE}", "split_location", "suffix"),
        ("caption en", f"a cat {MASK}", "split_location", "suffix"),
        ("detect cat", "<loc1024><loc0200><loc0300><loc0400> cat", "bad_location", "suffix"),
        ("detect cat", "<loc100><loc200><loc300><loc400> cat", "bad_location", "suffix"),
        ("segment cat", f"{PLACE}{MASK.replace('<seg003>', '<seg128>')} cat", "bad_location", "suffix"),
        ("detect cat", "<loc0100><loc0200><loc0300> cat", "bad_boxes", "suffix"),
        ("detect cat", f"{PLACE}{PLACE} cat", "bad_boxes", "suffix"),
        ("detect cat", "<loc0300><loc0200><loc0100><loc0400> cat", "bad_boxes", "suffix"),
        ("detect cat", "<loc0100><loc0200><loc0300><loc0200> cat", "bad_boxes", "suffix"),
        ("detect cat", "a cat", "bad_boxes", "suffix"),
        ("detect cat", f"{PLACE} cat ; dog", "bad_boxes", "suffix"),
        ("detect cat", f"{PLACE}{MASK} cat", "bad_boxes", "suffix"),
        ("segment cat", f"{PLACE} cat", "bad_boxes", "suffix"),
        ("segment cat", f"{PLACE}{MASK.removesuffix('<seg015>')} cat", "bad_boxes", "suffix"),
        ("segment cat", f"{PLACE}{MASK}<seg000> cat", "bad_boxes", "suffix"),
        ("detect cat", f"{PLACE} dog", "unasked_label", "suffix"),
        ("detect cat", PLACE, "unasked_label", "suffix"),
        ("detect cat", f"{PLACE} cat ; {PLACE} cat", "repeated_box", "suffix"),
    ],
)
def test_each_fault_is_found(prefix, suffix, code, field):
    assert (code, field) in found(prefix, suffix)


def test_the_words_of_a_checkpoint():
    assert found("what is the total?", "7", VARIANTS["paligemma-3b-ft-docvqa-224"]) == []
    codes = found("answer en what is the total?", "7", VARIANTS["paligemma-3b-ft-docvqa-224"])
    assert codes == [("unusual_prompt", "prefix")]


@given(st.text(), st.text())
def test_any_text_is_judged(prefix, suffix):
    for code, field in found(prefix, suffix):
        assert code
        assert field in ("prefix", "suffix")
