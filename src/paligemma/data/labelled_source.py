"""Tables of captions and labelled data (COCO, YOLO, VOC, ...) -> examples by number, held in memory.

What the formats read is made into rows as `paligemma data import` makes them. Rows that cannot be used stay rows: they
raise when they are asked for, so that nothing goes missing unseen and `check` finds them. Not done here: the formats.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from paligemma.data import formats
from paligemma.data.convert import Rules, to_rows
from paligemma.data.example import Example
from paligemma.data.formats.reading import SPLITS, Entry, Problem
from paligemma.data.listed import BadRow
from paligemma.errors import InputError, UsageError

if TYPE_CHECKING:
    from paligemma.model.mask_codec import MaskCodec


class HeldSource:
    """Examples in memory, and behind them what could not be read."""

    def __init__(self, examples: list[Example], problems: list[Problem], *, name: str):
        self.name = name
        self._examples, self._problems = examples, problems
        digest = hashlib.sha256()
        for example in examples:
            digest.update(repr((example.id, example.prefix, example.suffix, [str(p) for p in example.images])).encode())
        for problem in problems:
            digest.update(str(problem).encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._examples) + len(self._problems)

    def __getitem__(self, index: int) -> Example:
        """
        Raises:
            BadRow: one of the rows that could not be read.
        """
        if index < len(self._examples):
            return self._examples[index]
        problem = self._problems[index - len(self._examples)]
        raise BadRow(problem.where, "row", problem.why)


def open_labelled(
    path: Path, *, split: str = "train", name: str, prefix: str | None = None, rules: Rules | None = None,
    codec: "MaskCodec | None" = None,
) -> HeldSource:  # fmt: skip
    """A captions table, or labelled data in any of `formats.FORMATS`, as rows.

    Args:
        split: where a folder has several; a file, or a folder without splits, is taken whole.
        prefix: prompt of rows that have none.
        rules: how labelled pictures become rows.
        codec: spells masks.

    Raises:
        InputError: nothing there, no known format, no such split, or nothing to be learnt from it.
        UsageError: masks are wanted, but there is no codec.
    """
    rules = rules or Rules()
    if rules.task == "segment" and codec is None:
        raise UsageError(f"{path} is to be segmented, but the model has no mask codec; ask with task=detect")
    entries, reading = formats.read(path, prefix=prefix)
    entries = _of_split(entries, path, SPLITS.get(split, split))
    rows = to_rows(entries, reading, rules, codec).entries
    examples = [replace(row.item, source=name) for row in rows if isinstance(row.item, Example)]
    if not examples and not reading.problems:
        raise InputError(f"{path} has pictures, but no object in any of them; label some")
    return HeldSource(examples, list(reading.problems), name=name)


def _of_split(entries: list[Entry], path: Path, split: str) -> list[Entry]:
    found = sorted({entry.split for entry in entries if entry.split})
    if path.is_file() or not found or (len(found) == 1 and split == "train"):
        return entries
    if split not in found:
        raise InputError(f"there is no split {split!r} in {path}, found {', '.join(found)}; name one of them")
    return [entry for entry in entries if entry.split in ("", split)]
