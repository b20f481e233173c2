"""Segmentation: names of things -> prompt, answer -> boxes with masks, these -> training suffix.

    segment cat   ->   <loc0102><loc0051><loc0920><loc0819><seg028>...16 of them... cat

A mask is 16 tokens of a learnt codebook. They are read and written here as codes (`Box.mask_codes`); a function that
decodes them (`masks.decoder`) makes them pixels (`Box.mask`). RefCOCO checkpoints speak a dialect without words: the
prompt is the bare expression and the answer carries no label. Source: big_vision
`configs/proj/paligemma/transfers/refcoco_seg.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from paligemma.errors import UsageError
from paligemma.results import Box, Mask, Notice
from paligemma.tasks.detect import parse_detections
from paligemma.tasks.grammar import HUGGING_FACE, REFERENCE, Divisor, Prompt, Reading, boxes_to_text, split_objects

REFCOCO = "refcoco-seg"  # the single-task checkpoints that speak the dialect without words
CODES_ONLY = "mask_codes_only"

Decode = Callable[[Sequence[tuple[int, ...]]], np.ndarray]
"""n masks of 16 codes -> float32[n, h, w], about -1..1, object where > 0."""


def segment_prompt(objects: str | Sequence[str], *, bare: bool = False) -> Prompt:
    """`segment cat ; dog`; `bare` sends one expression alone, as RefCOCO checkpoints were trained.

    Raises:
        UsageError: no name, or several for a RefCOCO checkpoint.
    """
    names = split_objects(objects)
    if not bare:
        return Prompt("segment " + " ; ".join(names), "segment")
    if len(names) > 1:
        raise UsageError(f"this checkpoint segments one expression at a time, found {len(names)}; ask for each alone")
    return Prompt(names[0], "segment", label=names[0])


def parse_segments(
    raw: str, image_size_px: tuple[int, int], *, divisor: Divisor = REFERENCE, default_label: str = "",
    decode: Decode | None = None,
) -> Reading:  # fmt: skip
    """Boxes with their masks; says which have none. Total, as for detection.

    Args:
        decode: what makes pixels of mask codes; without it they stay codes, which is said.
    """
    reading = parse_detections(raw, image_size_px, divisor=divisor, default_label=default_label)
    boxes = reading.boxes or ()
    notices = list(reading.warnings)
    without = [box.label or "a box" for box in boxes if box.mask_codes is None]
    if without:
        notices.append(Notice("no_mask", f"no mask came with {', '.join(without)}"))
    if len(without) < len(boxes):
        notices.append(
            Notice(
                CODES_ONLY,
                "masks are kept as 16 codes per box (`mask_codes`), for no mask codec lies beside this model; "
                "`paligemma pull vae-oid` fetches Google's, which makes them pixels",
            )
        )
    reading = replace(reading, warnings=tuple(notices))
    return reading if decode is None else with_masks([reading], decode, divisor=divisor)[0]


def with_masks(readings: Sequence[Reading], decode: Decode, *, divisor: Divisor = REFERENCE) -> list[Reading]:
    """The same readings with a `Mask` in every box that has codes; all of a batch are decoded in one call.

    Args:
        divisor: as the readings were parsed with; 1024 pastes as Hugging Face's demo does (`Mask.convention`).
    """
    boxes = iter(decode_boxes([box for reading in readings for box in reading.boxes or ()], decode, divisor=divisor))
    return [
        replace(
            reading,
            boxes=None if reading.boxes is None else tuple(next(boxes) for _ in reading.boxes),
            warnings=tuple(notice for notice in reading.warnings if notice.code != CODES_ONLY),
        )
        for reading in readings
    ]


def decode_boxes(boxes: Sequence[Box], decode: Decode, *, divisor: Divisor = REFERENCE) -> list[Box]:
    """The same boxes, in order, with a `Mask` in each that has mask codes."""
    coded = [box for box in boxes if box.mask_codes is not None]
    decoded = iter(decode([box.mask_codes for box in coded if box.mask_codes is not None]) if coded else ())
    return [box if box.mask_codes is None else replace(box, mask=_mask(box, next(decoded), divisor)) for box in boxes]


def _mask(box: Box, values: np.ndarray, divisor: Divisor) -> Mask:
    return Mask(
        values=values,
        box_yxyx_norm=box.box_yxyx_norm,
        image_size_px=box.image_size_px,
        codes=box.mask_codes,
        convention="demo" if divisor == HUGGING_FACE else "big_vision",
    )


def format_segments(boxes: Sequence[Box], *, divisor: Divisor = REFERENCE, labels: bool = True) -> str:
    """The training suffix of boxes with mask codes; `labels=False` writes RefCOCO's dialect.

    Raises:
        InputError: a box without 16 mask codes, or one that could not be read back.
    """
    return boxes_to_text(boxes, divisor=divisor, labels=labels, masks=True)
