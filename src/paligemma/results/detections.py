"""Boxes and masks found in one picture: a sequence that filters like an array and merges."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from paligemma.errors import InputError, UsageError
from paligemma.results.answer import Answer
from paligemma.results.boxes import Box
from paligemma.results.coco import Segmentation, to_coco
from paligemma.results.cutouts import save_crops, save_masks
from paligemma.results.drawing import contact_sheet, draw_boxes, enlarged, with_strip
from paligemma.results.interchange import to_pipeline, to_supervision
from paligemma.results.labelstudio import Masks, to_labelstudio
from paligemma.results.tables import OBJECT_COLUMNS, object_rows, table
from paligemma.results.yolo import to_yolo


@dataclass(frozen=True, kw_only=True)
class Detections(Answer):
    """Boxes found in one picture; a sequence of `Box`.

    `found[0]` is a `Box`; `found[1:]`, `found[found.scores > 0.5]` and `found[[2, 0]]` are again `Detections`, with the
    same raw text.
    """

    boxes: tuple[Box, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Box]:
        return iter(self.boxes)

    @overload
    def __getitem__(self, index: int) -> Box: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> "Detections": ...
    def __getitem__(self, index: Any) -> "Box | Detections":
        if isinstance(index, int | np.integer):
            return self.boxes[index]
        if isinstance(index, slice):
            return self.with_boxes(self.boxes[index])
        chosen = np.asarray(index)
        if chosen.size == 0 and chosen.dtype != bool:
            return self.with_boxes(())
        if chosen.ndim != 1 or chosen.dtype.kind not in "biu" or (chosen.dtype == bool and len(chosen) != len(self)):
            raise UsageError(
                f"cannot choose among {len(self)} boxes by {chosen.dtype}{list(chosen.shape)}; "
                f"give a number, a slice, a list of numbers or bool[{len(self)}]"
            )
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return self.with_boxes(self.boxes[int(i)] for i in numbers)

    # --- columns ---

    @property
    def xyxy(self) -> np.ndarray:
        """Left, top, right, bottom in pixels: float64[n, 4]."""
        return np.array([box.xyxy for box in self.boxes], dtype=np.float64).reshape(-1, 4)

    @property
    def xyxyn(self) -> np.ndarray:
        """Left, top, right, bottom as fractions 0..1: float64[n, 4]."""
        return np.array([box.xyxyn for box in self.boxes], dtype=np.float64).reshape(-1, 4)

    @property
    def scores(self) -> np.ndarray:
        """float64[n], 0..1; nan where a box has no score, so that no comparison chooses it."""
        return np.array([np.nan if box.score is None else box.score for box in self.boxes], dtype=np.float64)

    @property
    def labels(self) -> np.ndarray:
        """Labels as an array of n strings, so that `found[found.labels == "cat"]` works."""
        return np.array([box.label for box in self.boxes], dtype=object)

    @property
    def areas_px(self) -> np.ndarray:
        """float64[n] square pixels, of the mask where there is one, else of the box."""
        return np.array([box.area_px for box in self.boxes], dtype=np.float64)

    # --- choosing and joining ---

    def with_boxes(self, boxes: Iterable[Box]) -> "Detections":
        """The same answer with other boxes, and `text` telling their labels."""
        boxes = tuple(boxes)
        if boxes == self.boxes:
            return self
        return replace(self, boxes=boxes, text=" ; ".join(box.label for box in boxes if box.label))

    def filter(
        self, conf: float | None = None, labels: str | Iterable[str] | None = None, min_area_px: float | None = None
    ) -> "Detections":
        """Only the boxes that hold every condition given.

        Args:
            conf: score at least this; a box without a score does not hold.
            labels: label one of these.
            min_area_px: square pixels at least this, of the mask where there is one.
        """
        wanted = {labels} if isinstance(labels, str) else None if labels is None else set(labels)
        kept = [
            box
            for box in self.boxes
            if (conf is None or (box.score is not None and box.score >= conf))
            and (wanted is None or box.label in wanted)
            and (min_area_px is None or box.area_px >= min_area_px)
        ]
        return self.with_boxes(kept)

    def merge(self: "Detections | Iterable[Detections]", *others: "Detections") -> "Detections":
        """All boxes of one picture together: `a.merge(b, c)` or `Detections.merge([a, b, c])`.

        Picture, model and task are the first one's; prompts, raw texts and warnings are joined; token by token data and
        the answers' own scores, which hold for one text each, are left out.

        Raises:
            UsageError: nothing to merge.
            InputError: pictures of different sizes.
        """
        several = [self, *others] if isinstance(self, Detections) else [*self, *others]
        if not several:
            raise UsageError("there is nothing to merge; give at least one Detections")
        first = several[0]
        for other in several[1:]:
            if other.image_size_px != first.image_size_px:
                raise InputError(
                    f"detections in pictures of {first.image_size_px} and {other.image_size_px} px are of two "
                    "pictures; merge those of one picture, or export a list of them"
                )
        if len(several) == 1:
            return first
        reasons = {found.finish_reason for found in several}
        merged = replace(
            first,
            prompt="; ".join(dict.fromkeys(found.prompt for found in several)),
            raw=" ; ".join(found.raw for found in several if found.raw),
            finish_reason=next(reason for reason in ("length", "repetition", "stop") if reason in reasons),
            warnings=tuple(dict.fromkeys(notice for found in several for notice in found.warnings)),
            timing={key: sum(found.timing.get(key, 0.0) for found in several) for key in first.timing},
            score=None,
            tokens=None,
            logprobs=None,
        )
        return merged.with_boxes(box for found in several for box in found.boxes)

    def nms(self, iou: float = 0.5, *, across_labels: bool = False) -> "Detections":
        """Of boxes with one label that share more than `iou` of their joint area only the best, in the old order.

        Boxes without a score come after those with one; among equals the earlier wins. `across_labels` compares boxes
        of different labels too.
        """
        by_score = sorted(range(len(self)), key=lambda i: (-(self.boxes[i].score or 0.0), i))
        kept: list[int] = []
        for i in by_score:
            box = self.boxes[i]
            rivals = (self.boxes[k] for k in kept if across_labels or self.boxes[k].label == box.label)
            if all(box.iou(rival) <= iou for rival in rivals):
                kept.append(i)
        return self.with_boxes(self.boxes[i] for i in sorted(kept))

    def to_dict(self, *, with_tokens: bool = False) -> dict[str, Any]:
        return {**super().to_dict(with_tokens=with_tokens), "boxes": [box.to_dict() for box in self.boxes]}

    def plot(self, *, boxes: bool = True, masks: bool = True, labels: bool = True, scores: bool = True) -> Image.Image:
        """The picture with its masks, boxes and labels; small pictures are enlarged so that labels are readable.

        Args:
            boxes, masks, labels, scores: what to draw of each object.

        Raises:
            UsageError: the answer holds no picture.
        """
        sheet, scale = enlarged(contact_sheet(self.images[:1]))
        if not self.boxes:
            return with_strip(sheet, self.prompt, "nothing found")
        draw_boxes(sheet, self.boxes, scale, outlines=boxes, masks=masks, labels=labels, scores=scores)
        return sheet

    # --- other formats; `paligemma.results.export` writes those of many pictures into one file ---

    def to_csv(self) -> str:
        """A head and a row for each box, edges in pixels; the columns are `tables.OBJECT_COLUMNS`."""
        return table(OBJECT_COLUMNS, object_rows(self))

    def to_coco(self, *, classes: Sequence[str] | None = None, segmentation: Segmentation = "rle") -> dict[str, Any]:
        """COCO's `images`, `annotations` (with `score`) and `categories`; masks as `rle` or `polygons`.

        Args:
            classes: names of categories 1, 2, ...; by default labels in order of appearance.

        Raises:
            UsageError: a label that is none of the given classes.
        """
        return to_coco([self], classes=classes, segmentation=segmentation)

    def to_yolo(self, *, classes: Sequence[str] | None = None, masks: bool = False, scores: bool = False) -> str:
        """YOLO's lines: class, middle, width and height (or with `masks` an outline) as fractions; `scores` last.

        Args:
            classes: names of classes 0, 1, ...; by default labels in order of appearance.

        Raises:
            UsageError: a label that is none of the given classes.
        """
        return to_yolo(self, classes=classes, masks=masks, scores=scores)

    def to_labelstudio(self, *, masks: Masks = "brush", url_prefix: str = "") -> dict[str, Any]:
        """A Label Studio task with these boxes as its prediction; masks as `brush`, `polygon` or `none`.

        Args:
            url_prefix: put before the picture's path, such as "https://example.org/pictures/".
        """
        return to_labelstudio(self, masks=masks, url_prefix=url_prefix)

    def to_supervision(self, *, classes: Sequence[str] | None = None) -> Any:
        """`supervision.Detections` with `xyxy`, `mask`, `confidence`, `class_id` and `data["class_name"]`.

        Raises:
            UnavailableError: supervision is not installed.
            UsageError: a label that is none of the given classes.
        """
        return to_supervision(self, classes=classes)

    def to_pipeline(self) -> list[dict[str, Any]]:
        """A list as Hugging Face's pipelines give it: `{"score", "label", "box": {"xmin", ...}}`, `"mask"` if any."""
        return to_pipeline(self)

    def save_crops(self, folder: str | Path, *, margin: float = 0.0, masked: bool = False) -> list[Path]:
        """Writes each box's part of the picture as PNG and gives the paths, in order.

        Args:
            margin: how much more on each side, as a fraction of the box.
            masked: transparent outside the mask.

        Raises:
            UsageError: the answer holds no picture.
            ResourceError: a file cannot be written.
        """
        return save_crops(self, folder, margin=margin, masked=masked)

    def save_masks(self, folder: str | Path) -> list[Path]:
        """Writes each mask as black and white PNG of the picture's size and gives the paths, in order.

        Raises:
            ResourceError: a file cannot be written.
        """
        return save_masks(self, folder)
