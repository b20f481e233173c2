"""One row per compared array: the largest difference beside its tolerance.

Arrays of ours and of a reference come in, `Row`s go out. Nothing here raises on a difference: a broken tolerance is a
row that is not `ok`, and the interface decides what to do with it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """The comparison of one array: `difference` is the largest one found, or a count of unequal places."""

    name: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """False as well where the difference is no number."""
        return self.difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Plain values; a difference that is not finite becomes None."""
        difference = float(self.difference) if math.isfinite(self.difference) else None
        row = {"name": self.name, "difference": difference, "tolerance": float(self.tolerance), "ok": self.ok}
        return {**row, "note": self.note} if self.note else row


@dataclass(frozen=True)
class Report:
    """All rows of one golden directory."""

    layout: str
    path: str
    rows: tuple[Row, ...]

    @property
    def broken(self) -> list[Row]:
        return [row for row in self.rows if not row.ok]

    @property
    def ok(self) -> bool:
        """An empty report has proven nothing, so it is not ok."""
        return bool(self.rows) and not self.broken

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {"layout": self.layout, "path": self.path, "ok": self.ok, "arrays": len(rows), "rows": rows}

    def to_text(self) -> str:
        """A table: verdict, array, largest difference, tolerance, note."""
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [f"{self.path} ({self.layout})"]
        for row in self.rows:
            verdict = "ok  " if row.ok else "FAIL"
            line = f"  {verdict} {row.name:<{width}}  {row.difference:10.3g}  of {row.tolerance:8.3g}  {row.note}"
            lines.append(line.rstrip())
        good = len(self.rows) - len(self.broken)
        lines.append(f"  {good} of {len(self.rows)} arrays within tolerance")
        return "\n".join(lines)


def compare(name: str, ours: Any, expected: Any, tolerance: float, *, where: Any = None, relative: bool = False) -> Row:
    """The largest absolute difference of two number arrays of the same shape.

    Args:
        ours: array or tensor on the CPU; so is `expected`.
        where: bool array, broadcast from the left; only places that are True count (padding is arbitrary).
        relative: differences are divided by the size of the expected value.
    """
    got, want = np.asarray(ours, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if got.shape != want.shape:
        return Row(name, math.inf, tolerance, f"shape {list(got.shape)}, expected {list(want.shape)}")
    with np.errstate(invalid="ignore", divide="ignore"):
        # the same infinity or the same lack of a number on both sides is agreement
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        difference = np.where(same, 0.0, np.abs(got - want))
        if relative:
            difference = np.where(same, 0.0, difference / np.abs(want))
    if where is not None:
        difference = difference[np.asarray(where, dtype=bool)]
    if difference.size == 0:
        return Row(name, 0.0, tolerance, "nothing to compare")
    return Row(name, float(difference.max()), tolerance)  # max() hands a nan on


GRADIENT_TOLERANCE = 2e-3
NOISE_FLOOR = 1e-4


def norm_row(name: str, ours: float, expected: float, largest: float) -> Row:
    """The relative difference of two gradient norms.

    Norms below `NOISE_FLOOR` of the largest one are taken relative to that floor: the gradient of a key bias, say, is
    zero in exact arithmetic (softmax ignores a common shift), and what is left is rounding.
    """
    return Row(name, abs(ours - expected) / max(abs(expected), NOISE_FLOOR * largest), GRADIENT_TOLERANCE)


def equal(name: str, ours: Any, expected: Any, *, where: Any = None, note: str = "") -> Row:
    """The number of places at which two arrays of ids, counts or truth values differ; none may."""
    got, want = np.asarray(ours), np.asarray(expected)
    if got.shape != want.shape:
        return Row(name, math.inf, 0.0, f"shape {list(got.shape)}, expected {list(want.shape)}")
    unequal = got != want
    if where is not None:
        unequal = unequal[np.asarray(where, dtype=bool)]
    return Row(name, float(unequal.sum()), 0.0, note)


def failed(name: str, reason: str) -> Row:
    """A row for something that could not be compared at all."""
    return Row(name, math.inf, 0.0, reason)


def all_ok(reports: Iterable[Report]) -> bool:
    return all(report.ok for report in reports)
