"""One query -> the requests it takes, and how their answers become one: itself, or one for each window of its picture.

In: a query. Out: `Work`. The windows' boxes are moved to the whole picture, joined and sorted by score; their masks
move with them. Geometry is in `tiling`. Not done here: decoding.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from paligemma.api.detecting import BOX_TASKS, reads_as
from paligemma.api.encoding import Picture
from paligemma.api.queries import Query
from paligemma.api.requests import Request, make_request, prompt_of
from paligemma.api.tiling import Boxes, Tiles, Window, cut_sides, merge, windows
from paligemma.errors import UsageError
from paligemma.results import Answer, Box, Corners, Detections, Mask, Notice

if TYPE_CHECKING:
    from paligemma.api.model import PaliGemma


@dataclass(frozen=True)
class Work:
    """What the engine has to do for one query, and what to do with its answers."""

    requests: tuple[Request, ...]
    combine: Callable[[Sequence[Answer]], Answer]


def make_work(model: "PaliGemma", query: Query) -> Work:
    """
    Raises:
        UsageError: words or options that make no prompt, tiles of several pictures or of a task without boxes.
        InputError: no picture, one that cannot be read, or too much for this model.
    """
    query.check()
    began = time.perf_counter()
    pictures = model.encoder.opened(query.images)
    opening_s = time.perf_counter() - began
    tiles = Tiles.of(query.options.get("tiles"))
    conf, most = query.options.get("conf", 0.0), query.options.get("max_objects")
    if tiles is None:
        request = make_request(model, query, pictures, opening_s)
        return Work((request,), lambda answers: _chosen(answers[0], conf, most))
    if reads_as(prompt_of(model, query)) not in BOX_TASKS or len(pictures) != 1:
        raise UsageError(
            f"tiles were asked of {query.task} with {len(pictures)} pictures; they are for the boxes of one picture"
        )
    (picture,) = pictures
    places = windows(picture.image.size, tiles, model.config.vision.image_size_px)
    whole = (0, 0, *picture.image.size)
    crops = [Picture(picture.image.crop(place), picture.path, None) for place in places if place != whole]
    places = [place for place in places if place != whole]
    if tiles.include_whole or not places:
        places, crops = [whole, *places], [picture, *crops]
    requests = tuple(make_request(model, query, [crop], opening_s / len(crops)) for crop in crops)
    return Work(requests, lambda answers: _chosen(_merged(answers, places, picture), conf, most))


def _chosen(answer: Answer, conf: float, most: int | None) -> Answer:
    """Only the boxes that are wanted; the raw text stays. Says so where no grammar ended the list at `most`."""
    if not isinstance(answer, Detections):
        return answer
    sure = answer.filter(conf=conf) if conf else answer
    if most is None or len(sure) <= most:
        return sure
    message = f"{len(sure)} objects were found, the first {most} are kept, as asked by max_objects"
    return replace(sure[:most], warnings=(*sure.warnings, Notice("max_objects", message)))


def _merged(answers: Sequence[Answer], places: Sequence[Window], picture: Picture) -> Detections:
    """One answer about the whole picture. That a window is empty is no news where another is not."""
    size = picture.image.size
    found = [answer for answer in answers if isinstance(answer, Detections)]
    assert len(found) == len(answers), "a window was answered without boxes"
    by_window = [[_moved(box, place, size) for box in answer] for answer, place in zip(found, places, strict=True)]
    boxes = [box for own in by_window for box in own]
    cut = [cut_sides(_corners(own), place, size) for own, place in zip(by_window, places, strict=True)]
    names = list(dict.fromkeys(box.label for box in boxes))
    once = merge(
        Boxes(
            xyxy=_corners(boxes),
            labels=np.array([names.index(box.label) for box in boxes], dtype=np.int64),
            scores=np.array([box.score or 0.0 for box in boxes], dtype=np.float64),
            cut=np.vstack(cut),
            parts=tuple((i,) for i in range(len(boxes))),
        )
    )
    joined = [_united([boxes[i] for i in parts]) for parts in once.parts]
    answer = Detections.merge(
        [
            replace(
                answer,
                images=(picture.image,), paths=(picture.path,), image_size_px=size, boxes=(),
                warnings=tuple(n for n in answer.warnings if n.code != "empty" or not boxes),
            )
            for answer in found
        ]
    )  # fmt: skip
    return answer.with_boxes(sorted(joined, key=lambda box: -(box.score or 0.0)))


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    return np.array([box.xyxy for box in boxes], dtype=np.float64).reshape(-1, 4)


def _moved(box: Box, place: Window, size_px: tuple[int, int]) -> Box:
    """A box of a window as one of the whole picture, its mask with it; its location bins were the window's."""
    left, top, right, bottom = place
    width, height = size_px
    if place == (0, 0, width, height):
        return box
    y1, x1, y2, x2 = box.box_yxyx_norm
    at: Corners = (
        min((top + y1 * (bottom - top)) / height, 1.0), min((left + x1 * (right - left)) / width, 1.0),
        min((top + y2 * (bottom - top)) / height, 1.0), min((left + x2 * (right - left)) / width, 1.0),
    )  # fmt: skip
    mask = None if box.mask is None else replace(box.mask, box_yxyx_norm=at, image_size_px=size_px)
    return replace(box, box_yxyx_norm=at, image_size_px=size_px, loc=None, mask=mask)


def _united(pieces: Sequence[Box]) -> Box:
    """One box around the pieces of one object, the most certain piece first; their masks laid over one another."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    corners = np.array([piece.box_yxyx_norm for piece in pieces])
    y1, x1 = corners[:, :2].min(0).tolist()
    y2, x2 = corners[:, 2:].max(0).tolist()
    at: Corners = (y1, x1, y2, x2)
    masks = [piece.mask for piece in pieces if piece.mask is not None]
    mask = _overlaid(masks) if masks else None
    return replace(first, box_yxyx_norm=at, loc=None, mask_codes=None, mask=mask)


def _overlaid(masks: Sequence[Mask]) -> Mask:
    """Every pixel that any of the masks holds."""
    pixels = masks[0].array()
    for mask in masks[1:]:
        pixels |= mask.array()
    return Mask.from_array(pixels)
