"""COCO: one JSON object of `images`, `annotations` and `categories`.

Boxes are left, top, width, height in pixels; shapes are polygons, or run lengths (compressed or plain); `iscrowd` marks
many of a kind in one region. In: a file, a folder of one file for each split (`train/_annotations.coco.json`), or
`annotations/instances_train2017.json`, which is preferred to its neighbours. Written with 3 decimals of a pixel;
polygons with as many, run lengths exactly. A picture of which one annotation is wrong is left out as a whole, for what
is left of it would teach that nothing else is there. Source: cocodataset.org, data format.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from paligemma.data.formats.reading import (
    Entry,
    Problem,
    Reading,
    as_object,
    as_polygons,
    as_runs,
    is_number,
    label_files,
)
from paligemma.data.formats.strict import parse_json, read_text
from paligemma.data.formats.writing import Writing, by_split, labelled
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import InputError
from paligemma.results.files import writing as whole_file

TABLES = ("images", "annotations", "categories")
DECIMALS = 3


def detect(path: Path) -> bool:
    """Whether there is a .json file that holds no list."""
    try:
        _, file = label_files(path, (".json",), "instances")[0]
        with open(file, "rb") as stream:
            head = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (InputError, OSError):
        return False
    return file.suffix.lower() == ".json" and head[:1] != b"["


def read(path: Path, reading: Reading) -> Iterator[Entry]:
    """The pictures of each split in the order of `images`, objects in the order of `annotations`.

    Raises:
        InputError: a file that is no COCO file at all.
    """
    for split, file in label_files(path, (".json",), "instances"):
        for picture in _read_file(file, reading):
            yield Entry(split, picture)


def _read_file(file: Path, reading: Reading) -> Iterator[LabelledImage]:
    try:
        tables = parse_json(read_text(file))
    except InputError as error:
        raise InputError(f"{file} is no COCO file: {error}") from error
    if not isinstance(tables, dict) or not all(isinstance(tables.get(key), list) for key in TABLES):
        raise InputError(
            f"{file} is no COCO file: it lacks a list of {', '.join(TABLES)}; give a COCO .json, or name its format"
        )
    names = _categories(file, reading, tables["categories"])
    of_image: dict[Any, list[tuple[int, Any]]] = defaultdict(list)
    known = {_key(row.get("id")) for row in tables["images"] if isinstance(row, dict)}
    for number, row in enumerate(tables["annotations"]):
        image_id = _key(row.get("image_id")) if isinstance(row, dict) else None
        if image_id is None or image_id not in known:
            why = "belongs to no image of the file, expected an `image_id` from `images`; mend the file"
            reading.problems.append(Problem(where=f"{file}, annotation {_id(row, number)}", why=why))
        else:
            of_image[image_id].append((number, row))
    seen = set()
    for number, row in enumerate(tables["images"]):
        where = f"{file}, image {_id(row, number)}"
        key = _key(row.get("id")) if isinstance(row, dict) else None
        if key is None or key in seen:
            why = "has no id of its own, expected a number; mend the file"
            reading.problems.append(Problem(where=where, why=why))
            continue
        seen.add(key)
        picture = reading.attempt(where, _picture, reading, file, row, of_image[key], names)
        if picture is not None:
            yield picture


def _key(value: Any) -> int | str | None:
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _id(row: Any, number: int) -> Any:
    """What to call a row: its id, or its number in the list from 0."""
    return row["id"] if isinstance(row, dict) and _key(row.get("id")) is not None else f"[{number}]"


def _categories(file: Path, reading: Reading, rows: list[Any]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for number, row in enumerate(rows):
        where = f"{file}, category {_id(row, number)}"
        name = reading.attempt(
            where, lambda row=row: reading.name(as_object(row, ("id", "name"), open_ended=True)["name"])
        )
        if name is not None and _key(row["id"]) is not None:
            names[row["id"]] = name
    reading.classes += [name for name in dict.fromkeys(names.values()) if name not in reading.classes]
    return names


def _picture(
    reading: Reading, file: Path, row: dict[str, Any], annotations: list[tuple[int, Any]], names: dict[Any, str]
) -> LabelledImage:
    as_object(row, ("file_name",), open_ended=True)
    folder, split = file.parent, file.stem.rpartition("_")[2]  # instances_val2017.json -> val2017/
    places = [
        folder,
        folder / "images",
        folder.parent / split,
        folder.parent / "images" / split,
        folder.parent / "images",
    ]
    path = reading.picture(row["file_name"], *(p for p in places if p.is_relative_to(reading.root)))
    size = reading.size(path, (row.get("width"), row.get("height")))
    boxes = []
    for number, annotation in annotations:
        try:
            boxes.append(_box(reading, annotation, names, size))
        except InputError as error:
            raise InputError(f"annotation {_id(annotation, number)}: {error}") from error
    return LabelledImage(path=path, boxes=tuple(boxes), size_px=size)


def _box(reading: Reading, row: dict[str, Any], names: dict[Any, str], size: tuple[int, int]) -> TrueBox:
    as_object(row, ("category_id", "bbox"), open_ended=True)
    if _key(row["category_id"]) not in names:
        raise InputError(f"points to category {row['category_id']!r}, expected one of `categories`; mend the file")
    box = row["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise InputError(f"found the bbox {box!r}, expected [x, y, width, height]; mend the file")
    x, y, width, height = box
    shape = row.get("segmentation") or None
    return reading.box(
        names[row["category_id"]], (x, y, x + width, y + height), size,
        polygons=as_polygons(shape) if isinstance(shape, list) else None,
        runs=as_runs(shape, size) if shape is not None and not isinstance(shape, list) else None,
        crowd=bool(row.get("iscrowd")),
    )  # fmt: skip


def write(entries: Iterable[Entry], writing: Writing) -> None:
    """`train.json`, `valid.json`, `test.json`; categories and ids count from 1."""
    splits = by_split(entries)
    for pictures in splits.values():
        writing.classes.numbers(box.label for entry in pictures for box in labelled(entry, crowds=True).boxes)
    for split, pictures in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, entry in enumerate(pictures, 1):
            picture = labelled(entry, crowds=True)
            width, height = picture.size_px
            name = writing.picture(picture.path)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for box in picture.boxes:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image_id, **_annotation(box, picture, writing)}
                )
        categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(writing.classes.names, 1)]
        with whole_file(writing.file(split, ".json", len(splits))) as file:
            tables = {"images": images, "annotations": annotations, "categories": categories}
            json.dump(tables, file, ensure_ascii=False)
            file.write("\n")


def _annotation(box: TrueBox, picture: LabelledImage, writing: Writing) -> dict[str, Any]:
    left, top, right, bottom = box.xyxy
    width, height = picture.size_px
    mask = box.mask(picture.size_px)
    shape: Any = [[round(value, DECIMALS) for value in ring] for ring in box.polygons or ()]
    if box.runs is not None:
        shape = {"size": [height, width], "counts": box.runs}
    area = (right - left) * (bottom - top) if mask is None else mask.area_px
    return {
        "category_id": writing.classes.number(box.label) + 1,
        "bbox": [round(value, DECIMALS) for value in (left, top, right - left, bottom - top)],
        "area": round(area, DECIMALS),
        "iscrowd": int(box.crowd),
        "segmentation": shape,
    }
