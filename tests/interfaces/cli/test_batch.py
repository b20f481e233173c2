"""`paligemma batch`: what a user gives and gets; the job itself is tested in tests/jobs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from paligemma.errors import UsageError
from paligemma.interfaces.cli import batch, main
from paligemma.interfaces.cli.batch import AskedOptions, JobAnswerOptions, Stopped, Teller
from paligemma.interfaces.cli.options import STDIN
from paligemma.jobs import Progress


@pytest.fixture
def command(tiny):
    """The options that make a job of the tiny model quick."""
    return ["--out", "run", "--model", str(tiny), "--device", "cpu", "--max-tokens", "4", "--batch-size", "2"]


def results(name="run/results.jsonl"):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_a_folder_of_pictures(pictures, command, capsys):
    assert main(["batch", ".", "--objects", "cat; dog", *command]) == 9
    assert [(row["index"], row["image"]) for row in results()] == [(0, "./a.png"), (1, "./b.jpg")]
    assert results()[0]["answer"]["prompt"] == "detect cat ; dog"
    (failed,) = results("run/errors.jsonl")
    assert (failed["image"], failed["error"]["code"]) == ("./bad.png", "bad_input")
    told = capsys.readouterr()
    assert told.out == ""
    assert "answered 2 of 3 inputs: run/results.jsonl" in told.err
    assert "1 could not be answered: run/errors.jsonl" in told.err


def test_requests_with_tasks_of_their_own(pictures, command, capsys):
    lines = [
        {"image": "a.png", "id": "first", "question": "how many?"},
        {"image": "b.jpg", "task": "detect", "objects": ["cat"]},
        {"image": "b.jpg"},
        {"image": "b.jpg", "taks": "ocr"},
    ]
    Path("todo.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["batch", "todo.jsonl", "--task", "caption", "--lang", "de", "--json", *command]) == 9
    assert [(row["id"], row["answer"]["prompt"]) for row in results()] == [
        ("first", "answer de how many?"), ("b.jpg", "detect cat"), ("b.jpg", "caption de"),
    ]  # fmt: skip
    (failed,) = results("run/errors.jsonl")
    assert failed["error"]["message"] == "line 4 of todo.jsonl has the unknown key 'taks'; did you mean 'task'?"
    told = json.loads(capsys.readouterr().out)
    assert (told["inputs"], told["answered"], told["failed"], told["resumed_at"]) == (4, 3, 1, 0)


def test_a_second_start_needs_resume_and_resume_needs_the_same(pictures, command, capsys):
    ask = ["batch", "a.png", "--task", "ocr", *command]
    assert main(ask) == 0
    before = Path("run/results.jsonl").read_bytes()
    assert main(ask) == 2
    assert "run already holds a job; --resume goes on with it" in capsys.readouterr().err
    assert main([*ask, "--resume", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*ask, "--resume", "--temperature", "1"]) == 2
    assert "temperature unset and is to go on with 1.0" in capsys.readouterr().err
    assert Path("run/results.jsonl").read_bytes() == before


def test_no_usable_input_at_all(pictures, command, capsys):
    assert main(["batch", "bad.png", "--task", "ocr", *command]) == 4
    assert main(["batch", "nothing/", "--task", "ocr", "--out", "other"]) == 4
    assert "nothing/ cannot be read" in capsys.readouterr().err


def test_what_nobody_says_to_do_is_an_error_of_each_line(pictures, command):
    assert main(["batch", "a.png", *command]) == 4
    assert "does not say what to do" in results("run/errors.jsonl")[0]["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.png"], "--out"),
        (["a.png", "--out", "run", "--conf", "2"], "--conf 2.0 is out of range"),
        (["a.png", "--out", "run", "--batch-size", "0"], "--batch-size 0 is too small"),
        (["a.png", "--out", "run", "--workers", "3"], "give --cluster as well"),
        (["a.png", "--out", "run", "--cluster", "--workers", "0"], "--workers 0 is too small"),
        (["a.png", "--out", "a.png", "--task", "ocr"], "--out a.png is a file; give a folder"),
        (["a.png", "--out", "run", "--task", "orc"], "orc"),
        (["-", "--out", "run"], "a job cannot read stdin"),
    ],
)
def test_wrong_options(pictures, arguments, expected, capsys):
    assert main(["batch", *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("run").exists()


def test_options_of_the_verbs_that_are_not_defaults_are_kept():
    assert JobAnswerOptions().of_job() == {}
    assert JobAnswerOptions(temperature=0.5, seed=3).of_job() == {"temperature": 0.5, "seed": 3}
    assert JobAnswerOptions(stop_repeats=0).of_job() == {"stop_repeats": None}
    assert AskedOptions(objects="cat", lang="de").words() == {"objects": "cat", "language": "de"}


def test_stdin_is_refused():
    with pytest.raises(UsageError, match="cannot read stdin"):
        batch._paths([STDIN])


@pytest.mark.parametrize(("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (15, 143, "terminated")])
def test_a_stop_in_the_middle_leaves_a_job_that_goes_on(pictures, command, tiny, number, status, word):
    """The process is stopped when its first results are on the disk; the rest comes later, the bytes as without."""
    photos = Path("photos")
    photos.mkdir()
    for i in range(40):
        Image.new("RGB", (4, 4), (i * 5, 0, 0)).save(photos / f"{i:02}.png")
    ask = ["batch", "photos", "--task", "caption", *command]
    whole = [argument if argument != "run" else "whole" for argument in ask]
    assert main([*whole, "--quiet"]) == 0
    slow = "import sys; import paligemma.jobs.chunk as c; line = c.result_line; import time\n"
    slow += "c.result_line = lambda *a: time.sleep(0.05) or line(*a)\n"
    slow += "from paligemma.interfaces.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", slow, *ask], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 100
    while time.monotonic() < until and not (Path("run/job.commits").exists() and os.path.getsize("run/job.commits")):
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=100)
    assert process.returncode == status, told
    assert f"{word}; " in told
    assert "of 40 inputs are safe; run the same command with --resume to go on" in told
    assert main([*ask, "--resume", "--quiet"]) == 0
    assert Path("run/results.jsonl").read_bytes() == Path("whole/results.jsonl").read_bytes()


def test_progress_is_told_now_and_then_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(batch, "TELL_EVERY_S", 0)
    with Teller(shown=True) as teller:
        teller(Progress(done=10, failed=0, total=100, before=10, seconds=0.0))
        teller(Progress(done=20, failed=1, total=100, before=10, seconds=5.0))
        assert teller.safe() == "20 of 100 inputs are safe"
    told = capsys.readouterr().err.splitlines()
    assert told == ["going on behind 10 of 100 inputs", "20 of 100 inputs, 1 failed, 2.0/s, 40 s left"]


def test_a_bar_is_shown_on_a_terminal(open_terminal):
    written = open_terminal()
    with Teller(shown=True) as teller:
        teller(Progress(done=0, failed=0, total=4, before=0, seconds=0.0))
        time.sleep(0.2)
        teller(Progress(done=2, failed=0, total=4, before=0, seconds=1.0))
    assert "2/4" in written()


def test_a_stop_before_anything_was_begun():
    assert str(Stopped(signal.SIGTERM)) == "terminated; nothing was begun"
    assert Stopped(signal.SIGTERM).exit_status == 143
