"""Segmentation: names of things -> prompt, answer -> boxes with mask codes, these -> training suffix.

    segment cat   ->   <loc0102><loc0051><loc0920><loc0819><seg028>...16 of them... cat

A mask is 16 tokens of a learnt codebook. They are read and written here as codes (`Box.mask_codes`); turning codes into
pixels and back needs the mask codec, which is not part of this room yet. RefCOCO checkpoints speak a dialect without
words: the prompt is the bare expression and the answer carries no label. Source: big_vision
`configs/proj/paligemma/transfers/refcoco_seg.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

from paligemma.errors import UsageError
from paligemma.results import Box, Notice
from paligemma.tasks.detect import parse_detections
from paligemma.tasks.grammar import REFERENCE, Divisor, Prompt, Reading, boxes_to_text, split_objects

REFCOCO = "refcoco-seg"  # the single-task checkpoints that speak the dialect without words


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
    raw: str, image_size_px: tuple[int, int], *, divisor: Divisor = REFERENCE, default_label: str = ""
) -> Reading:
    """Boxes with their mask codes; says which have none, and that codes are not pixels yet. Total, as for detection."""
    reading = parse_detections(raw, image_size_px, divisor=divisor, default_label=default_label)
    boxes = reading.boxes or ()
    notices = list(reading.warnings)
    without = [box.label or "a box" for box in boxes if box.mask_codes is None]
    if without:
        notices.append(Notice("no_mask", f"no mask came with {', '.join(without)}"))
    if len(without) < len(boxes):
        notices.append(
            Notice("mask_codes_only", "masks are kept as 16 codes per box (`mask_codes`) and not decoded to pixels")
        )
    return replace(reading, warnings=tuple(notices))


def format_segments(boxes: Sequence[Box], *, divisor: Divisor = REFERENCE, labels: bool = True) -> str:
    """The training suffix of boxes with mask codes; `labels=False` writes RefCOCO's dialect.

    Raises:
        InputError: a box without 16 mask codes, or one that could not be read back.
    """
    return boxes_to_text(boxes, divisor=divisor, labels=labels, masks=True)
