"""Rows people write themselves, `{image, prefix, suffix}` in JSONL of any size, -> examples by number.

    {"image": "a.jpg", "prefix": "caption en", "suffix": "a cat on a mat"}

`image` is one file or a list, as is `images`, or `file_name` as in image folders; files lie below the list's folder, or
in `images/` there. Rows are only read when they are asked for; whatever is wrong with one is told then, with its line.
Not done here: opening pictures; what the texts mean (`check`); tables and labelled data (`labelled_source`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paligemma.config import did_you_mean
from paligemma.data.example import Example
from paligemma.data.formats.reading import Reading
from paligemma.data.rows import JsonLines
from paligemma.errors import InputError

KEYS = ("image", "images", "prefix", "suffix", "id")
_SPELLINGS = {"file_name": "image", "text": "suffix"}  # of the metadata of image folders


class BadRow(InputError):
    """A row that cannot be used, and which of its fields is to blame."""

    def __init__(self, where: str, field: str, why: str):
        super().__init__(where, field, why)  # an error crosses between processes by its arguments
        self.where, self.field, self.why = where, field, why

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


class ListedSource:
    """The rows of one JSONL file; see the module.

    Args:
        prefix: prompt of rows that have none.
    """

    def __init__(self, file: Path, *, name: str, prefix: str | None = None):
        self._rows = JsonLines(file)
        self._reading = Reading(file.parent)
        self._folders = (file.parent, file.parent / "images")
        self.name, self._prefix = name, prefix
        self.fingerprint = self._rows.fingerprint

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """
        Raises:
            BadRow: the line cannot be read, has an unknown or missing key, or names a picture that is not there.
        """
        where = self._rows.where(index)
        field = "row"
        try:
            fields = _fields(self._rows[index])
            field = "image"
            images = tuple(self._reading.picture(name, *self._folders) for name in _names(fields))
            field = "prefix"
            prefix = _text(fields.get("prefix", self._prefix), field)
            field = "suffix"
            suffix = _text(fields.get("suffix"), field)
        except BadRow as error:
            raise BadRow(where, error.field, error.why) from None
        except InputError as error:
            raise BadRow(where, field, str(error)) from error
        return Example(id=where, images=images, prefix=prefix, suffix=suffix, source=self.name)


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under the usual names of its keys."""
    fields: dict[str, Any] = {}
    for key, value in row.items():
        usual = key if key in KEYS else _SPELLINGS.get(key, key)
        if usual not in KEYS:
            raise BadRow("", key, f"unknown key {key!r}{did_you_mean(key, list(KEYS))}")
        if usual in fields:
            raise BadRow("", key, f"found {key!r} beside another key of the same meaning; remove one")
        fields[usual] = value
    return fields


def _names(fields: Mapping[str, Any]) -> Sequence[Any]:
    given = [fields[key] for key in ("image", "images") if key in fields]
    if len(given) != 1:
        found = "neither image nor images" if not given else "both image and images"
        raise BadRow("", "image", f"found {found}, expected one of them; name the picture's file")
    names = given[0] if isinstance(given[0], list) else given
    if not names:
        raise BadRow("", "image", "found an empty list of images, expected at least one; name the picture's file")
    return names


def _text(value: Any, field: str) -> str:
    if value is None:
        fix = "give prefix= for all rows, or add it" if field == "prefix" else "add it"
        raise BadRow("", field, f"there is no {field}, expected a text; {fix}")
    if not isinstance(value, str):
        raise BadRow("", field, f"found {str(value)[:60]!r} as {field}, expected a text; put it in quotes")
    return value
