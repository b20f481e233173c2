"""The formats people keep labelled data in: one file each, reading and writing; `FORMATS` lists them.

    entries, reading = read("photos/", "yolo")           entries of pictures with objects, or of training rows
    write(entries, "coco", Path("out"))                  the other way

`entries` are `Entry(split, item)` with a `LabelledImage` or an `Example`. A new format is one file and one line in the
table. What all share is in `reading`, `writing` and `strict`; how pictures become training rows in `data.convert`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from paligemma.config import did_you_mean
from paligemma.data.formats import boxes, captions, coco, jsonl, labelstudio, masks, voc, yolo
from paligemma.data.formats.reading import Entry, Problem, Reading
from paligemma.data.formats.writing import Writing, by_split
from paligemma.data.labelled import LabelledImage
from paligemma.errors import InputError, UsageError

__all__ = ["FORMATS", "Entry", "Format", "Problem", "Reading", "Writing", "by_split", "detect", "read", "read_labelled",
           "write"]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format.

    Attributes:
        what: a line for people.
        rows: training rows; otherwise labelled pictures.
        read: (file or folder, `Reading`) -> entries; what is wrong in them goes to `Reading.problems`.
        write: (entries, `Writing`).
        detect: whether a file or folder looks like it; never raises.
    """

    what: str
    rows: bool = False
    read: Callable[[Path, Reading], Iterator[Entry]]
    write: Callable[[Iterable[Entry], Writing], None]
    detect: Callable[[Path], bool]


FORMATS: dict[str, Format] = {
    "masks": Format(
        what="folders of mask pictures beside images", read=masks.read, write=masks.write, detect=masks.detect
    ),
    "jsonl": Format(
        what="training rows {image, prefix, suffix}", rows=True, read=jsonl.read, write=jsonl.write, detect=jsonl.detect
    ),
    "boxes": Format(what="JSONL of {image, boxes}", read=boxes.read, write=boxes.write, detect=boxes.detect),
    "coco": Format(
        what="COCO .json: boxes, polygons, run lengths", read=coco.read, write=coco.write, detect=coco.detect
    ),
    "labelstudio": Format(
        what="Label Studio's JSON export", read=labelstudio.read, write=labelstudio.write, detect=labelstudio.detect
    ),
    "yolo": Format(what="YOLO text files: boxes or outlines", read=yolo.read, write=yolo.write, detect=yolo.detect),
    "voc": Format(what="PASCAL VOC XML files: boxes", read=voc.read, write=voc.write, detect=voc.detect),
    "csv": Format(
        what="CSV or TSV of image, caption", rows=True, read=captions.read, write=captions.write, detect=captions.detect
    ),
}  # fmt: skip


def detect(path: Path) -> str:
    """The name of the format a file or folder has.

    Raises:
        InputError: nothing is there, none is recognised, or several.
    """
    if not path.exists():
        raise InputError(f"there is no file or folder {path}; check the path")
    found = [name for name, one in FORMATS.items() if one.detect(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{path} could be {' or '.join(found)}; name the format or the file itself")
    raise InputError(f"{path} has none of the known formats ({', '.join(FORMATS)}); name the format or the file itself")


def read(
    path: "str | Path", format: str | None = None, *, images: "str | Path | None" = None, allow_outside: bool = False,
    split: str | None = None, label: str | None = None, prefix: str | None = None,
) -> tuple[list[Entry], Reading]:  # fmt: skip
    """Everything usable in a file or folder, and the reading with its problems; `Reading.stop_if_bad` raises for them.

    Args:
        format: a name of `FORMATS`; by default recognised.
        images: folder of the pictures, where they lie elsewhere.
        allow_outside: pictures may lie anywhere on this machine.
        split: only this one; entries of data without splits are given this one.
        label: of objects whose format has no labels. prefix: the prompt of rows whose format has none.

    Raises:
        UsageError: an unknown format. InputError: nothing there, not of this format, or no such split.
    """
    path = Path(path)
    name = format or detect(path)
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}{did_you_mean(name, FORMATS)}")
    if not path.exists():
        raise InputError(f"there is no file or folder {path}; check the path")
    if images is not None and not Path(images).is_dir():
        raise InputError(f"there is no folder {images} of pictures; check the path")
    reading = Reading(
        path if path.is_dir() else path.parent, images=None if images is None else Path(images),
        allow_outside=allow_outside, label=label, prefix=prefix,
    )  # fmt: skip
    entries = list(FORMATS[name].read(path, reading))
    if split is not None:
        found = sorted({entry.split for entry in entries if entry.split})
        entries = [Entry(split, entry.item) for entry in entries if entry.split in ("", split)]
        if not entries and found:
            raise InputError(f"there is no split {split!r} in {path}, found {', '.join(found)}; name one of them")
    if not entries and not reading.problems:
        raise InputError(f"{path} lists no picture; give a file or folder with labels")
    return entries, reading


def write(
    entries: Iterable[Entry], format: str, out: "str | Path", *, copy: bool = False, classes: Iterable[str] = ()
) -> Writing:
    """Writes entries of labelled pictures (or training rows, where the format holds those).

    Args:
        out: a folder; for formats of one file a split also that file.
        copy: copies pictures instead of linking them.
        classes: names of classes in order.

    Raises:
        UsageError: an unknown format, or one that cannot hold the entries.
        ResourceError: something cannot be written.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    writing = Writing(Path(out), copy=copy, classes=classes)
    FORMATS[format].write(entries, writing)
    return writing


def read_labelled(path: "str | Path", format: str | None = None) -> list[LabelledImage]:
    """The labelled pictures of a file or folder in its order, without crowds, for measuring and calibrating.

    Args:
        format: a name of `FORMATS`; by default recognised.

    Raises:
        InputError: not there, no known format, rows of text, or anything wrong in it.
    """
    entries, reading = read(path, format)
    reading.stop_if_bad()
    pictures = []
    for entry in entries:
        item = entry.item
        if not isinstance(item, LabelledImage):
            raise InputError(
                f"{path} holds rows of text, expected pictures with boxes; give COCO, YOLO or another of those"
            )
        boxes = tuple(box for box in item.boxes if not box.crowd)
        pictures.append(LabelledImage(path=item.path, boxes=boxes, size_px=item.size_px))
    return pictures
