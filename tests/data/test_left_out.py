import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.test_mixture import Numbers

from paligemma.data.example import ENDLESS
from paligemma.data.left_out import LeftOut
from paligemma.errors import InputError, UsageError


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_the_other_rows_stay_in_order(size, bad):
    bad = {row for row in bad if row < size}
    if len(bad) == size:
        bad.pop()
    left = LeftOut(Numbers("a", size), bad)
    assert [int(left[i].suffix) for i in range(len(left))] == [row for row in range(size) if row not in bad]


def test_other_rows_are_another_data_set():
    fingerprints = {LeftOut(Numbers("a", 9), bad).fingerprint for bad in ([], [1], [2], [1, 2])}
    assert len(fingerprints) == 4
    assert LeftOut(Numbers("a", 9), [2, 1, 1]).fingerprint in fingerprints


def test_something_must_be_left():
    with pytest.raises(InputError, match="none of the 2 rows of a"):
        LeftOut(Numbers("a", 2), [0, 1])
    with pytest.raises(UsageError, match="endless"):
        LeftOut(Numbers("a", ENDLESS), [0])
