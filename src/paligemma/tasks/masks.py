"""Masks <-> the model's 16 mask tokens, by a mask codec; and what is lost on the way.

    mask + box -> crop, 64 x 64 -> codec -> 16 codes          the training suffix of segmentation
    16 codes -> codec -> 64 x 64 -> pasted into the box       what an answer means

A mask in any form of `mask_sources.mask_of` comes in, a `Box` with codes goes out (`format_segments` writes it), and
back. The box is the tightest around the object unless one is given; its tokens come from its exact edges, the crop from
edges rounded half to even, then resized bilinearly with antialias. Source: big_vision
`pp/proj/paligemma/segmentation.py`, `get_refcoco_mask2str`. Not done here: files of codecs, data sets.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.config import NUM_LOC_TOKENS
from paligemma.errors import InputError, UsageError
from paligemma.model.mask_codec import MASK_SIDE, MaskCodec
from paligemma.results import Box, Corners, Mask
from paligemma.results.mask import overlap
from paligemma.tasks.grammar import REFERENCE, Divisor, decode_bin, encode_coordinate
from paligemma.tasks.mask_sources import mask_of
from paligemma.tasks.segment import Decode, decode_boxes

BATCH = 64  # masks at once in the codec; more are no faster on a CPU


def decoder(codec: MaskCodec, batch_size: int = BATCH) -> Decode:
    """What `parse_segments` and `with_masks` need: lists of 16 codes -> float32[n, 64, 64], about -1..1."""

    @torch.inference_mode()
    def decode(codes: Sequence[tuple[int, ...]]) -> np.ndarray:
        if not codes:
            return np.zeros((0, MASK_SIDE, MASK_SIDE), dtype=np.float32)
        table = torch.tensor([list(row) for row in codes]).to(codec.embedding.device)
        return torch.cat([codec.decode(part).float().cpu() for part in table.split(batch_size)]).numpy()

    return decode


def encode_masks(
    codec: MaskCodec, masks: Iterable[Any], labels: str | Sequence[str] = "", *,
    boxes_yxyx_norm: Sequence[Corners] | None = None, image_size_px: tuple[int, int] | None = None,
    divisor: Divisor = REFERENCE, batch_size: int = BATCH,
) -> list[Box]:  # fmt: skip
    """Boxes with location bins and mask codes, ready for `format_segments`.

    Args:
        masks: of one or of many pictures, each in a form `mask_of` takes; may be a generator.
        labels: one for all, or one each.
        boxes_yxyx_norm: the objects' boxes, where a data set has its own; default the tightest around each mask.
        image_size_px: width and height of the picture, for polygons.

    Raises:
        InputError: a mask that is empty, in its box or at all, or cannot be read.
        UsageError: not one label or box for each mask.
    """
    items = _items(masks, labels, boxes_yxyx_norm, image_size_px)
    return [box for batch in _encoded(codec, items, divisor, batch_size) for _, box in batch]


@dataclass(frozen=True)
class RoundTrip:
    """Encoded masks, and the IoU of each with what its tokens decode to: the best a model trained on them can do."""

    boxes: tuple[Box, ...]
    ious: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.ious))

    @property
    def worst(self) -> float:
        return min(self.ious)

    @property
    def below_half(self) -> int:
        """How many masks lose more than they keep: IoU < 0.5."""
        return sum(iou < 0.5 for iou in self.ious)

    def to_dict(self) -> dict[str, Any]:
        return {"masks": len(self.ious), "mean": self.mean, "worst": self.worst, "below_half": self.below_half}

    def to_text(self) -> str:
        """One line: count, mean, worst with its number and label, and how many are below 0.5."""
        at = self.ious.index(self.worst)
        name = f"mask {at} {self.boxes[at].label}".strip()
        return (
            f"{len(self.ious)} masks, round-trip IoU: mean {self.mean:.3f}, worst {self.worst:.3f} ({name}), "
            f"{self.below_half} below 0.5"
        )


def round_trip(
    codec: MaskCodec, masks: Iterable[Any], labels: str | Sequence[str] = "", *,
    boxes_yxyx_norm: Sequence[Corners] | None = None, image_size_px: tuple[int, int] | None = None,
    divisor: Divisor = REFERENCE, batch_size: int = BATCH,
) -> RoundTrip:  # fmt: skip
    """Encodes masks as `encode_masks` does, decodes and pastes them, and compares; arguments and errors are the same.

    Raises:
        InputError: as well where there is no mask at all.
    """
    boxes: list[Box] = []
    ious: list[float] = []
    decode = decoder(codec, batch_size)
    for batch in _encoded(codec, _items(masks, labels, boxes_yxyx_norm, image_size_px), divisor, batch_size):
        decoded = decode_boxes([box for _, box in batch], decode, divisor=divisor)
        for (mask, box), back in zip(batch, decoded, strict=True):
            assert back.mask is not None
            boxes.append(box)
            ious.append(mask.iou(back.mask))
    if not boxes:
        raise InputError("there is no mask to encode; give at least one")
    return RoundTrip(tuple(boxes), tuple(ious))


# --- one mask --------------------------------------------------------------------------------------------------------


def crop_region(box_yxyx_norm: Corners, image_size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right in whole pixels, rounded half to even in float32 as the reference does."""
    width, height = image_size_px
    sides = np.array([height, width, height, width], dtype=np.float32)
    y1, x1, y2, x2 = np.rint(np.asarray(box_yxyx_norm, dtype=np.float32) * sides).astype(int).tolist()
    return y1, x1, y2, x2


