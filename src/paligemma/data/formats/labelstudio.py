"""Label Studio's JSON export: a list of tasks, each a picture with annotations.

Rectangles (turned ones too, as polygons), polygons and brush strokes (`format: rle`) are read; ellipses, key points and
choices are counted and passed over. Of several annotations of one task the one marked as ground truth counts, else the
first that was not cancelled; without annotations the prediction. Edges are in percent, written with 6 decimals. Brush
strokes are exact; an object of several polygons is written as one, for Label Studio would make it several objects. The
box of an object with a shape is that of its shape. Uploaded pictures are looked for under their own name, and without
the eight digits that Label Studio puts before it. Source: Label Studio's documentation of its export and brush masks.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import numpy as np

from paligemma.data.formats.reading import PICTURES, Entry, Reading, as_object, extents, is_number, label_files
from paligemma.data.formats.strict import parse_json, read_text
from paligemma.data.formats.writing import Writing, by_split, labelled
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import InputError
from paligemma.images import MAX_PIXELS
from paligemma.results import rle
from paligemma.results.files import writing as whole_file
from paligemma.results.labelstudio import BOXES, BRUSH, PICTURE, POLYGON, brush_runs

DECIMALS = 6
SERVED = "/data/"  # how Label Studio calls what it serves itself
_UPLOADED = re.compile(r"[0-9a-f]{8}-")


def detect(path: Path) -> bool:
    """Whether a .json file begins with a list."""
    try:
        _, file = label_files(path, (".json",))[0]
        with open(file, "rb") as stream:
            return file.suffix.lower() == ".json" and stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except (InputError, OSError):
        return False


def read(path: Path, reading: Reading) -> Iterator[Entry]:
    """The pictures in the order of the tasks.

    Raises:
        InputError: a file that is no export.
    """
    for split, file in label_files(path, (".json",)):
        try:
            tasks = parse_json(read_text(file))
        except InputError as error:
            raise InputError(f"{file} is no Label Studio export: {error}") from error
        if not isinstance(tasks, list):
            raise InputError(f"{file} is no Label Studio export, expected a list of tasks; export as JSON")
        for number, task in enumerate(tasks):
            where = f"{file}, task {task['id'] if isinstance(task, dict) and 'id' in task else f'[{number}]'}"
            picture = reading.attempt(where, _picture, reading, file, task)
            if picture is not None:
                yield Entry(split, picture)


# --- reading ---------------------------------------------------------------------------------------------------------


def _picture(reading: Reading, file: Path, task: Any) -> LabelledImage:
    data = as_object(task, ("data",), open_ended=True)["data"]
    if not isinstance(data, dict):
        raise InputError(f"found data {data!r}, expected an object with the picture's name; export as JSON")
    path = _find(reading, file, _picture_name(data))
    size = reading.size(path)
    boxes = []
    for region in _regions(reading, task):
        try:
            boxes += _objects(reading, region, size)
        except InputError as error:
            raise InputError(f"region {region.get('id')}: {error}") from error
    return LabelledImage(path=path, boxes=tuple(boxes), size_px=size)


def _picture_name(data: Mapping[str, Any]) -> Any:
    texts = [value for value in data.values() if isinstance(value, str)]
    named = [text for text in texts if Path(text.partition("?")[0]).suffix.lower() in PICTURES]
    return data.get(PICTURE) or next(iter(named or texts), None)


def _find(reading: Reading, file: Path, name: Any) -> Path:
    """The picture of `a.png`, or below `SERVED`: `upload/1/0a1b2c3d-a.png`, `local-files/?d=folder/a.png`."""
    names = [name]
    if isinstance(name, str) and name.startswith(SERVED):
        path, _, query = name.partition("?")
        inside = parse_qs(query).get("d", [unquote(path).rpartition("/")[2]])[0]
        names = [inside, _UPLOADED.sub("", inside, count=1), inside.rpartition("/")[2]]
    reasons = []
    for one in names:
        try:
            return reading.picture(one, file.parent, file.parent / "images")
        except InputError as error:
            reasons.append(error)
    raise reasons[0]


def _regions(reading: Reading, task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The regions of the annotation that counts."""
    for key in ("annotations", "completions", "predictions"):
        given = task.get(key) or []
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise InputError(f"found {key} of another kind, expected a list of objects; export as JSON")
        valid = [one for one in given if not one.get("was_cancelled")]
        if valid:
            chosen = next((one for one in valid if one.get("ground_truth")), valid[0])
            reading.ignored["further annotations of a task"] += len(valid) - 1
            regions = chosen.get("result", [])
            if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
                raise InputError("found a result of another kind, expected a list of regions; export as JSON")
            return regions
    return []


