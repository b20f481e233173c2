import errno
import io
import json
import os
import subprocess
import sys
import warnings

import pytest

from paligemma import __version__
from paligemma.errors import (
    CheckFailed,
    CheckpointError,
    InputError,
    PaliGemmaError,
    ResourceError,
    UnavailableError,
    UsageError,
)
from paligemma.interfaces.cli import app as _app_module
from paligemma.interfaces.cli import main
from paligemma.interfaces.cli.options import STDIN


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


def _raising(monkeypatch, error):
    def run(tokens, **_):
        raise error

    monkeypatch.setattr(_app_module, "app", run)


def _paligemma(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "paligemma", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **more,
    )


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UsageError("a sentence"), 2, "usage"),
        (UnavailableError("a sentence"), 3, "unavailable"),
        (InputError("a sentence"), 4, "bad_input"),
        (CheckpointError("a sentence"), 5, "bad_checkpoint"),
        (ResourceError("a sentence"), 6, "resources"),
        (CheckFailed("a sentence"), 7, "check_failed"),
        (PaliGemmaError("a sentence"), 2, "error"),
        (MemoryError(), 6, "resources"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 6, "resources"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
            6,
            "resources",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 6, "resources"),
        (ValueError("two\nlines"), 1, "bug"),
        (AssertionError(), 1, "bug"),
        (OSError(errno.EIO, "Input/output error"), 1, "bug"),
    ],
)
def test_every_error_is_one_sentence_with_its_code(monkeypatch, capsys, error, status, code):
    _raising(monkeypatch, error)
    assert main(["show", "nano"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert main(["show", "nano", "--json"]) == status
    out, err = capsys.readouterr()
    told = json.loads(out)["error"]
    assert told["code"] == code
    assert err == f"error: {told['message']}\n"


@pytest.mark.parametrize("wanted", ["option", "environment"])
def test_a_traceback_is_shown_on_request_only(monkeypatch, capsys, wanted):
    _raising(monkeypatch, ValueError("hidden"))
    assert main(["show"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    if wanted == "environment":
        monkeypatch.setenv("PALIGEMMA_TRACEBACK", "1")
    assert main(["show", *(["--traceback"] if wanted == "option" else [])]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_130_and_a_closed_pipe_is_quiet(monkeypatch, capsys):
    _raising(monkeypatch, KeyboardInterrupt())
    assert main(["list"]) == 130
    _raising(monkeypatch, BrokenPipeError())
    assert main(["list"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_behind_stdout_is_told_once(monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["version", "--json"]) == 6
    assert capsys.readouterr().err == "error: no space left on the disk; free some and try again\n"


def test_json_is_wanted_in_every_spelling(monkeypatch, capsys):
    _raising(monkeypatch, UsageError("a sentence"))
    for spelling in (["--json"], ["--jsonl"], ["--format", "json"], ["--format=jsonl"]):
        assert main(["caption", "a.png", *spelling]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"
    assert main(["caption", "json", "--format", "csv"]) == 2
    assert capsys.readouterr().out == ""


def test_warnings_go_to_stderr_in_one_line(monkeypatch, capsys):
    def run(tokens, **_):
        warnings.warn("something odd", UserWarning, stacklevel=1)
        return 9

    monkeypatch.setattr(_app_module, "app", run)
    assert main([]) == 9
    assert capsys.readouterr() == ("", "warning: something odd\n")


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["capton", "a.jpg"], "caption"),
        (["caption", "a.jpg", "--max-token", "3"], "--max-tokens"),
        (["detect", "cat", "a.jpg", "--jsn"], "--json"),
        (["caption", "a.jpg", "--dtype", "float31"], "float32"),
        (["caption", "a.jpg", "--max-tokens", "many"], "int"),
        (["caption"], "picture files"),
        (["ask", "why?"], "picture files"),
        (["list", "nothing-like-this"], "paligemma list"),
        (["detect", " ; ", "a.jpg"], "cat"),
        (["ask", " ", "a.jpg"], "question"),
        (["caption", "a.jpg", "--lang", "xx"], "de"),
        (["caption", "a.jpg", "--save", "out.xyz"], ".png"),
        (["caption", "-", "-"], "once"),
        (["caption", "a.jpg", "--max-tokens", "0"], "--max-tokens"),
    ],
)
def test_wrong_usage_is_2_and_says_what_to_give(capsys, arguments, suggestion):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert suggestion in err
    assert STDIN not in err
    assert err.startswith("error: ")


def test_the_version_in_three_ways(capsys):
    for arguments in (["--version"], ["version"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"paligemma {__version__}\n"
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


def test_help_of_every_command_is_there(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    verbs = [
        "ask",
        "caption",
        "convert",
        "detect",
        "doctor",
        "generate",
        "list",
        "ocr",
        "pull",
        "quantize",
        "score",
        "segment",
        "show",
        "version",
    ]
    for verb in verbs:
        assert f" {verb} " in shown
        assert main([verb, "--help"]) == 0
        assert f"paligemma {verb}" in capsys.readouterr().out


def test_help_needs_neither_torch_nor_numpy():
    code = (
        "import sys; from paligemma.interfaces.cli import main; main(['--help']); main(['detect', '--help']);"
        "heavy = {'torch', 'numpy', 'PIL', 'tokenizers', 'safetensors', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_process_exits_with_the_code_and_no_traceback():
    done = _paligemma("caption", "no-such.jpg", "--bogus")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error():
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "paligemma", "version"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60,
            check=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_that_are_no_utf8_never_end_the_command():
    done = _paligemma(b"caption", b"/no/such/\xff\xe9.jpg", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


def test_output_of_any_encoding_is_printed(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    def run(tokens, **_):
        print("狗")

    monkeypatch.setattr(_app_module, "app", run)
    assert main([]) == 0
    assert raw.getvalue() == b"\\u72d7\n"
