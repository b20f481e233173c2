"""PASCAL VOC: an XML file for each picture, boxes in whole pixels.

In: a folder with `Annotations/`, `JPEGImages/` and perhaps `ImageSets/Main/train.txt`, or XML and pictures side by side
(in `train/`, `valid/`, `test/`). Pixels count from 1 and both edges are inside: `xmin = 1, xmax = 20` is left 0, right
20. Written rounded to whole pixels; shapes are left out. XML is read by defusedxml: entities and document types, which
could name other files or grow without end, are refused. Source: the VOC2012 development kit.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from paligemma.data.formats.reading import PICTURES, SPLITS, Entry, Reading, split_of_folder
from paligemma.data.formats.strict import read_bytes, read_text
from paligemma.data.formats.writing import Writing, by_split, labelled
from paligemma.data.labelled import LabelledImage, TrueBox
from paligemma.errors import InputError, UnavailableError
from paligemma.results.files import folder
from paligemma.results.files import writing as whole_file

EDGES = ("xmin", "ymin", "xmax", "ymax")
_FOLDERS = {"train": "train", "valid": "val", "test": "test"}  # as ImageSets calls them
_MAX_XML = 16 << 20


def detect(path: Path) -> bool:
    """Whether it is an XML file, or a folder with `Annotations/` or XML files in it or right below."""
    if not path.is_dir():
        return path.suffix.lower() == ".xml"
    return any(next(path.glob(pattern), None) for pattern in ("*.xml", "*/*.xml"))


def read(path: Path, reading: Reading) -> Iterator[Entry]:
    """The pictures by name of their XML files; splits as `ImageSets/Main` or the folders say.

    Raises:
        InputError: no XML file. UnavailableError: defusedxml is not installed.
    """
    root = path if path.is_dir() else path.parent
    files = sorted([*root.glob("*.xml"), *root.glob("*/*.xml")]) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{root} holds no XML file, expected Annotations/*.xml; name the folder")
    splits = _splits(root)
    for file in files:
        split = splits.get(file.stem) or (split_of_folder(file.parent) if file.parent != root else "")
        picture = reading.attempt(str(file), _picture, reading, file)
        if picture is not None:
            yield Entry(split, picture)


def _splits(root: Path) -> dict[str, str]:
    """Stem -> split, by the lists in ImageSets/Main."""
    found: dict[str, str] = {}
    for file in sorted((root / "ImageSets" / "Main").glob("*.txt")):
        if file.stem in SPLITS:
            for line in read_text(file).splitlines():
                found.setdefault(line.split()[0] if line.split() else "", SPLITS[file.stem])
    return found


def _parsed(file: Path) -> Any:
    try:
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError:
        raise UnavailableError("reading XML safely needs defusedxml; `pip install 'paligemma[train]'`") from None
    data = read_bytes(file, _MAX_XML)
    try:
        return fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise InputError(
            f"the XML declares a document type or entity ({type(error).__name__}), which is never needed; remove it"
        ) from error
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"no XML ({error}); mend or remove it") from error


def _picture(reading: Reading, file: Path) -> LabelledImage:
    tree = _parsed(file)
    if tree.tag != "annotation":
        raise InputError(f"found <{tree.tag}>, expected <annotation>; this is no VOC file")
    path = _find(reading, file, (tree.findtext("filename") or "").strip())
    size = reading.size(path, tuple(_number(tree.findtext(f"size/{side}")) for side in ("width", "height")))  # type: ignore[arg-type]
    boxes = []
    for number, row in enumerate(tree.iter("object"), 1):
        edges = [_number(row.findtext(f"bndbox/{edge}")) for edge in EDGES]
        try:
            if None in edges:
                raise InputError(f"found the edges {edges}, expected {', '.join(EDGES)} in pixels; mend the file")
            left, top, right, bottom = edges
            boxes.append(reading.box(row.findtext("name"), (left - 1, top - 1, right, bottom), size))  # type: ignore[operator]
        except InputError as error:
            raise InputError(f"object {number}: {error}") from error
    return LabelledImage(path=path, boxes=tuple(boxes), size_px=size)


def _find(reading: Reading, file: Path, name: str) -> Path:
    """The picture by its file name, or one that is called as the XML file."""
    above = file.parent.parent
    usual = (above / "JPEGImages", above / "images", file.parent / "images")
    places = (file.parent, *(place for place in usual if place.is_relative_to(reading.root)))
    own = [f"{file.stem}{suffix}" for suffix in sorted(PICTURES)]
    twin = next(
        (twin for twin in own if any((place / twin).is_file() for place in (reading.images, *places) if place)), None
    )
    missing = name and not any((place / name).is_file() for place in (reading.images, *places) if place)
    return reading.picture(twin if twin and (missing or not name) else name, *places)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < 1e7 else None


def write(entries: Iterable[Entry], writing: Writing) -> None:
    """`Annotations/`, `JPEGImages/` and `ImageSets/Main/`."""
    for split, pictures in by_split(entries).items():
        stems = []
        for picture in map(labelled, pictures):
            placed = Path(writing.picture(picture.path, "JPEGImages", always=True))
            stems.append(placed.stem)
            with whole_file(folder(writing.folder / "Annotations") / f"{placed.stem}.xml") as file:
                file.write(_xml(picture, placed.name))
        listed = folder(writing.folder / "ImageSets" / "Main") / f"{_FOLDERS.get(split, split)}.txt"
        with whole_file(listed) as file:
            file.writelines(f"{stem}\n" for stem in stems)
        writing.written.append(listed)


def _xml(picture: LabelledImage, name: str) -> str:
    width, height = picture.size_px
    lines = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for box in picture.boxes:
        edges = "".join(f"<{n}>{v}</{n}>" for n, v in zip(EDGES, _whole(box, width, height), strict=True))
        lines += [
            "  <object>", f"    <name>{escape(box.label)}</name>", "    <pose>Unspecified</pose>",
            "    <truncated>0</truncated>", "    <difficult>0</difficult>", f"    <bndbox>{edges}</bndbox>",
            "  </object>",
        ]  # fmt: skip
    return "\n".join([*lines, "</annotation>", ""])


def _whole(box: TrueBox, width: int, height: int) -> tuple[int, int, int, int]:
    """xmin, ymin, xmax, ymax counted from 1, both inside, at least one pixel."""
    left, top, right, bottom = (round(edge) for edge in box.xyxy)
    left, top = min(left, width - 1), min(top, height - 1)
    return left + 1, top + 1, max(right, left + 1), max(bottom, top + 1)
