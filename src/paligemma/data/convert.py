"""Labelled pictures <-> training rows: objects in pixels <-> prompts and suffixes of `detect` and `segment`.

    a.jpg: cat at 40, 30, 200, 180   ->   prefix `detect cat`, suffix `<loc0128><loc0102><loc0767><loc0512> cat`

What a suffix cannot say: a coordinate has 1024 values, so an edge comes back within half a bin (1/2046 of the side; an
object thinner than a bin is widened to one); a mask is 16 codes, and what is lost is measured (`Rows.masks`). Boxes of
one picture are asked for together or label by label, of the labels that are there or of all. Crowds are left out, and
their labels are never asked where the answer would have to be "nothing". The codec's network runs here; no model does.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from paligemma.data.example import Example
from paligemma.data.formats.reading import Entry, Reading, upright_size
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import InputError, UsageError
from paligemma.results import Box
from paligemma.results import Corners as NormCorners
from paligemma.tasks import TASKS, task_of
from paligemma.tasks.grammar import REFERENCE, check_label, decode_bin, encode_coordinate, read_boxes

if TYPE_CHECKING:
    from paligemma.model.mask_codec import MaskCodec

Task = Literal["detect", "segment"]
PromptPer = Literal["image", "label"]
Ask = Literal["present", "all"]
Order = Literal["file", "area", "left", "random"]

CHUNK = 32  # pictures whose masks go through the codec together
_LAST_BIN = 1023


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How pictures become rows.

    Args:
        task: boxes, or boxes with masks.
        one_prompt_per: picture (`detect cat ; dog`), or label.
        ask: for the labels that are there; or for all of the data's, with an empty suffix where there is none.
        order: of objects in a suffix: as in the file, largest first, from left to right, or drawn with `seed`.
    """

    task: Task = "detect"
    one_prompt_per: PromptPer = "image"
    ask: Ask = "present"
    order: Order = "file"
    seed: int = 0


@dataclass
class Rows:
    """Training rows, and what became of the rest.

    Attributes:
        masks: IoU of each mask with what its codes decode to.
        left_out: why, and how often.
    """

    entries: list[Entry] = field(default_factory=list)
    masks: list[float] = field(default_factory=list)
    objects: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def mask_figures(self) -> dict[str, float]:
        """Count, mean, worst, and how many lose more than they keep (IoU < 0.5)."""
        if not self.masks:
            return {}
        mean = sum(self.masks) / len(self.masks)
        below = sum(iou < 0.5 for iou in self.masks)
        return {"masks": len(self.masks), "mean": mean, "worst": min(self.masks), "below_half": below}


# --- pictures -> rows ------------------------------------------------------------------------------------------------


def to_rows(entries: Iterable[Entry], reading: Reading, rules: Rules, codec: "MaskCodec | None" = None) -> Rows:
    """Training rows of labelled pictures, in order; entries that are rows already stay as they are.

    Args:
        reading: where they come from: its `classes` are what `ask="all"` asks for, its `problems` gather what cannot
            be said.
        codec: makes codes of masks; needed to segment.

    Raises:
        UsageError: `segment` without a codec.
    """
    if rules.task == "segment" and codec is None:
        raise UsageError("segmentation needs a mask codec, found none; give --codec")
    entries = list(entries)
    pictures = [entry.item for entry in entries if isinstance(entry.item, LabelledImage)]
    named = dict.fromkeys([*reading.classes, *(label for picture in pictures for label in picture.labels)])
    rows, rest = Rows(), iter(entries)
    while chunk := list(islice(rest, CHUNK)):
        for entry, boxes in _with_boxes(chunk, reading, rules, codec, rows):
            if isinstance(entry.item, Example):
                rows.entries.append(entry)
            elif boxes is not None:
                made = reading.attempt(str(entry.item.path), _rows_of, entry, boxes, rules, list(named), rows)
                rows.entries += made or []
    return rows


