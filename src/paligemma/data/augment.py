"""Changes of a picture that its boxes, masks and words follow: mirrored, cut, shrunk onto a ground, other colours.

    example -> (flip, crop, scale, color) -> example

What is drawn depends on (seed, source, example's id, epoch) alone. A change that the texts could not follow surely is
not made: pictures with writing are not mirrored, captions and counts are not cut, masks are only touched where a codec
can spell them anew, and several pictures of one question change their colours only. Not done here: resizing to the
model's side (`processor`), the words for left and right (`mirror`).
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image, ImageEnhance, ImageStat

from paligemma.data.example import Example
from paligemma.data.mirror import mirrored
from paligemma.data.order import key_of
from paligemma.images import open_image
from paligemma.results import Box, Corners
from paligemma.tasks import TASKS, task_of
from paligemma.tasks.grammar import LANGUAGES, LOC_PATTERN, MASK_TOKENS, box_to_text, encode_coordinate

if TYPE_CHECKING:
    from paligemma.model.mask_codec import MaskCodec

LEAST_LEFT = 0.4  # of a box's area; an object that is cut further is no longer asked for
_TRIES = 8  # crops drawn until one keeps an object
_PLACE = re.compile(rf"(?:{LOC_PATTERN}){{4}}")


class Augment(Protocol):
    """What may be done to a picture; `train.config.AugmentConfig` is one.

    Attributes:
        flip, crop, scale: probabilities of being mirrored, cut, shrunk onto a larger ground.
        min_crop: side of the smallest crop, and of the picture on the largest ground, as a share.
        color: brightness, contrast and saturation change by up to this share.
    """

    @property
    def flip(self) -> float: ...
    @property
    def crop(self) -> float: ...
    @property
    def min_crop(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def color(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class _View:
    """A picture and what is said about it, while it is changed; `boxes` is None where the answer is words."""

    image: Image.Image
    prefix: str
    suffix: str
    boxes: tuple[Box, ...] | None


def augmented(
    example: Example, how: Augment, *, seed: int, epoch: int, codec: "MaskCodec | None" = None
) -> Example:  # fmt: skip
    """The example with its picture changed, and boxes, masks and words to match.

    Args:
        epoch: another one, another change.
        codec: that of the masks' codes; without it examples with masks are neither mirrored nor cut through an object.

    Raises:
        InputError: a picture cannot be opened.
    """
    if not (how.flip or how.crop or how.scale or how.color) or not example.images:
        return example
    rng = random.Random(key_of("augment", seed, example.source, example.id, epoch))
    wanted = [name for name in _STEPS if rng.random() < getattr(how, name)]
    if len(example.images) > 1:
        wanted = []
    if not wanted and not how.color:
        return example
    pictures = [open_image(picture) for picture in example.images]
    view = _view(pictures[0], example)
    for name in wanted if view else ():
        assert view is not None
        view = _STEPS[name](view, how, rng, codec) or view
    if view is not None and wanted:
        pictures = [view.image]
        suffix = view.suffix if view.boxes is None else _text_of(view.boxes, view.prefix)
        example = replace(example, prefix=view.prefix, suffix=suffix)
    if how.color:
        pictures = _recoloured(pictures, how.color, rng)
    return replace(example, images=tuple(pictures))


def _view(image: Image.Image, example: Example) -> _View | None:
    """None where the texts hold places that are not understood, so that nothing may be moved."""
    task = task_of(example.prefix)
    boxes: tuple[Box, ...] | None = None
    if task in ("detect", "segment"):
        boxes = TASKS[task].parse(example.suffix, image.size).boxes or ()
        if any(box.mask_codes is None for box in boxes) and task == "segment":
            return None
        if _text_of(boxes, example.prefix) != example.suffix:
            return None
    elif "<loc" in example.suffix:
        return None
    if "<loc" in _PLACE.sub("", example.prefix):
        return None
    return _View(image=image, prefix=example.prefix, suffix=example.suffix, boxes=boxes)


def _text_of(boxes: Sequence[Box], prefix: str) -> str:
    return TASKS[task_of(prefix)].format(boxes) if boxes else ""


# --- flip ------------------------------------------------------------------------------------------------------------


def _flip(view: _View, how: Augment, rng: random.Random, codec: "MaskCodec | None") -> _View | None:
    """Mirrored left to right; None for writing, and for masks without a codec."""
    if task_of(view.prefix) == "ocr":
        return None
    words = view.prefix.split()
    language = words[1] if len(words) > 1 and words[1] in LANGUAGES else ""
    prefix = mirrored(view.prefix, language)
    suffix = mirrored(view.suffix, language)
    if prefix is None or suffix is None:
        return None
    boxes = view.boxes
    if boxes is not None:
        if codec is None and any(box.mask_codes for box in boxes):
            return None
        turned = [replace(box, box_yxyx_norm=_mirrored_box(box.box_yxyx_norm), label=_side(box.label)) for box in boxes]
        turned = _resorted(boxes, turned)
        boxes = tuple(_respelled(turned, (0.0, 1.0, 1.0, 0.0), codec) if codec else turned)
    return replace(
        view, image=view.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), suffix=suffix, boxes=boxes,
        prefix=_PLACE.sub(lambda place: box_to_text(_mirrored_box(_box_of(place.group()))), prefix),
    )  # fmt: skip


def _mirrored_box(box: Corners) -> Corners:
    top, left, bottom, right = box
    return (top, 1 - right, bottom, 1 - left)


def _side(label: str) -> str:
    found = mirrored(label)
    assert found is not None, label  # the whole answer could be mirrored
    return found


def _box_of(place: str) -> Corners:
    y1, x1, y2, x2 = (int(place[i : i + 4]) / 1023 for i in (4, 13, 22, 31))
    return (y1, x1, y2, x2)


def _resorted(before: Sequence[Box], after: list[Box]) -> list[Box]:
    """`after` from left to right again where `before` was: as a whole, or within neighbours of one label."""
    for key in (_middle, _left):
        if _rises([key(box) for box in before]):
            return sorted(after, key=key)
    runs = [[i for i, _ in run] for _, run in groupby(enumerate(before), key=lambda pair: pair[1].label)]
    for key in (_middle, _left):
        if all(_rises([key(before[i]) for i in run]) for run in runs):
            return [box for run in runs for box in sorted((after[i] for i in run), key=key)]
    return after


def _middle(box: Box) -> float:
    return box.box_yxyx_norm[1] + box.box_yxyx_norm[3]


def _left(box: Box) -> float:
    return box.box_yxyx_norm[1]


def _rises(values: Sequence[float]) -> bool:
    return all(a <= b for a, b in pairwise(values))


# --- crop and scale --------------------------------------------------------------------------------------------------


def _crop(view: _View, how: Augment, rng: random.Random, codec: "MaskCodec | None") -> _View | None:
    """A part of the picture; only where boxes are asked for, and at least one object stays."""
    if not view.boxes or "<loc" in view.prefix:
        return None
    width, height = view.image.size
    for _ in range(_TRIES):
        across = max(1, round(width * rng.uniform(how.min_crop, 1)))
        down = max(1, round(height * rng.uniform(how.min_crop, 1)))
        left, top = int(rng.random() * (width - across + 1)), int(rng.random() * (height - down + 1))
        window = (top / height, left / width, (top + down) / height, (left + across) / width)
        boxes = _cut(view.boxes, window, codec)
        if boxes:
            image = view.image.crop((left, top, left + across, top + down))
            return replace(view, image=image, boxes=boxes)
    return None


def _cut(boxes: Sequence[Box], window: Corners, codec: "MaskCodec | None") -> tuple[Box, ...] | None:
    """The boxes in the window's own fractions, without those of which too little is left; None where a mask is cut
    that cannot be spelled anew."""
    top, left, bottom, right = window
    kept: list[Box] = []
    for box in boxes:
        y1, x1, y2, x2 = box.box_yxyx_norm
        inside = (max(y1, top), max(x1, left), min(y2, bottom), min(x2, right))
        share = max(0.0, inside[2] - inside[0]) * max(0.0, inside[3] - inside[1]) / ((y2 - y1) * (x2 - x1))
        if share < LEAST_LEFT:
            continue
        moved = _moved(inside, (bottom - top, -top), (right - left, -left))
        if not _is_wide_enough(moved):
            continue
        if box.mask_codes and share < 1:
            if codec is None:
                return None
            part = ((inside[0] - y1) / (y2 - y1), (inside[1] - x1) / (x2 - x1),
                    (inside[2] - y1) / (y2 - y1), (inside[3] - x1) / (x2 - x1))  # fmt: skip
            respelled = _respelled([box], part, codec)
            if not respelled:
                continue
            box = respelled[0]
        kept.append(replace(box, box_yxyx_norm=moved))
    return tuple(kept)


def _moved(box: Corners, y: tuple[float, float], x: tuple[float, float]) -> Corners:
    """(edge + shift) / size on each axis, held inside the picture."""
    sides = ((box[0] + y[1]) / y[0], (box[1] + x[1]) / x[0], (box[2] + y[1]) / y[0], (box[3] + x[1]) / x[0])
    top, left, bottom, right = (min(max(side, 0.0), 1.0) for side in sides)
    return (top, left, bottom, right)


def _is_wide_enough(box: Corners) -> bool:
    y1, x1, y2, x2 = map(encode_coordinate, box)
    return y2 > y1 and x2 > x1


def _scale(view: _View, how: Augment, rng: random.Random, codec: "MaskCodec | None") -> _View | None:
    """The whole picture on a larger ground of its mean colour, so that everything in it becomes smaller."""
    width, height = view.image.size
    side = rng.uniform(max(how.min_crop, 0.05), 1)
    across, down = max(width, round(width / side)), max(height, round(height / side))
    left, top = int(rng.random() * (across - width + 1)), int(rng.random() * (down - height + 1))
    ground = Image.new("RGB", (across, down), tuple(round(value) for value in ImageStat.Stat(view.image).mean))
    ground.paste(view.image, (left, top))

    def move(box: Corners) -> Corners:
        return _moved(box, (down / height, top / height), (across / width, left / width))

    boxes = view.boxes
    if boxes is not None:
        boxes = tuple(replace(box, box_yxyx_norm=move(box.box_yxyx_norm)) for box in boxes)
        if not all(_is_wide_enough(box.box_yxyx_norm) for box in boxes):
            return None
    prefix = _PLACE.sub(lambda place: box_to_text(move(_box_of(place.group()))), view.prefix)
    return replace(view, image=ground, boxes=boxes, prefix=prefix)


# --- masks and colours -----------------------------------------------------------------------------------------------


def _respelled(boxes: Sequence[Box], part: Corners, codec: "MaskCodec") -> list[Box]:
    """Boxes with the codes of a part (fractions of the box; right before left mirrors) of their masks.

    Boxes without codes stay; those of whose masks nothing is in the part are left out.
    """
    import torch

    from paligemma.tasks.masks import decoder

    found: list[Box] = []
    for box in boxes:
        if box.mask_codes is None:
            found.append(box)
            continue
        assert len(box.mask_codes) == MASK_TOKENS
        plane = (decoder(codec)([box.mask_codes])[0] * 0.5 + 0.5).clip(0, 1)
        top, left, bottom, right = part
        if right < left:
            plane, left, right = plane[:, ::-1], 1 - left, 1 - right
        high, wide = plane.shape
        region = (left * wide, top * high, right * wide, bottom * high)
        levels = Image.fromarray(plane.copy()).resize((wide, high), Image.Resampling.BILINEAR, box=region)
        values = torch.from_numpy(np.array(levels, dtype=np.float32))
        if not bool((values > 0.5).any()):
            continue
        with torch.inference_mode():
            codes = codec.encode(values[None].to(codec.embedding.device))[0].tolist()
        found.append(replace(box, mask_codes=tuple(codes)))
    return found


def _recoloured(pictures: Sequence[Image.Image], share: float, rng: random.Random) -> list[Image.Image]:
    """The same change for all of them."""
    changes = [
        (kind, 1 + share * (2 * rng.random() - 1))
        for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    ]
    changed = list(pictures)
    for kind, factor in changes:
        changed = [kind(picture).enhance(max(0.0, factor)) for picture in changed]
    return changed


_Step = Callable[[_View, Augment, random.Random, "MaskCodec | None"], _View | None]
_STEPS: dict[str, _Step] = {"flip": _flip, "crop": _crop, "scale": _scale}
