"""Folders of masks: `images/` and `masks/`, or the same below `train/`, `valid/`, `test/`.

One object a file, black and white, of the picture's size:

    masks/PICTURE/LABEL-1.png      masks/LABEL/PICTURE-1.png      masks/PICTURE-01-LABEL-mask.png (as `segment` saves)

or one picture of numbers for each, `masks/PICTURE.png`: each grey level, palette index or 16-bit number but 0 is an
object (255 of a palette is none). With `masks/classes.txt`, line k naming number k from 1, numbers are classes; else
all objects have the label given with `--label`. The box is the tightest around the mask. Written as the first form,
exactly; signs that a file name cannot hold become %XX.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from paligemma.data.formats.reading import Entry, Problem, Reading, pictures_in, split_of_folder
from paligemma.data.formats.strict import read_text
from paligemma.data.formats.writing import Writing, by_split, labelled
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import InputError
from paligemma.results import Mask
from paligemma.results.files import folder, told
from paligemma.tasks.mask_sources import mask_of, read_instances

MASKS, CLASSES = "masks", "classes.txt"
_NUMBERED = re.compile(r"[-_ ]?\d+$")
_SAVED = re.compile(r"(?P<stem>.+)-\d{2,}-(?P<label>.+)-mask")
_UNSAFE = re.compile(r'[<>:"/\\|?*%\x00-\x1f]|^[. ]|[. ]$')


def detect(path: Path) -> bool:
    """Whether there is a folder `masks` in it or right below."""
    return path.is_dir() and any((place / MASKS).is_dir() for place in (path, *path.glob("*")))


def read(path: Path, reading: Reading) -> Iterator[Entry]:
    """The pictures by name, objects by the names of their files or by their numbers.

    Raises:
        InputError: no folder of masks.
    """
    places = [path, *sorted(place for place in path.glob("*") if place.is_dir())]
    places = [place for place in places if (place / MASKS).is_dir()]
    if not places:
        raise InputError(f"{path} holds no folder `{MASKS}`, expected it beside `images`; name the folder above them")
    for place in places:
        split = split_of_folder(place) if place != path else ""
        pictures = pictures_in(reading.images or place / "images") or pictures_in(place)
        of_picture = _masks_of(place / MASKS, {picture.stem for picture in pictures}, reading)
        classes = _classes(place / MASKS, reading)
        for picture in pictures:
            item = reading.attempt(str(picture), _picture, reading, picture, of_picture.get(picture.stem, []), classes)
            if item is not None:
                yield Entry(split, item)


def _classes(masks: Path, reading: Reading) -> list[str]:
    file = masks / CLASSES
    names = [line.strip() for line in read_text(file).splitlines()] if file.is_file() else []
    reading.classes += [name for name in names if name and name not in reading.classes]
    return names


def _masks_of(masks: Path, stems: set[str], reading: Reading) -> dict[str, list[tuple[Path, str | None]]]:
    """Stem of a picture -> its mask files, each with its label, or None for a picture of numbers."""
    found: dict[str, list[tuple[Path, str | None]]] = {}
    for file in sorted([*pictures_in(masks), *(f for place in sorted(masks.glob("*")) for f in pictures_in(place))]):
        stem, label = _told_by_name(file, masks, stems)
        if stem in stems:
            found.setdefault(stem, []).append((file, label))
        else:
            why = f"belongs to no picture, expected one called {stem!r}; put it into images"
            reading.problems.append(Problem(where=str(file), why=why))
    return found


def _told_by_name(file: Path, masks: Path, stems: set[str]) -> tuple[str, str | None]:
    if file.parent != masks:
        if file.parent.name in stems:
            return file.parent.name, unquote(_NUMBERED.sub("", file.stem))
        return (file.stem if file.stem in stems else _NUMBERED.sub("", file.stem)), unquote(file.parent.name)
    if file.stem not in stems and (saved := _SAVED.fullmatch(file.stem)):
        return saved["stem"], saved["label"]
    return (file.stem if file.stem in stems else re.sub("[-_]mask$", "", file.stem)), None


def _picture(
    reading: Reading, picture: Path, files: list[tuple[Path, str | None]], classes: list[str]
) -> LabelledImage:
    reading.picture(picture.name, picture.parent)
    size = reading.size(picture)
    boxes: list[TrueBox] = []
    for file, label in files:
        reading.picture(file.name, file.parent)
        try:
            if label is None:
                boxes += [_box(reading, name, mask, size) for name, mask in _numbered(reading, file, classes)]
            else:
                boxes.append(_box(reading, label or _label(reading), mask_of(file), size))
        except InputError as error:
            raise InputError(f"{file.name}: {error}") from error
    return LabelledImage(path=picture, boxes=tuple(boxes), size_px=size)


def _numbered(reading: Reading, file: Path, classes: list[str]) -> Iterator[tuple[str, Mask]]:
    """(label, mask) of each number in a picture of numbers."""
    with Image.open(file, formats=("PNG", "TIFF", "BMP", "GIF")) as image:
        palette = image.mode in ("P", "PA")
        eight_bits = image.mode == "L"
    instances = read_instances(file, background=(0, 255) if palette else (0,))
    if eight_bits and not classes and 255 in instances and len(instances) > 1:
        raise InputError("it has grey levels up to 255, which look like soft edges, expected numbers of objects; "
                         "save one object a file")  # fmt: skip
    for number, mask in instances.items():
        if classes and number > len(classes):
            raise InputError(
                f"it holds number {number}, expected at most the {len(classes)} of {CLASSES}; add its name"
            )
        yield (classes[number - 1] if classes else _label(reading)), mask


def _label(reading: Reading) -> str:
    if reading.label is None:
        raise InputError(f"nothing says what its objects are, expected names of files, {CLASSES} or --label; give one")
    return reading.label


def _box(reading: Reading, label: str, mask: Mask, size: tuple[int, int]) -> TrueBox:
    if mask.image_size_px != size:
        width, height = mask.image_size_px
        raise InputError(f"the mask has {width} x {height} px, expected the picture's {size[0]} x {size[1]}; resize it")
    if not mask.area_px:
        raise InputError("the mask is empty, expected an object; remove the file")
    pixels = mask.array()
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    corners = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return reading.box(label, corners, size, runs=str(mask.rle()["counts"]))


def write(entries: Iterable[Entry], writing: Writing) -> None:
    """`SPLIT/images/` and `SPLIT/masks/PICTURE/LABEL-NUMBER.png`.

    Raises:
        InputError: an object without a mask.
    """
    for split, pictures in by_split(entries).items():
        writing.written.append(folder(writing.folder / split / MASKS))
        for picture in map(labelled, pictures):
            placed = Path(writing.picture(picture.path, f"{split}/images", always=True))
            for number, box in enumerate(picture.boxes, 1):
                mask = box.mask(picture.size_px)
                if mask is None or not mask.area_px:
                    raise InputError(f"a {box.label!r} in {picture.path} has no mask; export to another format")
                name = _UNSAFE.sub(lambda found: f"%{ord(found.group()):02X}", box.label)
                target = folder(writing.folder / split / MASKS / placed.stem) / f"{name}-{number:04d}.png"
                with told(target):
                    Image.fromarray(mask.array()).save(target)