def _with_boxes(
    chunk: list[Entry], reading: Reading, rules: Rules, codec: "MaskCodec | None", rows: Rows
) -> Iterator[tuple[Entry, list[Box] | None]]:
    """Each entry with its objects as the suffix will say them; None where that cannot be."""
    pictures = [entry.item for entry in chunk if isinstance(entry.item, LabelledImage)]
    coded: dict[int, list[Box] | None] = {}
    if rules.task == "segment":
        try:
            coded = dict(zip(map(id, pictures), _coded(pictures, rules, codec, rows), strict=True))
        except InputError:  # one of them is at fault: each alone, to tell which
            for picture in pictures:
                alone = reading.attempt(str(picture.path), lambda one: _coded([one], rules, codec, rows)[0], picture)
                coded[id(picture)] = alone
    for entry in chunk:
        item = entry.item
        if isinstance(item, Example):
            yield entry, None
        elif rules.task == "segment":
            yield entry, coded[id(item)]
        else:
            yield entry, [_box(box, item.size_px) for box in _ordered(item, rules)]


def _coded(pictures: list[LabelledImage], rules: Rules, codec: "MaskCodec | None", rows: Rows) -> list[list[Box]]:
    """Boxes with mask codes of each picture, from one call of the codec.

    Raises:
        InputError: an object without a mask, or with one that cannot be encoded.
    """
    from paligemma.tasks.masks import round_trip

    assert codec is not None
    objects = [(box, picture) for picture in pictures for box in _ordered(picture, rules)]
    if missing := [box.label for box, _ in objects if not box.has_mask]:
        raise InputError(f"a {missing[0]!r} has a box and no mask, expected both to segment; use --task detect")
    if not objects:
        return [[] for _ in pictures]
    result = round_trip(
        codec, (box.mask(picture.size_px) for box, picture in objects), [box.label for box, _ in objects],
        boxes_yxyx_norm=[_region(box, picture.size_px) for box, picture in objects],
    )  # fmt: skip
    rows.masks += result.ious
    boxes = iter(result.boxes)
    return [[next(boxes) for _ in _ordered(picture, rules)] for picture in pictures]


def _ordered(picture: LabelledImage, rules: Rules) -> list[TrueBox]:
    """The objects in the order of the suffix, without crowds."""
    boxes = [box for box in picture.boxes if not box.crowd]
    if rules.order == "random":
        random.Random(f"{rules.seed} {picture.path.name}").shuffle(boxes)
    elif rules.order == "left":
        boxes.sort(key=lambda box: (box.xyxy[0] + box.xyxy[2], box.xyxy[1] + box.xyxy[3]))
    elif rules.order == "area":
        boxes.sort(key=lambda box: -(box.xyxy[2] - box.xyxy[0]) * (box.xyxy[3] - box.xyxy[1]))
    return boxes


def _region(box: TrueBox, size_px: tuple[int, int]) -> NormCorners:
    """Top, left, bottom, right as fractions, widened where they would fall into one bin."""
    (left, top, right, bottom), (width, height) = box.xyxy, size_px
    (y1, y2), (x1, x2) = _apart(top / height, bottom / height), _apart(left / width, right / width)
    return y1, x1, y2, x2


def _apart(first: float, last: float) -> tuple[float, float]:
    low, high = encode_coordinate(first), encode_coordinate(last)
    if low < high:
        return first, last
    low = min(low, _LAST_BIN - 1)
    return min(first, decode_bin(low)), max(last, decode_bin(low + 1))


def _box(box: TrueBox, size_px: tuple[int, int]) -> Box:
    """The object at the middle of its bins."""
    y1, x1, y2, x2 = (encode_coordinate(edge) for edge in _region(box, size_px))
    at = [decode_bin(edge, REFERENCE) for edge in (y1, x1, y2, x2)]
    norm = (at[0], at[1], at[2], at[3])
    return Box(label=box.label, box_yxyx_norm=norm, image_size_px=size_px, loc=(y1, x1, y2, x2))