def _objects(reading: Reading, region: Mapping[str, Any], size: tuple[int, int]) -> list[TrueBox]:
    """The object of one region; none where it is of a kind that shows no object."""
    kind, value = region.get("type"), region.get("value")
    if not isinstance(kind, str) or kind not in _SHAPES:
        reading.ignored[f"regions of type {str(kind)[:40]}"] += 1
        return []
    if not isinstance(value, dict):
        raise InputError(f"found the value {value!r}, expected an object; export as JSON")
    if region.get("image_rotation"):
        raise InputError(
            "the picture was turned in Label Studio, expected it upright; turn the file and label it again"
        )
    labels = value.get(kind)
    if not isinstance(labels, list) or not labels:
        raise InputError(f"the region has no label under {kind!r}, expected one; label it")
    return [_SHAPES[kind](reading, labels[0], value, size)]


def _rectangle(reading: Reading, label: Any, value: Mapping[str, Any], size: tuple[int, int]) -> TrueBox:
    given = [value.get(key) for key in ("x", "y", "width", "height")]
    angle = value.get("rotation", 0)
    if not all(map(is_number, [*given, angle])):
        raise InputError(
            f"found the rectangle {given}, turned by {angle!r}, expected percents and degrees; export again"
        )
    x, y, width, height = (v / 100 * side for v, side in zip(given, [*size, *size], strict=True))  # type: ignore[operator]
    if not angle:
        return reading.box(label, (x, y, x + width, y + height), size)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))  # round its first corner, clockwise
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    ring = tuple(edge for a, b in corners for edge in (x + a * cos - b * sin, y + a * sin + b * cos))
    return reading.box(label, extents((ring,)), size, polygons=(ring,))


def _polygon(reading: Reading, label: Any, value: Mapping[str, Any], size: tuple[int, int]) -> TrueBox:
    points = value.get("points")
    sound = isinstance(points, list) and len(points) >= 3 and all(isinstance(p, list) and len(p) == 2 for p in points)
    if not sound or not all(is_number(edge) for point in points for edge in point):  # type: ignore[union-attr]
        raise InputError("found points of another kind, expected at least three pairs of percents; draw it again")
    ring = tuple(edge / 100 * side for point in points for edge, side in zip(point, size, strict=True))  # type: ignore[union-attr]
    return reading.box(label, extents((ring,)), size, polygons=(ring,))


def _brush(reading: Reading, label: Any, value: Mapping[str, Any], size: tuple[int, int]) -> TrueBox:
    if value.get("format") != "rle":
        raise InputError(f"found a brush stroke of format {value.get('format')!r}, expected 'rle'; export as JSON")
    pixels = brush_mask(value.get("rle"), size)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not rows.size:
        raise InputError("the brush stroke covers no pixel, expected some; remove it")
    corners = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return reading.box(label, corners, size, runs=rle.encode(pixels)["counts"])


_SHAPES = {"rectanglelabels": _rectangle, "polygonlabels": _polygon, "brushlabels": _brush}


