"""Class numbers are stable."""

import pytest

from paligemma.errors import UsageError
from paligemma.results.labels import Classes


def test_numbers_follow_the_first_appearance_or_the_given_order():
    classes = Classes()
    assert classes.numbers(["b", "a", "b", ""]) == [0, 1, 0, 2]
    assert classes.names == ["b", "a", "object"]
    assert Classes(["a", "b"]).numbers(["b", "a"]) == [1, 0]


def test_a_label_outside_the_given_ones_is_an_error():
    with pytest.raises(UsageError, match=r"none of the 2 given classes; .* did you mean 'cat'"):
        Classes(["cat", "dog"]).number("cats")