def _rows_of(entry: Entry, boxes: list[Box], rules: Rules, classes: list[str], rows: Rows) -> list[Entry]:
    """The rows of one picture.

    Raises:
        InputError: a label that no prompt or suffix can hold.
    """
    picture = entry.item
    assert isinstance(picture, LabelledImage)
    crowds = {box.label for box in picture.boxes if box.crowd}
    present = list(dict.fromkeys(box.label for box in boxes))
    labels = present
    if rules.ask == "all":
        labels = [label for label in classes if label in present or label not in crowds]
    for label in labels:
        check_label(label)
    groups = [labels] if rules.one_prompt_per == "image" else [[label] for label in labels]
    made = []
    for group in groups if labels else ():
        suffix = TASKS[rules.task].format([box for box in boxes if box.label in group])
        prefix = TASKS[rules.task].prompt(group).text
        made.append(
            Entry(entry.split, Example(id=picture.path.name, images=(picture.path,), prefix=prefix, suffix=suffix))
        )
    rows.objects += len(boxes)
    rows.left_out["pictures without objects"] += not labels
    rows.left_out["crowds"] += sum(box.crowd for box in picture.boxes)
    return made


# --- rows -> pictures ------------------------------------------------------------------------------------------------


def from_rows(entries: Iterable[Entry], reading: Reading, codec: "MaskCodec | None" = None) -> Rows:
    """Labelled pictures of training rows: one for each file and split, with the objects of all its rows, each once.

    Labelled pictures stay as they are. Rows that speak of no boxes (captions, answers) are left out and counted.

    Args:
        reading: its `problems` gather rows that cannot be read.
        codec: makes pixels of mask codes; without it masks are left out and counted.
    """
    found: dict[tuple[str, Path], dict[tuple[str, object], Box]] = {}
    rows = Rows()
    for entry in entries:
        if isinstance(entry.item, LabelledImage):
            rows.entries.append(entry)
            rows.objects += len(entry.item.boxes)
        elif not _speaks_of_boxes(entry.item):
            rows.left_out["rows without boxes"] += 1
        elif (read := reading.attempt(entry.item.id, _boxes_of, entry.item)) is not None:
            path, boxes = read
            objects = found.setdefault((entry.split, path), {})
            for box in boxes:
                known = objects.get((box.label, box.loc))
                if known is None or known.mask_codes is None:
                    objects[box.label, box.loc] = box
    rest = iter(found.items())
    while chunk := list(islice(rest, CHUNK)):
        decoded = iter(_decoded([box for _, objects in chunk for box in objects.values()], codec, rows))
        for (split, path), objects in chunk:
            true = tuple(_true_box(next(decoded), rows) for _ in objects)
            rows.entries.append(Entry(split, LabelledImage(path=path, boxes=true, size_px=upright_size(path))))
            rows.objects += len(true)
    return rows


def _speaks_of_boxes(example: Example) -> bool:
    return task_of(example.prefix) in ("detect", "segment") or "<loc" in example.suffix


def _boxes_of(example: Example) -> tuple[Path, Sequence[Box]]:
    """The picture's file and the objects of a suffix.

    Raises:
        InputError: several pictures, none that is a file, or a suffix that cannot be read to its end.
    """
    if len(example.images) != 1 or not isinstance(example.images[0], Path):
        raise InputError(f"the row has {len(example.images)} pictures, expected one file; boxes belong to one picture")
    path = example.images[0]
    bare = task_of(example.prefix) not in ("detect", "segment")  # RefCOCO's dialect: the prompt is what is meant
    reading = read_boxes(example.suffix, upright_size(path), default_label=example.prefix.strip() if bare else "")
    if reading.warnings:
        raise InputError(f"the suffix cannot be read: {reading.warnings[0].message}; mend the row")
    boxes = reading.boxes or ()
    if any(not box.label for box in boxes):
        raise InputError("the suffix has a box without a label, expected a name behind each; mend the row")
    return path, boxes


def _decoded(boxes: list[Box], codec: "MaskCodec | None", rows: Rows) -> list[Box]:
    """The boxes with their masks."""
    coded = sum(box.mask_codes is not None for box in boxes)
    if codec is None or not coded:
        rows.left_out["masks, for want of a codec"] += coded
        return boxes
    from paligemma.tasks.masks import decoder
    from paligemma.tasks.segment import decode_boxes

    return decode_boxes(boxes, decoder(codec))


def _true_box(box: Box, rows: Rows) -> TrueBox:
    runs = None
    if box.mask is not None and box.mask.area_px:
        runs = str(box.mask.rle()["counts"])
    elif box.mask is not None:
        rows.left_out["masks without a pixel"] += 1
    return TrueBox(label=box.label, xyxy=box.xyxy, runs=runs)
