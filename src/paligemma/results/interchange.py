"""The same boxes as objects of other libraries: supervision's `Detections`, and what Hugging Face's pipelines return.

Sources: supervision `detection/core.py`; transformers `pipelines/object_detection.py` and `image_segmentation.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from paligemma.errors import UnavailableError
from paligemma.results.labels import UNNAMED, Classes

if TYPE_CHECKING:
    from paligemma.results.detections import Detections


def to_supervision(found: "Detections", *, classes: Sequence[str] | None = None) -> Any:
    """`supervision.Detections`: `xyxy` pixels, `confidence`, `class_id`, `mask` bool[n, H, W], `data["class_name"]`.

    `confidence` is None where no box has a score, `mask` where none has a mask; a single box without gets nan, or an
    empty mask.

    Args:
        classes: names of classes 0, 1, ...; by default labels in order of appearance.

    Raises:
        UnavailableError: supervision is not installed.
        UsageError: a label that is none of the given classes.
    """
    try:
        import supervision
    except ImportError as error:
        raise UnavailableError(
            "to_supervision needs the library supervision; pip install 'paligemma[supervision]'"
        ) from error
    known = Classes(classes)
    has_scores = any(box.score is not None for box in found.boxes)
    masks = None
    if any(box.mask is not None for box in found.boxes):
        width, height = found.boxes[0].image_size_px
        masks = np.zeros((len(found), height, width), dtype=bool)
        for mask, box in zip(masks, found.boxes, strict=True):
            if box.mask is not None:
                mask[:] = box.mask.array()
    return supervision.Detections(
        xyxy=found.xyxy.astype(np.float32),
        mask=masks,
        confidence=found.scores.astype(np.float32) if has_scores else None,
        class_id=np.array(known.numbers(found.labels.tolist()), dtype=int),
        data={"class_name": np.array([box.label or UNNAMED for box in found.boxes], dtype=str)},
    )


def to_pipeline(found: "Detections") -> list[dict[str, Any]]:
    """A list of `{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}` in whole pixels, and `"mask"`, a PIL
    picture in mode "L" of 0 and 255, where there is one."""
    listed = []
    for box in found.boxes:
        edges = dict(zip(("xmin", "ymin", "xmax", "ymax"), (round(v) for v in box.xyxy), strict=True))
        row: dict[str, Any] = {"score": box.score, "label": box.label, "box": edges}
        if box.mask is not None:
            row["mask"] = Image.fromarray(box.mask.array().astype(np.uint8) * 255)
        listed.append(row)
    return listed
