"""Files of results: written whole or not at all, under names taken from the pictures they are about."""

import os
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

from paligemma.errors import ResourceError

if TYPE_CHECKING:
    from paligemma.results.answer import Answer

_NOT_IN_NAMES = set('<>:"/\\|?*')


@contextmanager
def writing(path: str | Path, *, newline: str | None = "\n") -> Iterator[IO[str]]:
    """A text file in UTF-8 that takes its place at the end; after an error the old one is still there.

    Pipes and devices are written to as they are.

    Raises:
        ResourceError: it cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays one
    if path.exists() and not path.is_file():  # a pipe or device, such as /dev/null, is written to and never replaced
        with told(path), open(path, "w", encoding="utf-8", newline=newline) as file:
            yield file
        return
    with told(path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8", newline=newline) as file:
                yield file
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns what the system says about writing into one sentence.

    Raises:
        ResourceError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"cannot write {path} ({reason}); choose a folder with space and permission") from error


def folder(path: str | Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        ResourceError: it cannot be made.
    """
    path = Path(path)
    with told(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def picture_path(found: "Answer", number: int = 1) -> str:
    """Where the first picture came from, or a made-up name with its number where it came from no file."""
    path = found.paths[0] if found.paths else None
    return path if path else f"image-{number:06d}.png"


def stem(found: "Answer", number: int = 1) -> str:
    """The picture's file name without folder and suffix."""
    return PurePath(picture_path(found, number)).stem


def as_name(text: str) -> str:
    """A label as part of a file name on any system: at most 60 characters, none with a meaning to a file system."""
    kept = "".join(
        "_" if c in _NOT_IN_NAMES or c.isspace() or unicodedata.category(c)[0] == "C" else c for c in text.strip()
    )
    return kept.strip(". ")[:60] or "object"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
