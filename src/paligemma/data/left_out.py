"""A source without its bad rows: the same examples by number, closed up where rows are missing.

In: a source and the numbers of the rows that `check` found bad. Out: a source. Only their numbers are held.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable

from paligemma.data.example import ENDLESS, Example, Source
from paligemma.errors import InputError, UsageError


class LeftOut:
    """`source` without the rows `bad`.

    Raises:
        InputError: no row is left. UsageError: the source is endless.
    """

    def __init__(self, source: Source, bad: Iterable[int]):
        rows = sorted(set(bad))
        if len(source) >= ENDLESS:
            raise UsageError(f"no rows can be left out of {source.name}, which is endless; draw others")
        if len(rows) >= len(source):
            raise InputError(f"none of the {len(source)} rows of {source.name} can be used; mend them")
        self.name = source.name
        self.fingerprint = hashlib.sha256(f"{source.fingerprint} without {rows}".encode()).hexdigest()
        self._source = source
        self._kept_before = [row - i for i, row in enumerate(rows)]  # good rows before each bad one
        self._size = len(source) - len(rows)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:
        assert 0 <= index < self._size, f"{index} of {self._size}"
        return self._source[index + bisect_right(self._kept_before, index)]
