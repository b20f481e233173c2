"""The command line: one `App`, one handler that turns every error into a sentence and a documented exit code.

Arguments come in, an exit code goes out; see `docs/cli.md` for the codes. Commands import what is heavy only when they
run. Tokens are looked at here only for `-` (cyclopts would take it for an option) and `--traceback`.
"""

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cyclopts import App

from paligemma import __version__
from paligemma.errors import EXIT_INTERRUPTED
from paligemma.interfaces.cli import (
    batch,
    calibrate,
    console,
    data,
    data_check,
    doctor,
    evaluate,
    merge,
    models,
    plan,
    quantize,
    scoring,
    train,
    ui,
    verbs,
)
from paligemma.interfaces.cli.options import STDIN, Json
from paligemma.interfaces.cli.report import describe

EPILOGUE = (
    "Exit codes: 0 done, 1 our own bug, 2 usage, 3 model or data not available, 4 no usable input, 5 broken model "
    "file, 6 out of memory or disk, 7 a check failed, 8 training diverged, 9 some images failed, 130 interrupted. "
    "--traceback (or PALIGEMMA_TRACEBACK=1) shows where an error came from."
)

app = App(
    name="paligemma",
    help="Ask pictures: captions, answers, text, boxes and masks with PaliGemma. Works offline with the bundled model.",
    help_epilogue=EPILOGUE,
    version=f"paligemma {__version__}",
    suppress_keyboard_interrupt=False,
    exit_on_error=False,
    print_error=False,
)
for _command in (verbs.caption, verbs.ask, verbs.ocr, verbs.detect, verbs.segment, verbs.generate):
    app.command(_command)
app.command(scoring.score)
app.command(batch.batch)
app.command(models.list_models, name="list")
app.command(models.show)
app.command(models.pull)
app.command(models.convert)
app.command(quantize.quantize)
app.command(merge.merge)
app.command(train.train)
app.command(plan.plan)
app.command(evaluate.evaluate)
app.command(calibrate.calibrate)
app.command(data.app)
data.app.command(data_check.check)
data.app.command(data_check.show)
data.app.command(data_check.shards)
app.command(doctor.doctor)
app.command(ui.ui)


@app.command
def version(*, json: Json = False) -> None:
    """Print the version.

    Args:
        json: one JSON object on stdout.
    """
    if json:
        console.print_json({"version": __version__})
    else:
        console.say(f"paligemma {__version__}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; `argv` is without the program's name and defaults to the process's arguments.

    Returns:
        the exit code; errors have been told on stderr, and with `--json` as an object on stdout too.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in tokens or os.environ.get("PALIGEMMA_TRACEBACK", "") not in ("", "0")
    tokens = [STDIN if token == "-" else token for token in tokens if token != "--traceback"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name or an answer must never end the command
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = app(tokens, result_action="return_value") or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough
        _silence_stdout()
        return 0
    except KeyboardInterrupt:
        console.note("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        return _report(error, as_json=_wants_json(tokens))


def _wants_json(tokens: Sequence[str]) -> bool:
    """Whether an error has to be an object on stdout as well; looked up in the words, for they may be what is wrong."""
    formats = [after for word, after in pairwise(tokens) if word == "--format"]
    formats += [word.removeprefix("--format=") for word in tokens if word.startswith("--format=")]
    return not {"--json", "--jsonl"}.isdisjoint(tokens) or not {"json", "jsonl"}.isdisjoint(formats)


def _report(error: Exception, as_json: bool) -> int:
    """Tells one error in one sentence and names its exit code."""
    code, status, sentence = describe(error)
    console.error(sentence)
    if as_json:
        try:
            console.print_json({"error": {"code": code, "message": sentence}})
        except OSError:  # the reader has left, or its disk is full
            _silence_stdout()
    return status


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    console.warn(str(message))


def _silence_stdout() -> None:
    """Keeps the interpreter from complaining about the closed pipe when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):  # stdout is no file where `main` is called in process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
