"""What all tasks share: prompts, readings, languages, and the location alphabet in both directions.

A coordinate is a fraction 0..1 of the squashed square, hence of the picture's own height or width. Encoding is
`clip(round(c * 1023), 0, 1023)` in float32, half to even; decoding divides the bin by 1023 (the reference's training
and evaluation code) or by 1024 (Hugging Face's documentation and demo). The two differ by at most 1/1024 of the side,
so the divisor is an argument everywhere and never guessed. Order is y, x, y, x. Source: big_vision
`pp/proj/paligemma/segmentation.py`, `evaluators/proj/paligemma/transfers/segmentation.py`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS
from paligemma.errors import InputError, UsageError
from paligemma.results import Box, Corners, Notice

Divisor = Literal[1023, 1024]
REFERENCE: Divisor = 1023
HUGGING_FACE: Divisor = 1024

# COCO-35L's 35 training languages, and quz, which Crossmodal-3600 adds.
LANGUAGES = (
    "ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr", "he", "hi", "hr", "hu", "id", "it",
    "ja", "ko", "mi", "nl", "no", "pl", "pt", "quz", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip

SEPARATOR = " ; "
MASK_TOKENS = 16
LOC_PATTERN = r"<loc(?:0[0-9]{3}|10[01][0-9]|102[0-3])>"
SEG_PATTERN = r"<seg(?:0[0-9]{2}|1[01][0-9]|12[0-7])>"
LOCATION = re.compile(f"{LOC_PATTERN}|{SEG_PATTERN}")
_ANY_TOKEN = re.compile(rf"(?:{LOC_PATTERN}|{SEG_PATTERN})\s*")


@dataclass(frozen=True)
class Prompt:
    """What to send, without control tokens and without the final newline.

    Args:
        task: the verb it was made by, which tells how the answer is read.
        allow: kinds of special tokens that may be read as such in `text`; empty where a user's words are in it.
        label: for objects that the answer leaves without a name (RefCOCO checkpoints).
        max_tokens: how long an answer may get unless told otherwise; None takes the task's own limit.
    """

    text: str
    task: str = "generate"
    allow: frozenset[str] = frozenset()
    label: str = ""
    max_tokens: int | None = None

    def __str__(self) -> str:
        return self.text


class Span(NamedTuple):
    """Where a box stands in the raw text, in characters: its first location token, and behind its label."""

    start: int
    end: int
    num_masks: int = 0  # mask tokens, which follow the four of its place


@dataclass(frozen=True)
class Reading:
    """What an answer says: text for people, boxes where the task has them, and what could not be read.

    `spans` says of each box which characters of the raw text it was read from.
    """

    text: str
    boxes: tuple[Box, ...] | None = None
    warnings: tuple[Notice, ...] = field(default=())
    spans: tuple[Span, ...] = field(default=())


def check_language(language: str) -> str:
    """The language code in lower case.

    Raises:
        UsageError: not one of `LANGUAGES`.
    """
    code = language.strip().lower()
    if code not in LANGUAGES:
        raise UsageError(
            f"unknown language {language!r}; the models know {' '.join(LANGUAGES)} "
            "(`generate` sends any other prompt as it is)"
        )
    return code


def split_objects(objects: str | Sequence[str]) -> list[str]:
    """Names of things, from a list or from one string with `;` between them, stripped, in order.

    Raises:
        UsageError: no name at all.
    """
    given = [objects] if isinstance(objects, str) else list(objects)
    names = [" ".join(name.split()) for entry in given for name in entry.split(";")]
    names = [name for name in names if name]
    if not names:
        raise UsageError("no object to look for; give a name such as 'cat', or several: 'cat; dog'")
    return names


# --- coordinates <-> bins <-> text -----------------------------------------------------------------------------------


def encode_coordinate(value: float, divisor: Divisor = REFERENCE) -> int:
    """The bin 0..1023 of a fraction of the picture's side; values outside 0..1 are clipped.

    Raises:
        InputError: not a finite number.
    """
    if not math.isfinite(value):
        raise InputError(f"a coordinate is {value}; give a finite fraction of the picture's side")
    scaled = float(np.rint(np.float32(value) * np.float32(divisor)))
    return int(min(max(scaled, 0), NUM_LOC_TOKENS - 1))


def decode_bin(location_bin: int, divisor: Divisor = REFERENCE) -> float:
    """The fraction 0..1 of a bin; the inverse of `encode_coordinate` at the bin's centre."""
    return location_bin / divisor


def box_to_text(box_yxyx_norm: Corners, divisor: Divisor = REFERENCE) -> str:
    """Four location tokens: top, left, bottom, right."""
    return "".join(f"<loc{encode_coordinate(c, divisor):04d}>" for c in box_yxyx_norm)


def boxes_to_text(
    boxes: Sequence[Box], *, divisor: Divisor = REFERENCE, labels: bool = True, masks: bool = False
) -> str:
    """Boxes, with their 16 mask codes and labels where wanted, joined by ` ; `; the inverse of `text_to_boxes`.

    Raises:
        InputError: a label or a box that could not be read back.
    """
    parts = []
    for box in boxes:
        place = box_to_text(box.box_yxyx_norm, divisor)
        y1, x1, y2, x2 = (int(place[i : i + 4]) for i in (4, 13, 22, 31))
        if y2 <= y1 or x2 <= x1:
            raise InputError(f"box {box.box_yxyx_norm} is thinner than one location bin; leave it out or enlarge it")
        codes = ""
        if masks:
            given = box.mask_codes or ()
            if len(given) != MASK_TOKENS or not all(0 <= code < NUM_SEG_TOKENS for code in given):
                raise InputError(f"the mask of {box.label!r} is {box.mask_codes}; 16 codes from 0 to 127 are needed")
            codes = "".join(f"<seg{code:03d}>" for code in given)
        label = check_label(box.label) if labels else ""
        parts.append(f"{place}{codes} {label}" if label else f"{place}{codes}")
    return SEPARATOR.join(parts)


