"""YOLO: a text file for each picture, a line for each object, fractions of the picture.

    0 0.512500 0.430000 0.225000 0.310000            class, middle x, middle y, width, height
    0 0.401000 0.275000 0.625000 0.280000 ...        class and an outline

In: a folder, or its data.yaml; pictures in `images/train` or `train/images` (labels in `labels/` beside), those that
data.yaml names, or picture and text side by side. Classes are named in data.yaml, or in classes.txt line by line. A
picture without a text file shows nothing. Written with 6 decimals; an object with a shape as one outline (parts and
holes joined by cuts of no width), and its box is then the outline's. Source: Ultralytics' data set pages.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paligemma.data.formats.reading import (
    PICTURES,
    SPLITS,
    Entry,
    Reading,
    extents,
    split_of_folder,
)
from paligemma.data.formats.strict import read_text
from paligemma.data.formats.writing import Writing, by_split, labelled
from paligemma.data.labelled import LabelledImage, Polygons, TrueBox
from paligemma.errors import InputError, UnavailableError
from paligemma.results.files import folder
from paligemma.results.files import writing as whole_file
from paligemma.results.outlines import as_one, outlines

_SETTINGS = ("data.yaml", "data.yml", "dataset.yaml")
_NAMES = ("classes.txt", "obj.names")
_FOLDERS = {"train": "train", "valid": "val", "test": "test"}  # as data.yaml calls them


def detect(path: Path) -> bool:
    """Whether it is a data.yaml, or a folder that holds one, classes.txt or `labels/`."""
    if path.is_dir():
        return any((path / name).is_file() for name in (*_SETTINGS, *_NAMES)) or (path / "labels").is_dir()
    return path.name in _SETTINGS


def read(path: Path, reading: Reading) -> Iterator[Entry]:
    """The pictures of each split by name.

    Raises:
        InputError: no classes, or no pictures.
    """
    root = path if path.is_dir() else path.parent
    settings = _settings(path if path.is_file() else next((root / n for n in _SETTINGS if (root / n).is_file()), None))
    names = _class_names(root, settings)
    reading.classes += names
    found = False
    for split, place in _places(root, settings, reading):
        for picture in _pictures(place, root, reading):
            found = True
            item = reading.attempt(str(picture), _picture, reading, picture, names)
            if item is not None:
                yield Entry(split, item)
    if not found and not reading.problems:
        raise InputError(
            f"{root} holds no picture where YOLO keeps them, expected images/train or train/images; name it"
        )


def _settings(file: Path | None) -> dict[str, Any]:
    """data.yaml as plain values; empty where there is none."""
    if file is None:
        return {}
    try:
        import yaml
    except ImportError:
        raise UnavailableError("data.yaml needs PyYAML; `pip install 'paligemma[train]'`") from None
    try:
        settings = yaml.safe_load(read_text(file, limit=1 << 20))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{file} is no YAML ({' '.join(str(error).split())[:200]}); mend it") from error
    if not isinstance(settings, dict):
        raise InputError(f"{file} holds a {type(settings).__name__}, expected names and folders; mend it")
    return settings


def _class_names(root: Path, settings: dict[str, Any]) -> list[str]:
    names = settings.get("names")
    if isinstance(names, dict) and all(isinstance(key, int) and 0 <= key < 100_000 for key in names):
        names = [names.get(number, f"class {number}") for number in range(max(names, default=-1) + 1)]
    file = next((root / name for name in _NAMES if (root / name).is_file()), None)
    if names is None and file is not None:
        names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not names and "names" in settings:
        return []  # a data set without a single object
    if not isinstance(names, list) or not names:
        raise InputError(f"{root} names no classes, expected `names` in data.yaml or a classes.txt; add one")
    return [" ".join(str(name).split()) for name in names]


def _places(root: Path, settings: dict[str, Any], reading: Reading) -> list[tuple[str, Path]]:
    """(split, folder or list of pictures): as data.yaml says, else as folders are usually called."""
    base = root / str(settings.get("path", ".") or ".")
    base = base if base.is_dir() and (reading.allow_outside or reading.inside(base)) else root
    found = []
    for key in SPLITS:
        given = settings.get(key)
        for name in given if isinstance(given, list) else [given] if given else []:
            places = [base / str(name), root / str(name), root / str(name).removeprefix("../")]  # Roboflow's ../train
            place = next((p for p in places if p.exists() and (reading.allow_outside or reading.inside(p))), None)
            if place is not None and (SPLITS[key], place) not in found:
                found.append((SPLITS[key], place))
    if len({place for _, place in found}) < len(found):  # train and val are one folder: it has no splits
        found = [("", place) for place in dict.fromkeys(place for _, place in found)]
    if found:
        return found
    usual = [(p, p) for p in sorted(root.glob("images/*"))] + [(p.parent, p) for p in sorted(root.glob("*/images"))]
    found = [(split, place) for named, place in usual if place.is_dir() and (split := split_of_folder(named))]
    return found or [("", root / "images" if (root / "images").is_dir() else root)]


def _pictures(place: Path, root: Path, reading: Reading) -> Iterator[Path]:
    """The pictures of a folder and those below, or those a text file lists."""
    if place.suffix.lower() == ".txt":
        for number, line in enumerate(read_text(place).splitlines(), 1):
            if line.strip():
                where = f"{place}, line {number}"
                picture = reading.attempt(where, reading.picture, line.strip(), root, place.parent)
                if picture is not None:
                    yield picture
        return
    for file in sorted(place.rglob("*")):
        if file.suffix.lower() in PICTURES and not file.name.startswith(".") and file.is_file():
            yield file


def _picture(reading: Reading, path: Path, names: list[str]) -> LabelledImage:
    reading.picture(path.name, path.parent)
    size = reading.size(path)
    file = _label_file(path)
    boxes = []
    for number, line in enumerate(read_text(file).splitlines() if file.is_file() else (), 1):
        if line.strip():
            try:
                boxes.append(_box(reading, line, names, size))
            except InputError as error:
                raise InputError(f"{file.name}, line {number}: {error}") from error
    return LabelledImage(path=path, boxes=tuple(boxes), size_px=size)


def _label_file(picture: Path) -> Path:
    """`images/train/a.jpg` -> `labels/train/a.txt`, or the text beside the picture."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    file = Path(*parts).with_suffix(".txt")
    return file if file.is_file() else picture.with_suffix(".txt")


