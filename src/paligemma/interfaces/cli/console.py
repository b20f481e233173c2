"""What reaches the terminal: answers and JSON on stdout, everything said about them on stderr.

Model text is printed as it is into files and pipes; on a terminal its control characters are taken out first, because
a picture may hold text that would otherwise steer the terminal.
"""

import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from paligemma.interfaces.cli.progress import Bar

bar: "Bar | None" = None  # the one on the screen, which makes room for whatever is printed
_quiet = False

# characters that turn the direction of what follows: a way to make text read differently from what it is
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    """`text` without control characters; newlines and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or not (unicodedata.category(c) == "Cc" or c in _BIDI))


def cleaned(text: str, stream: TextIO) -> str:
    """`text` as `stream` may show it: a terminal must not be steered by it, a file gets it as it is."""
    return clean(text) if stream.isatty() else text


def say(text: str, end: str = "\n") -> None:
    """Prints an answer on stdout."""
    write(sys.stdout, text + end)


def write(stream: TextIO, text: str, clean_first: bool = True) -> None:
    """Writes to any stream at once; the bar steps aside where it is a terminal.

    Args:
        clean_first: False for text that is clean already and may hold colours.
    """
    with _aside(stream):
        stream.write(cleaned(text, stream) if clean_first else text)
        stream.flush()


@contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Leaves out notes and warnings meanwhile; errors are still told."""
    global _quiet
    before, _quiet = _quiet, wanted or _quiet
    try:
        yield
    finally:
        _quiet = before


@contextmanager
def _aside(stream: TextIO) -> Iterator[None]:
    if bar is None or not stream.isatty():
        yield
    else:
        with bar.aside():
            yield


def print_json(value: Any) -> None:
    """Prints the one JSON object of a command on stdout; numbers that are not finite become null."""
    write_json(sys.stdout, value)


def write_json(stream: TextIO, value: Any) -> None:
    """Writes one JSON object, indented, and a newline."""
    stream.write(json_text(stream, value) + "\n")
    stream.flush()


def json_text(stream: TextIO, value: Any, indent: int | None = 2) -> str:
    """JSON text in the characters that `stream` can take; numbers that are not finite become null."""
    utf8 = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
    return json.dumps(_finite(value), ensure_ascii=not utf8, allow_nan=False, indent=indent)


def note(text: str, label: str = "", colour: str = "") -> None:
    """Prints a line on stderr, its label in colour on a terminal that wants colours; nothing while quiet."""
    if not _quiet:
        _tell(text, label, colour)


def warn(text: str) -> None:
    note(text, "warning", "33")


def error(text: str) -> None:
    _tell(text, "error", "1;31")


def _tell(text: str, label: str, colour: str) -> None:
    label = f"{paint(f'{label}:', colour, sys.stderr)} " if label else ""
    with _aside(sys.stderr):
        print(label + clean(text), file=sys.stderr, flush=True)


def paint(text: str, colour: str, stream: TextIO) -> str:
    """`text` in a colour (of ANSI's numbers, such as "1;31"), where `stream` wants colours."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and colours(stream) else text


def colours(stream: TextIO) -> bool:
    """Whether to colour: on terminals, unless refused (`NO_COLOR`, `TERM=dumb`), or everywhere by `FORCE_COLOR`."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Aligned columns, two spaces apart; the columns numbered in `right` are flush right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(_width(line[i]) for line in lines) for i in range(len(header))]
    out = []
    for line in lines:
        cells = []
        for i, cell in enumerate(line):
            space = " " * (widths[i] - _width(cell))
            cells.append(space + cell if i in right else cell + space)
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def _width(text: str) -> int:
    """Columns `text` takes on a terminal; East Asian wide characters take two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in clean(text)
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