def check_label(label: str) -> str:
    """The label, if an answer holding it can be read back.

    Raises:
        InputError: it holds `;`, a location token, or spaces at its ends.
    """
    if ";" in label or LOCATION.search(label) or label != label.strip():
        raise InputError(
            f"label {label!r} holds ';', a location token or outer spaces; rename it, as it ends the label"
        )
    return label


@dataclass
class _Reader:
    """Reads one answer from left to right; `boxes` and `notices` grow."""

    raw: str
    image_size_px: tuple[int, int]
    divisor: Divisor
    default_label: str
    boxes: list[Box] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)

    def reject(self, start: int, end: int, reason: str) -> None:
        fragment = self.raw[start:end].strip()
        if fragment:
            at = self.raw.index(fragment, start)
            shown = fragment if len(fragment) <= 80 else fragment[:77] + "..."
            self.notices.append(Notice("rejected", f"{reason}: {shown!r} at character {at}", fragment, at))

    def read(self) -> None:
        runs = _token_runs(self.raw)
        self.reject(0, runs[0][0].start() if runs else len(self.raw), "text without a box")
        for i, run in enumerate(runs):
            end = runs[i + 1][0].start() if i + 1 < len(runs) else len(self.raw)
            self.read_run(run, end)

    def read_run(self, run: list[re.Match[str]], end: int) -> None:
        """One run of tokens `<loc>...<seg>...`, and the text up to `end`, which is its label."""
        locs = [token for token in run if token.group().startswith("<loc")]
        segs = run[len(locs) :]
        for first in range(0, len(locs) - len(locs) % 4, 4):
            group = locs[first : first + 4]
            if first + 4 == len(locs):
                self.add(group, segs, end)
            else:
                self.add(group, [], group[-1].end())
        left_over = len(locs) % 4
        if left_over or not locs:
            reason = f"{left_over} location tokens where a box needs 4" if locs else "mask tokens without a box"
            self.reject(run[len(locs) - left_over].start(), end, reason)

    def add(self, locs: list[re.Match[str]], segs: list[re.Match[str]], end: int) -> None:
        start, label_start = locs[0].start(), (segs or locs)[-1].end()
        label, semicolon, rest = self.raw[label_start:end].partition(";")
        y1, x1, y2, x2 = (int(token.group()[4:8]) for token in locs)
        if y2 <= y1 or x2 <= x1:
            self.reject(start, label_start + len(label), "box without area (bottom <= top or right <= left)")
        else:
            codes = tuple(int(token.group()[4:7]) for token in segs[:MASK_TOKENS])
            whole = len(codes) == MASK_TOKENS
            at = [decode_bin(location_bin, self.divisor) for location_bin in (y1, x1, y2, x2)]
            box = Box(
                label=label.strip() or self.default_label,
                box_yxyx_norm=(at[0], at[1], at[2], at[3]),
                loc=(y1, x1, y2, x2),
                mask_codes=codes if whole else None,
                image_size_px=self.image_size_px,
            )
            self.boxes.append(box)
            self.spans.append(Span(start, label_start + len(label.rstrip()), len(segs)))
            if len(segs) not in (0, MASK_TOKENS):
                kept = "its first 16 are kept" if whole else "the box is kept without a mask"
                self.reject(segs[0].start(), segs[-1].end(), f"{len(segs)} mask tokens where 16 are expected, {kept}")
        self.reject_pieces(label_start + len(label) + len(semicolon), rest)

    def reject_pieces(self, start: int, rest: str) -> None:
        for piece in rest.split(";"):
            self.reject(start, start + len(piece), "text without a box")
            start += len(piece) + 1


def _token_runs(raw: str) -> list[list[re.Match[str]]]:
    """Neighbouring tokens, spaces between them allowed; a location token after a mask token starts a new run."""
    runs: list[list[re.Match[str]]] = []
    for token in _ANY_TOKEN.finditer(raw):
        last = runs[-1][-1] if runs else None
        touches = last is not None and last.end() == token.start()
        if last is not None and touches and (last.group()[1] == "l" or token.group()[1] == "s"):
            runs[-1].append(token)
        else:
            runs.append([token])
    return runs


def text_to_boxes(
    raw: str, image_size_px: tuple[int, int], *, divisor: Divisor = REFERENCE, default_label: str = ""
) -> tuple[tuple[Box, ...], tuple[Notice, ...]]:
    """The boxes and notices of `read_boxes`."""
    reading = read_boxes(raw, image_size_px, divisor=divisor, default_label=default_label)
    return reading.boxes or (), reading.warnings


def read_boxes(
    raw: str, image_size_px: tuple[int, int], *, divisor: Divisor = REFERENCE, default_label: str = ""
) -> Reading:
    """Boxes of an answer, and a notice for every fragment that is none. Total: no text raises.

    Args:
        raw: what the model wrote.
        image_size_px: width and height of the picture.
        divisor: 1023 (reference) or 1024 (Hugging Face's documentation).
        default_label: for boxes that carry no label (RefCOCO checkpoints).

    Returns:
        A reading whose text is the labels or, without boxes, whatever the model said instead.
    """
    reader = _Reader(raw, image_size_px, divisor, default_label)
    reader.read()
    named = [box.label for box in reader.boxes if box.label]
    text = SEPARATOR.join(named) if reader.boxes else " ".join(LOCATION.sub(" ", raw).split())
    return Reading(text, tuple(reader.boxes), tuple(reader.notices), tuple(reader.spans))
