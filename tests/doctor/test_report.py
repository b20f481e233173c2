import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from paligemma.doctor.report import Report, Row, all_ok, compare, equal, failed

FINITE = st.floats(-1e6, 1e6, width=32)


def test_the_largest_difference_is_found():
    row = compare("x", [1.0, 2.0, 3.0], [1.0, 2.5, 2.9], 0.4)
    assert row.difference == pytest.approx(0.5)
    assert not row.ok
    assert compare("x", [1.0, 2.0], [1.0, 2.5], 0.5).ok


@given(hnp.arrays(np.float32, 5, elements=FINITE), hnp.arrays(np.float32, 5, elements=FINITE))
def test_differences_are_symmetric_and_zero_only_for_equal_arrays(a, b):
    assert compare("x", a, b, 0).difference == compare("x", b, a, 0).difference
    assert compare("x", a, b, 0).ok == bool((a == b).all())


def test_only_the_marked_places_count():
    ours, expected = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    ours[1, 2] = 9
    where = np.ones((2, 3), bool)
    assert not compare("x", ours, expected, 1, where=where).ok
    where[1, 2] = False
    assert compare("x", ours, expected, 1, where=where).ok
    assert equal("x", ours, expected, where=where).ok


def test_a_relative_difference_is_divided_by_the_expected_value():
    assert compare("x", [101.0], [100.0], 0.02, relative=True).difference == pytest.approx(0.01)
    assert compare("x", [0.0], [0.0], 0.0, relative=True).ok
    assert not compare("x", [1e-3], [0.0], 1.0, relative=True).ok


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_are_never_ok(bad):
    assert not compare("x", [1.0, bad], [1.0, 1.0], 1e9).ok
    assert not compare("x", [1.0, 1.0], [1.0, bad], 1e9).ok


def test_the_same_infinity_on_both_sides_agrees():
    assert compare("x", [-math.inf, math.nan], [-math.inf, math.nan], 0).ok
    assert not compare("x", [-math.inf], [math.inf], 1).ok


@pytest.mark.parametrize("check", [lambda a, b: compare("x", a, b, 1e9), lambda a, b: equal("x", a, b)])
def test_another_shape_is_not_ok_and_is_named(check):
    row = check(np.zeros((1, 3)), np.zeros(3))
    assert not row.ok
    assert "[1, 3]" in row.note
    assert "[3]" in row.note


def test_equal_counts_places():
    assert equal("ids", [1, 2, 3], [1, 5, 6]).difference == 2
    assert equal("ids", [[1, 2]], [[1, 2]]).ok


def test_a_report_with_one_broken_row_is_not_ok():
    good, bad = Row("a", 0.0, 1e-4), Row("b", 2e-4, 1e-4, "why")
    assert Report("hf", "dir", (good,)).ok
    report = Report("hf", "dir", (good, bad))
    assert not report.ok
    assert report.broken == [bad]
    assert not all_ok([Report("hf", "dir", (good,)), report])


def test_an_empty_report_proves_nothing():
    assert not Report("hf", "dir", ()).ok


def test_json_has_only_numbers_that_json_knows():
    report = Report("hf", "dir", (failed("a", "no such array"), Row("b", math.nan, 0.0), Row("c", 0.5, 1.0)))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert [row["difference"] for row in data["rows"]] == [None, None, 0.5]
    assert [row["ok"] for row in data["rows"]] == [False, False, True]
    assert data["rows"][0]["note"] == "no such array"


def test_the_table_names_every_array_and_marks_the_broken_ones():
    text = Report("hf", "dir", (Row("good", 0.0, 1e-4), Row("bad", 2e-4, 1e-4))).to_text()
    lines = {line.split()[1]: line for line in text.splitlines() if line.startswith("  ") and "of" in line}
    assert lines["good"].split()[0] == "ok"
    assert lines["bad"].split()[0] == "FAIL"
    assert "1 of 2 arrays" in text
