import io
import json
import math

import pytest
from tests.train.made import record, run_of

from paligemma.errors import ResourceError
from paligemma.train.reports.report import Journal, Terminal, finite, line, read_log, write_summary


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_logs_hold_a_row_per_step(tmp_path):
    run_of(Journal(tmp_path), 4, evaluate_every=2)
    steps, evaluations = read_log(tmp_path)
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert steps[1] == {
        "step": 2, "loss": 2.5, "lr": 1e-4, "grad_norm": 0.5, "examples": 8, "tokens": 400, "skipped": False,
    }  # fmt: skip
    assert evaluations[-1] == {"step": 4, "evaluation": {"loss": 1.0, "ap50": 1.0, "caption_exact": 0.5}}
    timings = [json.loads(text) for text in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert timings[0] == {"step": 1, "seconds": 0.5, "memory_bytes": 2_000_000_000}


def test_metrics_do_not_depend_on_time(tmp_path):
    logs = []
    for name, seconds in (("a", 0.1), ("b", 7.0)):
        (tmp_path / name).mkdir()
        journal = Journal(tmp_path / name)
        journal.on_note(f"resumed after {seconds}")
        journal.on_step(record(1, seconds=seconds, eta_s=seconds, memory_bytes=int(seconds * 1e9)))
        logs.append((tmp_path / name / "metrics.jsonl").read_bytes())
    assert logs[0] == logs[1]


def test_what_is_not_finite_becomes_null(tmp_path):
    Journal(tmp_path).on_step(record(1, loss=math.nan, grad_norm=math.inf, skipped=True))
    (row,), _ = read_log(tmp_path)
    assert (row["loss"], row["grad_norm"], row["skipped"]) == (None, None, True)
    assert finite({"a": [math.nan, (1.5, "x")]}) == {"a": [None, [1.5, "x"]]}


def test_a_log_that_was_cut_is_read_as_far_as_it_goes(tmp_path):
    run_of(Journal(tmp_path), 3)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [row["step"] for row in read_log(tmp_path)[0]] == [1, 2]
    assert read_log(tmp_path / "nowhere") == ([], [])


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ResourceError, match=r"cannot write .*metrics.jsonl"):
        Journal(tmp_path / "gone").on_step(record(1))


def test_a_file_gets_lines_now_and_then_and_the_last_step():
    stream = io.StringIO()
    run_of(Terminal(5, stream=stream, every_s=1000), 5, evaluate_every=5)
    lines = stream.getvalue().splitlines()
    assert [text.split()[:2] for text in lines[:2]] == [["step", "1/5"], ["step", "5/5"]]
    assert lines[2] == "evaluation at step 5:  loss 0.8  ap50 1  caption_exact 0.5"
    assert len(lines) == 3


def test_quiet_tells_notes_only():
    stream = io.StringIO()
    terminal = Terminal(3, stream=stream, every_s=0, quiet=True)
    run_of(terminal, 3, evaluate_every=1)
    terminal.on_note("resumed at step 2")
    assert stream.getvalue() == "resumed at step 2\n"


def test_a_terminal_gets_a_bar_and_keeps_notes(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    terminal = Terminal(3, stream=screen)
    terminal.on_step(record(1))
    terminal.on_note("saved [best]")
    terminal.on_step(record(3))
    terminal.close()
    assert "step 1/3" in screen.getvalue()
    assert "saved [best]" in screen.getvalue()
    assert "step 3/3" in screen.getvalue()


def test_a_line_tells_means_and_what_is_left():
    text = line([record(7, loss=1.0), record(8, loss=3.0, skipped=True)], 2000)
    assert text == (
        "step 8/2000  loss 2.0000  lr 0.0001  grad 0.5  16 examples/s  800 tokens/s  2.0 GB  0:01:05 left  1 skipped"
    )


def test_a_line_about_a_loss_that_is_no_number():
    text = line([record(1, loss=math.nan, seconds=0.0, memory_bytes=0, eta_s=math.nan)], 2)
    assert text == "step 1/2  loss not finite  lr 0.0001  grad 0.5"


def test_summary(tmp_path):
    path = write_summary(tmp_path, {"steps": 3, "best": {"loss": math.inf}, "out": tmp_path})
    assert json.loads(path.read_text()) == {"steps": 3, "best": {"loss": None}, "out": str(tmp_path)}
