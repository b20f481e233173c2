"""What a check of training data found: single findings, and figures of the whole. Plain values.

A finding names a row, a field, a stable code, why it is odd and what to do; its code says whether it is an error (the
row must not be trained on) or a warning. Who looks: `check`, `row_checks`, `look_alike`.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paligemma.results.files import writing

ERROR, WARNING = "error", "warning"
SEVERITIES = {
    "bad_row": ERROR,  # the line, its keys, or a picture that is not there
    "bad_picture": ERROR,
    "bad_text": ERROR,
    "empty_prefix": ERROR,
    "newline_in_prefix": ERROR,  # one too many at its end
    "bad_location": ERROR,  # <loc1024>, <loc12>
    "split_location": ERROR,  # spelled where it would be read as letters
    "bad_boxes": ERROR,
    "too_long": ERROR,
    "in_validation": ERROR,  # the same picture and prompt
    "unusual_prompt": WARNING,
    "outer_spaces": WARNING,
    "empty_suffix": WARNING,
    "unasked_label": WARNING,
    "repeated_box": WARNING,
    "duplicate": WARNING,
    "contradiction": WARNING,
    "look_alike": WARNING,
    "picture_in_validation": WARNING,
    "small_picture": WARNING,
    "narrow_picture": WARNING,
    "one_answer": WARNING,
    "alike_answers": WARNING,
    "rare_labels": WARNING,
}
LISTED = 50  # findings of one code that are kept; all are counted
_SHOWN = 5  # of one code in text
_BAR = 40


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong or odd.

    Attributes:
        row: id of the example; empty for what is true of the whole. index: its number in the source, -1 for the whole.
        field: image, prefix, suffix, row, or the key in question.
        code: one of `SEVERITIES`.
    """

    code: str
    field: str
    why: str
    fix: str
    row: str = ""
    index: int = -1

    @property
    def severity(self) -> str:
        return SEVERITIES[self.code]

    def __str__(self) -> str:
        return f"{self.row + ': ' if self.row else ''}{self.field}: {self.why}; {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        return {"severity": self.severity, **asdict(self)}


