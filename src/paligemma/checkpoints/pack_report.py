"""What was packed, and how far each matrix is off: by matrix, worst first, and by kind of matrix for a terminal.

In: a row for each packed matrix. Out: text, or numbers for JSON. Not done here: packing.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from paligemma.checkpoints.parts import part_of
from paligemma.checkpoints.tensors import Shape

_LAYER = re.compile(r"\.layers\.\d+\.")


@dataclass(frozen=True)
class Packed:
    """One packed matrix.

    Attributes:
        bytes: of codes and scales.
        error: |W - decoded| / |W|; None where codes of a file that does not tell it were taken over.
    """

    name: str
    method: str
    shape: Shape
    bytes: int
    error: float | None

    @property
    def kind(self) -> str:
        """The name without the number of the layer."""
        return _LAYER.sub(".layers.*.", self.name)


@dataclass(frozen=True)
class PackReport:
    """What was packed, in the order of the file."""

    rows: tuple[Packed, ...]

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    @property
    def worst_first(self) -> list[Packed]:
        """The rows by falling error; those without one last."""
        return sorted(self.rows, key=lambda row: -1.0 if row.error is None else row.error, reverse=True)

    def __str__(self) -> str:
        known = [row.error for row in self.rows if row.error is not None]
        worst = f"; the least exact is {max(known):.1%} off" if known else ""
        return f"{len(self.rows)} matrices take {self.bytes / 1e9:.3g} GB in fewer bits{worst}"

    def to_text(self) -> str:
        """A line for each matrix, worst first: name, shape, method, error."""
        return _aligned([[row.name, _sides(row.shape), row.method, _share(row.error)] for row in self.worst_first])

    def to_kinds(self) -> list[list[str]]:
        """A line for each kind of matrix, worst first: kind, shape, method, how many, bits a number, error on average,
        largest error, and whose that is."""
        by_kind: dict[str, list[Packed]] = defaultdict(list)
        for row in self.worst_first:
            by_kind[row.kind].append(row)
        lines = []
        for kind, rows in by_kind.items():
            numbers = sum(row.shape[0] * row.shape[1] for row in rows)
            known = [row.error for row in rows if row.error is not None]
            mean = sum(known) / len(known) if known else None
            lines.append([
                kind, _sides(rows[0].shape), rows[0].method, str(len(rows)),
                f"{8 * sum(row.bytes for row in rows) / numbers:.3g}", _share(mean), _share(rows[0].error),
                rows[0].name if len(rows) > 1 else "",
            ])  # fmt: skip
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; `matrices` worst first."""
        return {
            "bytes": self.bytes,
            "matrices": [
                {
                    "name": row.name, "part": part_of(row.name), "shape": list(row.shape), "method": row.method,
                    "bytes": row.bytes, "error": row.error,
                }
                for row in self.worst_first
            ],
        }  # fmt: skip


def _sides(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _share(error: float | None) -> str:
    return "-" if error is None else f"{error:.4f}"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
