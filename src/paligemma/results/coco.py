"""COCO's object detection format: `{"images": [...], "annotations": [...], "categories": [...]}`.

Boxes are left, top, width, height in pixels, ids count from 1, masks are compressed run lengths or polygons. `score` is
added to each annotation, as in COCO's result files; `annotations` alone is such a file. Source: the data format page of
the COCO data set, and pycocotools, which loads it.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from paligemma.errors import UsageError
from paligemma.results.boxes import Box
from paligemma.results.files import picture_path, writing
from paligemma.results.labels import Classes

if TYPE_CHECKING:
    from paligemma.results.detections import Detections

Segmentation = Literal["rle", "polygons"]


def image_row(found: "Detections", image_id: int) -> dict[str, Any]:
    """The entry of one picture in `images`.

    Raises:
        UsageError: its size is not known.
    """
    width, height = size_of(found)
    return {"id": image_id, "file_name": picture_path(found, image_id), "width": width, "height": height}


def size_of(found: "Detections") -> tuple[int, int]:
    """Width and height of the picture in pixels.

    Raises:
        UsageError: neither the answer nor its boxes know.
    """
    known = [box.image_size_px for box in found.boxes] + [image.size for image in found.images[:1]]
    size = found.image_size_px or next(iter(known), None)
    if size is None:
        raise UsageError("the size of this answer's picture is not known; keep the picture, or set image_size_px")
    return size


def annotation_row(
    box: Box, *, image_id: int, annotation_id: int, category_id: int, segmentation: Segmentation = "rle"
) -> dict[str, Any]:
    """One object; a mask that covers no pixel counts as none."""
    row: dict[str, Any] = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [round(value, 2) for value in box.xywh],
        "area": round(box.area_px, 2),
        "iscrowd": 0,
        "segmentation": [],
    }
    if box.mask is not None and box.mask.area_px:
        if segmentation == "rle":
            row["segmentation"] = box.mask.rle()
        else:
            row["segmentation"] = [[round(float(v), 2) for v in ring.ravel()] for ring in box.mask.polygons()]
    if box.score is not None:
        row["score"] = round(box.score, 6)
    return row


def rows(
    several: "Iterable[Detections]", classes: Classes, segmentation: Segmentation
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """(entry of the picture, its annotations), picture by picture."""
    if segmentation not in ("rle", "polygons"):
        raise UsageError(f"unknown segmentation {segmentation!r}; give 'rle' or 'polygons'")
    number = 0
    for image_id, found in enumerate(several, start=1):
        annotations = []
        for box in found.boxes:
            number += 1
            annotations.append(
                annotation_row(
                    box, image_id=image_id, annotation_id=number, category_id=classes.number(box.label) + 1,
                    segmentation=segmentation,
                )
            )  # fmt: skip
        yield image_row(found, image_id), annotations


def category_rows(classes: Classes) -> list[dict[str, Any]]:
    return [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes.names, start=1)]


def to_coco(
    several: "Iterable[Detections]", *, classes: Sequence[str] | None = None, segmentation: Segmentation = "rle"
) -> dict[str, Any]:
    """The whole data set as one object; for many pictures `write_coco` needs no memory.

    Args:
        classes: names of categories 1, 2, ...; by default labels in order of appearance.
        segmentation: masks as compressed run lengths or as polygons.

    Raises:
        UsageError: a label that is none of the given classes, a picture of unknown size.
    """
    known = Classes(classes)
    pairs = list(rows(several, known, segmentation))
    return {
        "images": [image for image, _ in pairs],
        "annotations": [annotation for _, annotations in pairs for annotation in annotations],
        "categories": category_rows(known),
    }


def write_coco(
    several: "Iterable[Detections]", path: str | Path, *, classes: Sequence[str] | None = None,
    segmentation: Segmentation = "rle",
) -> Path:  # fmt: skip
    """Writes `to_coco` of any number of pictures, one after the other; annotations wait in a temporary file.

    Raises:
        UsageError: a label that is none of the given classes, a picture of unknown size.
        ResourceError: the file cannot be written.
    """
    known = Classes(classes)
    with writing(path) as file, tempfile.TemporaryFile("w+", encoding="utf-8", dir=Path(path).parent) as waiting:
        file.write('{"images": [')
        more_images, more_annotations = _Commas(file), _Commas(waiting)
        for image, annotations in rows(several, known, segmentation):
            more_images.write(image)
            for annotation in annotations:
                more_annotations.write(annotation)
        file.write('\n], "annotations": [')
        waiting.seek(0)
        while block := waiting.read(1 << 20):
            file.write(block)
        file.write(f'\n], "categories": {json.dumps(category_rows(known), ensure_ascii=False)}}}\n')
    return Path(path)


class _Commas:
    """Writes JSON values one to a line, with commas between them."""

    def __init__(self, file: IO[str]):
        self._file, self._between = file, "\n"

    def write(self, value: Any) -> None:
        self._file.write(self._between + json.dumps(value, ensure_ascii=False))
        self._between = ",\n"
