"""The command line: one `App`, one handler that turns every error into a sentence and a documented exit code.

Arguments come in, an exit code goes out; see `docs/cli.md` for the codes. Commands import what is heavy only when they
run. Tokens are looked at here only for `-` (cyclopts would take it for an option) and `--traceback`.
"""

import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError

from paligemma import __version__
from paligemma.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_USAGE, PaliGemmaError, ResourceError
from paligemma.interfaces.cli import console, doctor, models, verbs
from paligemma.interfaces.cli.options import STDIN, Json

EPILOGUE = (
    "Exit codes: 0 done, 1 our own bug, 2 usage, 3 model or data not available, 4 no usable input, 5 broken model "
    "file, 6 out of memory or disk, 7 a check failed, 9 some images failed, 130 interrupted. "
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
app.command(models.list_models, name="list")
app.command(models.show)
app.command(models.pull)
app.command(models.convert)
app.command(doctor.doctor)


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
        return _report(error, as_json="--json" in tokens)


def _report(error: Exception, as_json: bool) -> int:
    """Tells one error in one sentence and names its exit code."""
    code, status, sentence = _describe(error)
    sentence = sentence.replace(STDIN, "-")
    console.error(sentence)
    if as_json:
        try:
            console.print_json({"error": {"code": code, "message": sentence}})
        except BrokenPipeError:
            _silence_stdout()
    return status


def _describe(error: Exception) -> tuple[str, int, str]:
    """(code, exit status, sentence) of any error."""
    if isinstance(error, PaliGemmaError):
        return error.code, error.exit_status, str(error)
    if isinstance(error, MissingArgumentError) and "IMAGES" in str(error):
        return (
            "usage",
            EXIT_USAGE,
            "no picture was given; name picture files behind the words of the command, or `-` to read paths",
        )
    if isinstance(error, CycloptsError):
        return "usage", EXIT_USAGE, f"{_one_line(error)} (`paligemma --help` shows what there is)"
    if _out_of_memory(error):
        sentence = "out of memory; use a smaller model or --dtype bfloat16, or free memory"
        return ResourceError.code, ResourceError.exit_status, sentence
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        disk = f"the disk of {error.filename}" if error.filename else "the disk"
        return ResourceError.code, ResourceError.exit_status, f"no space left on {disk}; free some and try again"
    where = "run again with --traceback to see where, and please report it"
    return "bug", EXIT_BUG, f"unexpected {type(error).__name__}: {_one_line(error)} ({where})"


def _out_of_memory(error: Exception) -> bool:
    """Memory of the machine or of the accelerator; torch tells the former as a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "can't allocate memory" in text)


def _one_line(error: Exception, limit: int = 300) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    console.warn(str(message))


def _silence_stdout() -> None:
    """Keeps the interpreter from complaining about the closed pipe when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError):  # stdout is no file where `main` is called in process
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
