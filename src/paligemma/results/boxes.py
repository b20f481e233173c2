"""One object found in a picture: its label, place, scores and mask.

Coordinates inside are fractions of the picture in the order y, x, y, x, as the model writes them; every property
outside is x first, in pixels unless its name ends in n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paligemma.errors import InputError
from paligemma.results.mask import Corners, Mask


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes in the same unit, y or x first; 0 where they do not meet."""
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / both if both > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Box:
    """One object found in a picture.

    Args:
        label: what it is; empty where the model names nothing (RefCOCO checkpoints).
        box_yxyx_norm: top, left, bottom, right as fractions 0..1 of the picture.
        loc: the four location bins 0..1023 as the model wrote them, in the same order.
        image_size_px: width and height of the picture.
        mask_codes: the 16 mask tokens 0..127 as the model wrote them.
        score: how sure the model is, 0..1, calibrated where a calibration is loaded; raw_score: before calibration.
        mask_score: how sure it is of the mask's tokens, 0..1.
        mask: its pixels, where the codes were decoded.
    """

    label: str
    box_yxyx_norm: Corners
    image_size_px: tuple[int, int]
    loc: tuple[int, int, int, int] | None = None
    mask_codes: tuple[int, ...] | None = None
    score: float | None = None
    raw_score: float | None = None
    mask_score: float | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        y1, x1, y2, x2 = self.box_yxyx_norm
        if not (0 <= y1 <= y2 <= 1 and 0 <= x1 <= x2 <= 1):
            raise InputError(
                f"box {self.box_yxyx_norm} does not lie in the picture; give top, left, bottom, right between 0 and 1"
            )

    @property
    def xyxyn(self) -> Corners:
        """Left, top, right, bottom as fractions 0..1."""
        y1, x1, y2, x2 = self.box_yxyx_norm
        return (x1, y1, x2, y2)

    @property
    def xyxy(self) -> Corners:
        """Left, top, right, bottom in pixels, not rounded."""
        width, height = self.image_size_px
        x1, y1, x2, y2 = self.xyxyn
        return (x1 * width, y1 * height, x2 * width, y2 * height)

    @property
    def xywh(self) -> Corners:
        """Left, top, width, height in pixels, not rounded."""
        x1, y1, x2, y2 = self.xyxy
        return (x1, y1, x2 - x1, y2 - y1)

    @property
    def area_px(self) -> float:
        """Square pixels: of the mask where there is one, else of the box."""
        return float(self.mask.area_px) if self.mask is not None else self.xywh[2] * self.xywh[3]

    def iou(self, other: "Box") -> float:
        """Shared area of the two boxes over their joint area, 0..1; 0 where both are empty."""
        return iou(self.xyxy, other.xyxy)

    def to_dict(self, *, with_masks: bool = True) -> dict[str, Any]:
        """`box` in pixels (2 decimals) and `box_norm` (6 decimals), both x first; `loc` as written, y first; scores (6
        decimals); `mask` as COCO's compressed run lengths."""
        row: dict[str, Any] = {
            "label": self.label,
            "box": [round(v, 2) for v in self.xyxy],
            "box_norm": [round(v, 6) for v in self.xyxyn],
        }
        for name in ("score", "raw_score", "mask_score"):
            if getattr(self, name) is not None:
                row[name] = round(getattr(self, name), 6)
        if self.loc is not None:
            row["loc"] = list(self.loc)
        if self.mask_codes is not None:
            row["mask_codes"] = list(self.mask_codes)
        if with_masks and self.mask is not None:
            row["mask"] = self.mask.rle()
        return row