def squeezed(levels: np.ndarray) -> Tensor:
    """float32[64, 64] of a crop float32[h, w] in 0..1: bilinear with antialias, as `tf.image.resize`."""
    planes = torch.from_numpy(np.ascontiguousarray(levels, dtype=np.float32))[None, None]
    size = (MASK_SIDE, MASK_SIDE)
    return F.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


_Item = tuple[Mask, str, Corners | None, str]  # mask, label, given box, what to call it in a message


def _items(
    masks: Iterable[Any], labels: str | Sequence[str], boxes: Sequence[Corners] | None, size: tuple[int, int] | None
) -> Iterator[_Item]:
    count = 0
    for count, source in enumerate(masks, start=1):
        i = count - 1
        if (not isinstance(labels, str) and i >= len(labels)) or (boxes is not None and i >= len(boxes)):
            break
        label = labels if isinstance(labels, str) else labels[i]
        yield mask_of(source, size), label, None if boxes is None else boxes[i], f"mask {i} {label}".strip()
    given = {"labels": None if isinstance(labels, str) else len(labels), "boxes": None if boxes is None else len(boxes)}
    for name, number in given.items():
        if number not in (None, count):
            raise UsageError(f"{number} {name} were given for {count} masks or more; give one for each mask")


def _encoded(
    codec: MaskCodec, items: Iterator[_Item], divisor: Divisor, batch_size: int
) -> Iterator[list[tuple[Mask, Box]]]:
    """Batches of masks with their boxes; no more than one batch of crops is in memory."""
    while batch := list(islice(items, batch_size)):
        placed = [(*_box(mask, label, given, name, divisor), name) for mask, label, given, name in batch]
        crops = [_crop(mask, region, name) for (mask, *_), (_, region, name) in zip(batch, placed, strict=True)]
        with torch.inference_mode():
            codes = codec.encode(torch.stack(crops).to(codec.embedding.device)).cpu().tolist()
        yield [
            (mask, replace(box, mask_codes=tuple(row)))
            for (mask, *_), (box, *_), row in zip(batch, placed, codes, strict=True)
        ]


def _box(mask: Mask, label: str, given: Corners | None, name: str, divisor: Divisor) -> tuple[Box, Corners]:
    """The box as its tokens say it, and the region to crop for it: the exact box, widened where a token is too coarse.

    Raises:
        InputError: the mask is empty, or the box is none.
    """
    if mask.area_px == 0:
        raise InputError(f"{name} is empty, so it has no box; leave it out")
    region = _tight(mask) if given is None else _checked(given, name)
    y1, x1, y2, x2 = (encode_coordinate(edge, divisor) for edge in region)
    if given is None and (y2 <= y1 or x2 <= x1):
        (y1, y2), (x1, x2) = _widened(y1, y2), _widened(x1, x2)
        at = [decode_bin(edge, divisor) for edge in (y1, x1, y2, x2)]
        region = (min(at[0], region[0]), min(at[1], region[1]), max(at[2], region[2]), max(at[3], region[3]))
    at = [decode_bin(edge, divisor) for edge in (y1, x1, y2, x2)]
    box = Box(
        label=label, box_yxyx_norm=(at[0], at[1], at[2], at[3]), image_size_px=mask.image_size_px, loc=(y1, x1, y2, x2)
    )
    return box, region


def _widened(first: int, last: int) -> tuple[int, int]:
    """Two different bins; a token is 1/1023 of the side, so a thin object in a large picture may have only one."""
    if last > first:
        return first, last
    return (first, first + 1) if first + 1 < NUM_LOC_TOKENS else (first - 1, first)


def _checked(box: Corners, name: str) -> Corners:
    y1, x1, y2, x2 = (float(edge) for edge in box)
    if not (0 <= y1 < y2 <= 1 and 0 <= x1 < x2 <= 1):
        raise InputError(f"the box of {name} is {tuple(box)}; give top, left, bottom, right between 0 and 1")
    return (y1, x1, y2, x2)


def _tight(mask: Mask) -> Corners:
    """The exact edges of the object's pixels as fractions."""
    values, (left, top) = mask.crop()
    rows, columns = np.flatnonzero((values > 0).any(axis=1)), np.flatnonzero((values > 0).any(axis=0))
    width, height = mask.image_size_px
    return (
        (top + int(rows[0])) / height, (left + int(columns[0])) / width,
        (top + int(rows[-1]) + 1) / height, (left + int(columns[-1]) + 1) / width,
    )  # fmt: skip


def _crop(mask: Mask, region: Corners, name: str) -> Tensor:
    """float32[64, 64] in 0..1 of the region.

    Raises:
        InputError: nothing of the mask is in it.
    """
    y1, x1, y2, x2 = crop_region(region, mask.image_size_px)
    values, (left, top) = mask.crop()
    levels = np.zeros((max(0, y2 - y1), max(0, x2 - x1)), dtype=np.float32)
    target, source = overlap((x1, y1), levels.shape, (left, top), values.shape)
    levels[target] = np.clip(values[source] * 0.5 + 0.5, 0, 1)
    if not (levels > 0.5).any():
        raise InputError(f"{name} has no pixel in its box {region}; give the box that belongs to it")
    return squeezed(levels)
