"""The one exception users meet: a sentence they can act on, with a stable code and the exit status it means.

Every `PaliGemmaError` says what was found, what was expected and what to do. Anything else that escapes is our bug.
"""

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_NO_INPUT = 4
EXIT_BAD_MODEL = 5
EXIT_RESOURCES = 6
EXIT_CHECK_FAILED = 7
EXIT_DIVERGED = 8
EXIT_PARTIAL = 9
EXIT_INTERRUPTED = 130


class PaliGemmaError(Exception):
    """Show this sentence to the user; `code` is stable and machine-readable, `exit_status` is the process's."""

    code = "error"
    exit_status = EXIT_USAGE


class UsageError(PaliGemmaError, ValueError):
    """A wrong option, name or combination of arguments."""

    code = "usage"


class UnavailableError(PaliGemmaError):
    """A model or data set that is not on this machine (missing, gated, offline)."""

    code = "unavailable"
    exit_status = EXIT_UNAVAILABLE


class InputError(PaliGemmaError, ValueError):
    """An image, prompt or data file that cannot be used."""

    code = "bad_input"
    exit_status = EXIT_NO_INPUT


class CheckpointError(PaliGemmaError):
    """A model file that is broken, or does not fit the architecture it is loaded into."""

    code = "bad_checkpoint"
    exit_status = EXIT_BAD_MODEL


class ResourceError(PaliGemmaError):
    """Out of memory or disk."""

    code = "resources"
    exit_status = EXIT_RESOURCES


class CheckFailed(PaliGemmaError):
    """A self-test, parity or quality threshold that was not met."""

    code = "check_failed"
    exit_status = EXIT_CHECK_FAILED


class DivergedError(PaliGemmaError):
    """A training run whose loss or gradient is no number any more; the last good checkpoint set is kept."""

    code = "diverged"
    exit_status = EXIT_DIVERGED
