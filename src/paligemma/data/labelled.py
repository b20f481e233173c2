"""A user's labelled folder -> pictures with their true boxes, for measuring and calibrating.

In: a COCO file (`images`, `annotations`, `categories`), a JSONL file, or a folder that holds one of them. A JSONL line
is `{"image": "a.jpg", "boxes": [{"label": "cat", "box": [left, top, right, bottom]}]}` in pixels; a picture where
nothing is to be found has no boxes. Out: `LabelledImage`s. Pictures are looked for beside the file, or in `images/`
there; they are not opened here. COCO's crowds are left out. Source of its format: cocodataset.org, data format.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paligemma.config import did_you_mean
from paligemma.errors import InputError

Corners = tuple[float, float, float, float]
_WHAT_TO_GIVE = "give a COCO .json, a .jsonl of {image, boxes}, or a folder that holds one"


@dataclass(frozen=True, kw_only=True)
class TrueBox:
    """What is there: a label and its box as left, top, right, bottom in pixels."""

    label: str
    xyxy: Corners


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One picture's file and everything in it that has a label."""

    path: Path
    boxes: tuple[TrueBox, ...]

    @property
    def labels(self) -> list[str]:
        """The labels in it, each once, in order of appearance."""
        return list(dict.fromkeys(box.label for box in self.boxes))


def read_labelled(path: "str | Path") -> list[LabelledImage]:
    """The pictures of a labelled file or folder, in the file's order.

    Raises:
        InputError: no such file, not one of the two formats, a box without area, a picture that is not there.
    """
    file = _labels_file(Path(path))
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({error}); {_WHAT_TO_GIVE}") from error
    examples = _from_jsonl(file, text) if file.suffix.lower() == ".jsonl" else _from_coco(file, text)
    if not examples:
        raise InputError(f"{file} lists no picture; {_WHAT_TO_GIVE}")
    return examples


def _labels_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"there is no file or folder {path}; {_WHAT_TO_GIVE}")
        return path
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in (".json", ".jsonl") and file.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(f"expected one .json or .jsonl with labels in {path}, found {names}; name the file itself")
    return found[0]


def _from_jsonl(file: Path, text: str) -> list[LabelledImage]:
    examples = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        row = _object(_parsed(line, where), where, {"image", "boxes"})
        if not isinstance(row["image"], str) or not isinstance(row["boxes"], list):
            raise InputError(f"{where}: expected a file name under 'image' and a list under 'boxes'; mend the line")
        boxes = tuple(_true_box(box, f"{where}, box {k}") for k, box in enumerate(row["boxes"], 1))
        examples.append(LabelledImage(path=_picture(file, row["image"], where), boxes=boxes))
    return examples


def _true_box(box: Any, where: str) -> TrueBox:
    row = _object(box, where, {"label", "box"})
    if not isinstance(row["label"], str) or not row["label"].strip():
        raise InputError(f"{where}: found the label {row['label']!r}, expected words; name what is in the box")
    return TrueBox(label=row["label"].strip(), xyxy=_corners(row["box"], where))


def _corners(values: Any, where: str) -> Corners:
    if not isinstance(values, list) or len(values) != 4 or not all(_is_number(v) for v in values):
        raise InputError(f"{where}: found the box {values!r}, expected four numbers in pixels; mend the line")
    left, top, right, bottom = map(float, values)
    if right <= left or bottom <= top:
        raise InputError(
            f"{where}: box {values} has no area, expected left, top, right, bottom with right > left and bottom > top; "
            "give corners in pixels, not width and height"
        )
    return left, top, right, bottom


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e7


def _from_coco(file: Path, text: str) -> list[LabelledImage]:
    tables = _parsed(text, str(file))
    needed = ("images", "annotations", "categories")
    if not isinstance(tables, dict) or not all(isinstance(tables.get(key), list) for key in needed):
        raise InputError(f"{file} is no COCO file: it lacks a list of {', '.join(needed)}; {_WHAT_TO_GIVE}")
    boxes: dict[Any, list[TrueBox]] = defaultdict(list)
    try:
        names = {row["id"]: str(row["name"]) for row in tables["categories"]}
        known = {row["id"] for row in tables["images"]}
        for row in tables["annotations"]:
            if row.get("iscrowd"):
                continue
            where = f"{file}, annotation {row.get('id')}"
            if row["category_id"] not in names or row["image_id"] not in known:
                raise InputError(f"{where} points to a category or image that is not in the file; mend the file")
            if not (isinstance(row["bbox"], list) and len(row["bbox"]) == 4 and all(map(_is_number, row["bbox"]))):
                raise InputError(
                    f"{where}: found the bbox {row['bbox']!r}, expected [x, y, width, height]; mend the file"
                )
            x, y, width, height = row["bbox"]
            label = names[row["category_id"]]
            boxes[row["image_id"]].append(TrueBox(label=label, xyxy=_corners([x, y, x + width, y + height], where)))
        return [
            LabelledImage(path=_picture(file, str(row["file_name"]), str(file)), boxes=tuple(boxes[row["id"]]))
            for row in tables["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no COCO file: a row lacks {error}; {_WHAT_TO_GIVE}") from error


def _picture(file: Path, name: str, where: str) -> Path:
    """The picture's file, beside the labels or in `images/` there; never outside that folder by `..`."""
    if ".." in Path(name).parts:
        raise InputError(f"{where}: the picture {name!r} lies outside the folder of the labels; move it there")
    for candidate in (file.parent / name, file.parent / "images" / name):
        if candidate.is_file():
            return candidate
    raise InputError(f"{where}: there is no picture {name!r} beside {file.name} or in images/ there; put it there")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is no JSON ({error}); {_WHAT_TO_GIVE}") from error


def _object(value: Any, where: str, keys: set[str]) -> Mapping[str, Any]:
    """`value` as an object with exactly these keys."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: found {value!r}, expected an object with {', '.join(sorted(keys))}; mend the line")
    for key in value:
        if key not in keys:
            raise InputError(f"{where}: unknown key {key!r}{did_you_mean(key, keys)}")
    if missing := sorted(keys - set(value)):
        raise InputError(f"{where}: {' and '.join(missing)} missing, expected {', '.join(sorted(keys))}; add it")
    return value
