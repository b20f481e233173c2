"""What reaches the terminal: answers and JSON on stdout, everything said about them on stderr.

Model text is printed as it is into files and pipes; on a terminal its control characters are taken out first, because
a picture may hold text that would otherwise steer the terminal.
"""

import json
import math
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

# characters that turn the direction of what follows: a way to make text read differently from what it is
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    """`text` without control characters; newlines and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or not (unicodedata.category(c) == "Cc" or c in _BIDI))


def say(text: str, end: str = "\n") -> None:
    """Prints an answer on stdout."""
    sys.stdout.write((clean(text) if sys.stdout.isatty() else text) + end)
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Prints the one JSON object of a command on stdout; numbers that are not finite become null."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(_finite(value), ensure_ascii=not utf8, allow_nan=False, indent=2) + "\n")
    sys.stdout.flush()


def note(text: str, label: str = "", colour: str = "") -> None:
    """Prints a line on stderr, its label in colour on a terminal that wants colours."""
    if label:
        label = f"\x1b[{colour}m{label}:\x1b[0m " if colour and colours(sys.stderr) else f"{label}: "
    print(label + clean(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    note(text, "warning", "33")


def error(text: str) -> None:
    note(text, "error", "1;31")


def colours(stream: TextIO) -> bool:
    """Whether `stream` is a terminal whose user has not refused colours (`NO_COLOR`, `TERM=dumb`)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


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
