"""A job goes on with the settings it began with, or with one sentence about what differs."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.errors import UsageError
from paligemma.jobs.settings import Settings, check_same

BASE = {"sources": ("photos",), "task": "caption", "words": {"language": "de"}, "options": {"seed": 1}}


def stored(**more):
    return json.loads(json.dumps(Settings(**{**BASE, **more}).to_json()))


def test_the_same_settings_pass():
    check_same(stored(), Settings(**BASE), "run")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sources": ("photos", "b")}, "began with sources photos and is to go on with photos, b"),
        ({"recursive": True}, "began with recursive False and is to go on with True"),
        ({"task": None}, "began with task 'caption' and is to go on with unset"),
        ({"words": {}}, "began with language 'de' and is to go on with unset"),
        ({"words": {"language": "de", "style": "cap"}}, "began with style unset and is to go on with 'cap'"),
        ({"model": {"model": "x"}}, "began with model unset and is to go on with 'x'"),
        ({"options": {"seed": 2}}, "began with seed 1 and is to go on with 2"),
        ({"batch_size": 4}, "began with batch_size unset and is to go on with 4"),
    ],
)
def test_a_difference_is_named(change, sentence):
    with pytest.raises(UsageError) as caught:
        check_same(stored(), Settings(**{**BASE, **change}), "run")
    assert f"the job in run {sentence}; give the same again" in str(caught.value)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)))
def test_what_is_written_down_equals_itself(options):
    check_same(stored(options=options), Settings(**{**BASE, "options": options}), "run")


@pytest.mark.parametrize("change", [{"sources": ()}, {"batch_size": 0}])
def test_settings_without_sense(change):
    with pytest.raises(UsageError):
        Settings(**{**BASE, **change})
