"""Detection: names of things -> prompt, answer -> boxes, boxes -> training suffix.

    detect cat ; dog   ->   <loc0102><loc0051><loc0920><loc0819> cat ; <loc0256><loc0512><loc0768><loc0640> dog

Nothing is filtered here: duplicates and things nobody asked for stay. Source: PaliGemma report, section 3.2.5.
"""

from collections.abc import Sequence

from paligemma.results import Box, Notice
from paligemma.tasks.grammar import (
    LOCATION,
    REFERENCE,
    Divisor,
    Prompt,
    Reading,
    boxes_to_text,
    split_objects,
    text_to_boxes,
)


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
    boxes, notices = text_to_boxes(raw, image_size_px, divisor=divisor, default_label=default_label)
    if not raw.strip():
        notices = (Notice("empty", "the model gave an empty answer, so nothing was found"),)
    return Reading(_words(raw, boxes), boxes, notices)


def format_detections(boxes: Sequence[Box], *, divisor: Divisor = REFERENCE) -> str:
    """The training suffix of boxes; `parse_detections` with the same divisor gives them back.

    Raises:
        InputError: a label holding `;`, a location token or outer spaces, or a box thinner than one bin.
    """
    return boxes_to_text(boxes, divisor=divisor)


def _words(raw: str, boxes: tuple[Box, ...]) -> str:
    """The labels, or without boxes whatever the model said instead."""
    if boxes:
        return " ; ".join(box.label for box in boxes if box.label)
    return " ".join(LOCATION.sub(" ", raw).split())