def brush_mask(packed: Any, size_px: tuple[int, int]) -> np.ndarray:
    """bool[H, W] of a brush stroke: where the alpha channel is above half; the inverse of `brush_runs`.

    Args:
        packed: bytes 0..255 in `rle-pack`'s run lengths, see `results.labelstudio`.
        size_px: width and height of the picture.

    Raises:
        InputError: bytes that do not fill the picture.
    """
    width, height = size_px
    if not isinstance(packed, list) or not all(isinstance(b, int) and 0 <= b < 256 for b in packed):
        raise InputError("found a brush stroke that is no list of bytes, expected 0 to 255; export as JSON")
    bits = "".join(f"{byte:08b}" for byte in packed)
    if len(bits) < 53 or width * height > MAX_PIXELS or int(bits[:32], 2) != width * height * 4:
        raise InputError(f"a brush stroke does not belong to a picture of {width} x {height} px; use the labelled one")
    word = int(bits[32:37], 2) + 1
    run_bits = [int(bits[37 + 4 * i : 41 + 4 * i], 2) + 1 for i in range(4)]
    values, at, filled = np.zeros(width * height * 4, dtype=np.uint8), 53, 0
    while filled < len(values):
        count_bits = run_bits[int(bits[at + 1 : at + 3] or "0", 2)]
        start = at + 3 + count_bits
        if start + word > len(bits):
            raise InputError("a brush stroke ends before the picture is full; export it again")
        count = min(int(bits[at + 3 : start], 2) + 1, len(values) - filled)
        if bits[at] == "1":  # one value for all
            values[filled : filled + count], at = int(bits[start : start + word], 2) & 255, start + word
        else:
            at = start + word * count
            words = [bits[i : i + word] or "0" for i in range(start, at, word)]
            values[filled : filled + count] = [int(w, 2) & 255 for w in words]
        filled += count
    return values.reshape(height, width, 4)[..., 3] > 127


# --- writing ---------------------------------------------------------------------------------------------------------


def write(entries: Iterable[Entry], writing: Writing) -> None:
    """`train.json`, `valid.json`, `test.json`: a list of tasks with one annotation each."""
    splits = by_split(entries)
    for split, pictures in splits.items():
        with whole_file(writing.file(split, ".json", len(splits))) as file:
            tasks = [_task(number, labelled(entry), writing) for number, entry in enumerate(pictures, 1)]
            file.write("[\n" + ",\n".join(json.dumps(task, ensure_ascii=False) for task in tasks) + "\n]\n")


def _task(number: int, picture: LabelledImage, writing: Writing) -> dict[str, Any]:
    width, height = picture.size_px
    regions = []
    for index, box in enumerate(picture.boxes, 1):
        tag, kind, value = _region(box, picture.size_px)
        regions.append(
            {"id": f"{number}-{index}", "from_name": tag, "to_name": PICTURE, "type": kind, "original_width": width,
             "original_height": height, "image_rotation": 0, "value": {**value, kind: [box.label]}}
        )  # fmt: skip
    return {"id": number, "data": {PICTURE: writing.picture(picture.path)}, "annotations": [{"result": regions}]}


def _region(box: TrueBox, size: tuple[int, int]) -> tuple[str, str, dict[str, Any]]:
    """(tag, type, value without its label): one polygon as polygon, other shapes as brush, boxes as rectangle."""
    width, height = size
    if box.polygons is not None and len(box.polygons) == 1:
        ring = box.polygons[0]
        points = [[_percent(x, width), _percent(y, height)] for x, y in zip(ring[::2], ring[1::2], strict=True)]
        return POLYGON, "polygonlabels", {"points": points, "closed": True}
    mask = box.mask(size)
    if mask is not None and mask.area_px:
        return BRUSH, "brushlabels", {"format": "rle", "rle": brush_runs(mask)}
    left, top, right, bottom = box.xyxy
    place = {"x": _percent(left, width), "y": _percent(top, height), "width": _percent(right - left, width),
             "height": _percent(bottom - top, height), "rotation": 0}  # fmt: skip
    return BOXES, "rectanglelabels", place


def _percent(value: float, side: int) -> float:
    return round(100 * value / side, DECIMALS)
