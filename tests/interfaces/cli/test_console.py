import io
import json
import math
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.interfaces.cli import console


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@given(st.text())
def test_cleaned_text_steers_no_terminal(text):
    cleaned = console.clean(text)
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in cleaned)
    assert console.clean(cleaned) == cleaned
    assert [c for c in text if c in cleaned] == list(cleaned)


def test_escape_sequences_and_reversed_text_go_but_scripts_stay():
    assert console.clean("a\x1b[31mred\x07\x9b\u202e b\r\n\tc") == "a[31mred b\n\tc"
    assert console.clean("狗 שלום e\u0301") == "狗 שלום e\u0301"


def test_only_a_terminal_gets_cleaned_text(monkeypatch):
    for stream, expected in ((Terminal(), "a[2Jb\n"), (io.StringIO(), "a\x1b[2Jb\n")):
        monkeypatch.setattr(sys, "stdout", stream)
        console.say("a\x1b[2Jb")
        assert stream.getvalue() == expected


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colours_only_where_they_are_wanted(monkeypatch, environment, coloured):
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    console.error("oh")
    assert ("\x1b[" in sys.stderr.getvalue()) is coloured
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console.error("oh")
    assert sys.stderr.getvalue() == "error: oh\n"


def test_colours_can_be_forced_into_a_pipe(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console.error("oh")
    assert sys.stderr.getvalue() == "\x1b[1;31merror:\x1b[0m oh\n"


def test_quiet_leaves_errors(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with console.quiet(True), console.quiet(False):
        console.note("a")
        console.warn("b")
        console.error("c")
    with console.quiet(False):
        console.note("d")
    assert sys.stderr.getvalue() == "error: c\nd\n"


def test_text_that_is_clean_already_may_hold_colours(monkeypatch):
    stream = Terminal()
    console.write(stream, "\x1b[1mx\x1b[0m", clean_first=False)
    console.write(stream, "\x1b[1my")
    assert stream.getvalue() == "\x1b[1mx\x1b[0m[1my"
    assert console.cleaned("\x1b", stream) == ""
    assert console.cleaned("\x1b", io.StringIO()) == "\x1b"


def test_json_is_valid_whatever_is_in_it(monkeypatch):
    value = {"a": math.nan, "b": [math.inf, (1.5, "狗\ud800\x1b")], 3: True}
    for encoding in ("utf-8", "ascii"):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace"))
        console.print_json(value)
        assert json.loads(raw.getvalue()) == {"a": None, "b": [None, [1.5, "狗\ud800\x1b"]], "3": True}


def test_columns_line_up_for_wide_characters():
    lines = console.table(["name", "n"], [["狗狗", "10"], ["abc", "7"]], right=(1,)).splitlines()
    assert lines == ["name   n", "狗狗  10", "abc    7"]
