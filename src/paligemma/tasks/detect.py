"""Detection: names of things -> prompt, answer -> boxes, boxes -> training suffix.

    detect cat ; dog   ->   <loc0102><loc0051><loc0920><loc0819> cat ; <loc0256><loc0512><loc0768><loc0640> dog

Parsing filters nothing: duplicates (see `drop_duplicates`) and things nobody asked for stay. Source: PaliGemma report,
section 3.2.5.
"""

from collections.abc import Sequence
from dataclasses import replace

from paligemma.errors import UsageError
from paligemma.results import Box, Notice
from paligemma.tasks.grammar import (
    REFERENCE,
    SEPARATOR,
    Divisor,
    Prompt,
    Reading,
    boxes_to_text,
    read_boxes,
    split_objects,
)

DUPLICATE_IOU = 0.8  # of nano's and the scenes' pairs of one label, 2 in 1,700 overlap so much


def detect_prompt(objects: str | Sequence[str]) -> Prompt:
    """`detect cat ; dog` from a list of names or one string with `;` between them.

    Raises:
        UsageError: no name at all.
    """
    return Prompt("detect " + " ; ".join(split_objects(objects)), "detect")


def parse_detections(
    raw: str, image_size_px: tuple[int, int], *, divisor: Divisor = REFERENCE, default_label: str = ""
) -> Reading:
    """Boxes of an answer. Total: any text gives boxes inside the picture and notices about the rest.

    Args:
        raw: what the model wrote.
        image_size_px: width and height of the picture.
        divisor: 1023 (reference) or 1024 (Hugging Face's documentation).
        default_label: for boxes that carry no label.
    """
    reading = read_boxes(raw, image_size_px, divisor=divisor, default_label=default_label)
    if raw.strip():
        return reading
    return replace(reading, warnings=(Notice("empty", "the model gave an empty answer, so nothing was found"),))


def drop_duplicates(reading: Reading, *, iou: float = DUPLICATE_IOU) -> Reading:
    """The reading without boxes that repeat another of the same label; a notice says how many were dropped.

    Of boxes that repeat one another the one with the best score stays, or the first.

    Args:
        iou: from this overlap on, two boxes of one label are the same object.

    Raises:
        UsageError: `iou` outside 0..1.
    """
    if not 0 < iou <= 1:
        raise UsageError(f"the overlap of duplicates is {iou!r}; give a number above 0 and at most 1")
    boxes = reading.boxes or ()
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -(boxes[i].score or 0)):
        if all(boxes[i].label != boxes[k].label or boxes[i].iou(boxes[k]) < iou for k in kept):
            kept.append(i)
    dropped = [boxes[i].label or "a box" for i in range(len(boxes)) if i not in kept]
    if not dropped:
        return reading
    named = f"{len(dropped)} {'boxes' if len(dropped) > 1 else 'box'} ({', '.join(sorted(set(dropped)))})"
    notice = Notice("duplicate", f"left out {named} repeating another of the same label; duplicates=True keeps all")
    return replace(
        reading,
        text=SEPARATOR.join(boxes[i].label for i in sorted(kept) if boxes[i].label),
        boxes=tuple(boxes[i] for i in sorted(kept)),
        warnings=(*reading.warnings, notice),
        spans=tuple(span for i, span in enumerate(reading.spans) if i in kept),
    )


def format_detections(boxes: Sequence[Box], *, divisor: Divisor = REFERENCE) -> str:
    """The training suffix of boxes; `parse_detections` with the same divisor gives them back.

    Raises:
        InputError: a label holding `;`, a location token or outer spaces, or a box thinner than one bin.
    """
    return boxes_to_text(boxes, divisor=divisor)