def _box(reading: Reading, line: str, names: list[str], size: tuple[int, int]) -> TrueBox:
    words = line.split()
    try:
        values = [float(word) for word in words[1:]]
        if not words[0].isdecimal() or len(words[0]) > 6:
            raise ValueError(words[0])
    except ValueError:
        raise InputError(f"found {line[:80]!r}, expected a class number and fractions; mend the line") from None
    number = int(words[0])
    if number >= len(names):
        raise InputError(f"class {number} is none of the {len(names)} named classes; add it to data.yaml")
    if not all(-1 <= value <= 2 for value in values):
        raise InputError(f"found {line[:80]!r}, expected fractions 0 to 1 and no pixels; divide by width and height")
    width, height = size
    if len(values) == 4:
        x, y, w, h = values
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        return reading.box(names[number], corners, size)
    if len(values) == 5:
        raise InputError("the line has 5 numbers, as predictions with a score; leave the score out")
    if len(values) < 6 or len(values) % 2:
        raise InputError(f"the line has {len(values)} numbers, expected 4 of a box or pairs of an outline; mend it")
    ring = tuple(value * side for value, side in zip(values, [width, height] * (len(values) // 2), strict=True))
    return reading.box(names[number], extents((ring,)), size, polygons=(ring,))


def write(entries: Iterable[Entry], writing: Writing) -> None:
    """`images/SPLIT/`, `labels/SPLIT/`, `data.yaml` and `classes.txt`."""
    splits = by_split(entries)
    for split, pictures in splits.items():
        name = _FOLDERS.get(split, split)
        folder(writing.folder / "labels" / name)
        for picture in map(labelled, pictures):
            placed = Path(writing.picture(picture.path, f"images/{name}", always=True))
            lines = [_line(box, picture.size_px, writing.classes.number(box.label)) for box in picture.boxes]
            with whole_file(writing.folder / "labels" / name / f"{placed.stem}.txt") as file:
                file.writelines(lines)
    with whole_file(writing.folder / "classes.txt") as file:
        file.writelines(f"{name}\n" for name in writing.classes.names)
    with whole_file(writing.folder / "data.yaml") as file:
        file.write("path: .\n")
        for split in splits:
            file.write(f"{_FOLDERS.get(split, split)}: images/{_FOLDERS.get(split, split)}\n")
        file.write("names:\n")
        for number, label in enumerate(writing.classes.names):
            file.write(f"  {number}: {json.dumps(label, ensure_ascii=False)}\n")
    writing.written += [writing.folder / "data.yaml", writing.folder / "classes.txt"]


def _line(box: TrueBox, size_px: tuple[int, int], number: int) -> str:
    width, height = size_px
    ring = _outline(box, size_px)
    if ring is None:
        x1, y1, x2, y2 = box.xyxy
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    else:
        values = [value / side for value, side in zip(ring, [width, height] * (len(ring) // 2), strict=True)]
    return " ".join([str(number), *(f"{value:.6f}" for value in values)]) + "\n"


def _outline(box: TrueBox, size_px: tuple[int, int]) -> tuple[float, ...] | None:
    """One ring round the object: its only polygon, or the exact outlines of its pixels joined."""
    polygons: Polygons = box.polygons or ()
    if len(polygons) == 1:
        return polygons[0]
    mask = box.mask(size_px)
    rings = outlines(mask.array()) if mask is not None else []
    return tuple(np.ravel(as_one(rings)).tolist()) if rings else None
