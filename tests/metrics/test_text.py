import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.metrics.text import (
    character_error_rate,
    common_length,
    edit_distance,
    exact_match,
    word_accuracy,
    words,
    words_right,
)

texts = st.text(alphabet="ab 红猫", max_size=12)


@pytest.mark.parametrize(
    ("said", "true", "same"),
    [
        ("a red cat", "a red cat", True),
        (" a red  cat\n", "a red cat", True),
        ("a Red cat", "a red cat", False),
        ("a red cat.", "a red cat", False),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_exact_match(said, true, same):
    assert exact_match(said, true) is same


def test_case_may_be_left_out():
    assert exact_match("STRASSE", "straße", ignore_case=True)
    assert not exact_match("STRASSE", "straße")


def test_a_chinese_character_is_a_word():
    assert words("两只 red猫 x1") == ["两", "只", "red", "猫", "x1"]


@pytest.mark.parametrize(
    ("said", "true", "right"),
    [
        ("OPEN 24 HOURS", "OPEN 24 HOURS", (3, 3)),
        ("OPEN HOURS", "OPEN 24 HOURS", (2, 3)),
        ("HOURS OPEN", "OPEN HOURS", (1, 2)),
        ("OPEN OPEN OPEN", "OPEN", (1, 3)),
        ("", "OPEN", (0, 1)),
        ("OPEN", "", (0, 1)),
        ("", "", (0, 0)),
    ],
)
def test_words_right(said, true, right):
    assert words_right(said, true) == right


def test_word_accuracy_counts_words_and_not_texts():
    assert word_accuracy(["A B C", "X"], ["A B C", "Y"]) == 0.75
    assert math.isnan(word_accuracy([""], [""]))
    with pytest.raises(ValueError, match="zip"):
        word_accuracy(["a"], [])


def test_character_error_rate():
    assert character_error_rate(["kitten"], ["sitting"]) == pytest.approx(3 / 7)
    assert character_error_rate(["", "ab"], ["ab", "ab"]) == 0.5
    assert math.isnan(character_error_rate(["a"], [""]))


@given(texts, texts)
def test_distance_is_a_distance(a, b):
    distance = edit_distance(a, b)
    assert distance == edit_distance(b, a)
    assert (distance == 0) == (a == b)
    assert abs(len(a) - len(b)) <= distance <= max(len(a), len(b))
    assert distance <= len(a) + len(b) - 2 * common_length(a, b)


@given(texts, texts)
def test_no_more_is_right_than_is_there(a, b):
    right, of = words_right(a, b)
    assert 0 <= right <= of
    assert (right == of) == (words(a) == words(b))