@dataclass(kw_only=True)
class Findings:
    """All that was found in a source.

    Attributes:
        rows: how many were looked at, of `total` (None: endless).
        listed: the first `LISTED` findings of each code; `counts` has how many there are.
        bad: number of each row with an error -> its first one; what is left out where bad rows are skipped.
        tokens: text tokens of a row (bos, prefix, newline, suffix, eos) -> rows. longest: the longest row's id.
        labels: objects of each label.
        answers: of each kind of task, the share of its commonest answer.
        alike: of each kind of task, the mean share of tokens that two answers have in common.
        sides_px: smallest and largest side of the pictures, median width and height.
    """

    source: str
    total: int | None
    max_tokens: int | None = None
    rows: int = 0
    listed: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    bad: dict[int, Finding] = field(default_factory=dict)
    tokens: Counter[int] = field(default_factory=Counter)
    longest: str = ""
    tasks: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    answers: dict[str, float] = field(default_factory=dict)
    alike: dict[str, float] = field(default_factory=dict)
    sides_px: tuple[int, int, int, int] | None = None

    def add(self, finding: Finding) -> None:
        """Counts a finding, and keeps it where there are not many of its code yet."""
        self.counts[finding.code] += 1
        if self.counts[finding.code] <= LISTED:
            self.listed.append(finding)
        if finding.severity == ERROR and finding.index >= 0:
            self.bad.setdefault(finding.index, finding)

    @property
    def errors(self) -> int:
        """How many findings are errors; rows may have several."""
        return self._of(ERROR)

    @property
    def warnings(self) -> int:
        return self._of(WARNING)

    def _of(self, severity: str) -> int:
        return sum(count for code, count in self.counts.items() if SEVERITIES[code] == severity)

    def write_rejects(self, file: "str | Path") -> Path:
        """One JSON object a line, `{"where", "why"}`, of every row that is left out where bad rows are skipped.

        Raises:
            ResourceError: it cannot be written.
        """
        with writing(file) as stream:
            for finding in self.bad.values():
                row = {"where": finding.row, "why": f"{finding.field}: {finding.why}; {finding.fix}"}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return Path(file)

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source, "rows": self.rows, "total": self.total, "bad_rows": len(self.bad),
            "errors": self.errors, "warnings": self.warnings, "counts": dict(self.counts),
            "findings": [finding.to_dict() for finding in self.listed],
            "tokens": {"max": self.max_tokens, "longest": max(self.tokens, default=0), "longest_row": self.longest,
                       "histogram": {str(length): self.tokens[length] for length in sorted(self.tokens)}},
            "tasks": dict(self.tasks), "labels": dict(self.labels.most_common()), "commonest_answer": self.answers,
            "alike_answers": self.alike,
            "sides_px": None if self.sides_px is None else dict(
                zip(("smallest", "largest", "median_width", "median_height"), self.sides_px, strict=True)
            ),
        }  # fmt: skip

    def to_text(self) -> str:
        """The findings by code, worst first, and the figures."""
        lines = [self._headline(), ""]
        for code in sorted(self.counts, key=lambda code: (SEVERITIES[code] != ERROR, -self.counts[code], code)):
            count = self.counts[code]
            lines.append(f"{SEVERITIES[code]} {code}: {count:,}")
            shown = [finding for finding in self.listed if finding.code == code][:_SHOWN]
            lines += [f"  {finding}" for finding in shown]
            lines += [f"  and {count - len(shown):,} more"] if count > len(shown) else []
        lines += [""] if self.counts else []
        return "\n".join([*lines, *self._figures()])

    def _headline(self) -> str:
        of = "" if self.total == self.rows else f" of {self.total:,}" if self.total else " of endlessly many"
        return (
            f"{self.source}: {self.rows:,} rows{of} looked at, {self.errors:,} errors in {len(self.bad):,} rows, "
            f"{self.warnings:,} warnings"
        )

    def _figures(self) -> list[str]:
        lines = ["tasks: " + _listed(self.tasks)] if self.tasks else []
        if self.labels:
            lines.append(f"{len(self.labels):,} labels: " + _listed(self.labels))
        for task in sorted(self.answers):
            alike = f", two answers share {self.alike[task]:.0%} of their tokens" if task in self.alike else ""
            lines.append(f"answers to {task}: the commonest is {self.answers[task]:.0%} of them{alike}")
        if self.sides_px:
            small, large, width, height = self.sides_px
            lines.append(f"pictures: sides from {small:,} to {large:,} px, in the middle {width:,} x {height:,}")
        return lines + _histogram(self.tokens, self.max_tokens)


def _listed(counts: Mapping[str, int], most: int = 8) -> str:
    common = Counter(counts).most_common(most)
    rest = len(counts) - len(common)
    return ", ".join(f"{name} {count:,}" for name, count in common) + (f", and {rest:,} more" if rest > 0 else "")


def _histogram(tokens: Mapping[int, int], limit: int | None, rows: int = 8) -> list[str]:
    """Lines of text tokens per row, as bars."""
    if not tokens:
        return []
    shortest, longest = min(tokens), max(tokens)
    step = -(-(longest - shortest + 1) // rows)
    starts = range(shortest, longest + 1, step)
    counts = [sum(tokens.get(start + i, 0) for i in range(step)) for start in starts]
    head = f"text tokens of a row, at most {longest:,}" + (f"; the limit is {limit:,}" if limit else "")
    lines = [head]
    for start, count in zip(starts, counts, strict=True):
        bar = "#" * -(-count * _BAR // max(counts)) if count else ""
        lines.append(f"  {start:>5} to {start + step - 1:>5}  {count:>8,}  {bar}".rstrip())
    return lines
