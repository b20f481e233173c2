"""Any error -> its code, its exit status and one sentence; who shows them is said elsewhere (`app`, `answering`)."""

import errno

from cyclopts import CycloptsError, MissingArgumentError

from paligemma.errors import EXIT_BUG, EXIT_USAGE, PaliGemmaError, ResourceError
from paligemma.interfaces.cli.options import STDIN


def describe(error: Exception) -> tuple[str, int, str]:
    """(code, exit status, sentence) of any error."""
    code, status, sentence = _described(error)
    return code, status, sentence.replace(STDIN, "-")


def _described(error: Exception) -> tuple[str, int, str]:
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
        sentence = "out of memory; use a smaller model, --dtype bfloat16 or a smaller --batch-size, or free memory"
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
