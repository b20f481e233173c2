import io
import re
import sys
import time

import pytest

from paligemma.interfaces.cli import console, progress
from paligemma.interfaces.cli.progress import Bar, duration, several_on_a_terminal

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_screen(text):
    """The lines a terminal would show: carriage returns, erased lines and cursor movements are carried out."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.|\n", text, re.DOTALL):
        if token == "\n":
            row += 1
            while len(lines) <= row:
                lines.append("")
            column = 0
        elif token == "\r":
            column = 0
        elif re.fullmatch(r"\x1b\[[0-9]*A", token):
            row = max(0, row - int(token[2:-1] or 1))
        elif re.fullmatch(r"\x1b\[[0-2]?K", token):
            lines[row] = "" if token == "\x1b[2K" else lines[row][:column]
        elif not token.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def test_the_bar_tells_how_many_how_fast_and_how_long_still(open_terminal, monkeypatch):
    terminal = open_terminal()
    monkeypatch.setattr(progress, "REFRESH_S", 0)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Bar(40, True) as bar:
        now[0] += 5
        bar.step(10)
        seen = CONTROL.sub("", terminal())
        assert "0/40" in seen
        assert "10/40  2.0/s  15 s left" in seen
    assert on_screen(terminal())[-1:] in ([], [""])


def test_nothing_of_the_bar_stays_and_answers_stand_in_whole_lines(open_terminal, monkeypatch):
    terminal = open_terminal()
    monkeypatch.setattr(progress, "REFRESH_S", 0)
    with Bar(3, True) as bar:
        for i in range(3):
            console.say(f"answer {i}")
            console.warn(f"warning {i}")
            bar.step()
    shown = on_screen(terminal())
    assert shown == [f"{kind} {i}" if kind == "answer" else f"warning: warning {i}" for i in range(3)
                     for kind in ("answer", "warning")]  # fmt: skip
    assert console.bar is None


def test_how_much_there_is_may_be_learnt_later(open_terminal, monkeypatch):
    terminal = open_terminal()
    monkeypatch.setattr(progress, "REFRESH_S", 0)
    with Bar(None, True) as bar:
        bar.step()
        bar.set_total(8)
        bar.step()
    assert "2/8" in terminal()


def test_without_a_terminal_nothing_is_drawn(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    assert not several_on_a_terminal(True, False)
    with Bar(3, several_on_a_terminal(True, False)) as bar:
        bar.step(3)
    assert (bar.done, stream.getvalue()) == (3, "")


def test_a_bar_is_for_several_and_not_for_the_quiet(open_terminal):
    open_terminal()
    assert several_on_a_terminal(True, False)
    assert not several_on_a_terminal(False, False)
    assert not several_on_a_terminal(True, True)


def test_an_interrupt_takes_the_bar_away_and_gives_the_cursor_back(open_terminal):
    terminal = open_terminal()

    def interrupted():
        with Bar(3, True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = terminal()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert console.bar is None


def test_an_unknown_number_is_counted(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = Bar(None, False)
    assert bar.told() == "0"
    now[0] = 10
    bar.step(2)
    assert bar.told() == "2  5.0 s each"
    bar.step(98)
    assert bar.told() == "100  10.0/s"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds, told):
    assert duration(seconds) == told
