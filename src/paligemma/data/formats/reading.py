"""What all readers share: where pictures may lie, which boxes are sound, and a list of everything that is wrong.

A reader never stops at the first bad row: `Reading.attempt` keeps its reason and goes on, and who asked for the data
decides at the end (`Reading.stop_if_bad`). Pictures must lie below the data's folder, or below the one named for them;
links are followed before that is judged. Only the headers of pictures are read.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from paligemma.config import did_you_mean
from paligemma.data.example import Example
from paligemma.data.labelled import LabelledImage, Polygons, TrueBox
from paligemma.errors import InputError
from paligemma.images import FORMATS, MAX_PIXELS, ORIENTATION_TAG
from paligemma.results import rle

PICTURES = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm".split())
SPLITS = {"train": "train", "training": "train", "val": "valid", "valid": "valid", "validation": "valid",
          "dev": "valid", "test": "test", "testing": "test"}  # fmt: skip
REJECTS = "rejects.jsonl"  # what was left out of a data set, see `writing.write_rejects`
TOLD = 10  # problems that are told one by one
SLACK_PX, SLACK_SHARE = 2.0, 0.01  # how far a box may leave its picture and is cut; farther is wrong
_FAR = 1e7
_ENDLESS_RUN = re.compile("[P-o]{14}")  # more groups of five bits than any run of pixels needs
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:")

Result = TypeVar("Result")


class Entry(NamedTuple):
    """One picture or one training row, and its split: `train`, `valid`, `test`, or "" where the data does not say."""

    split: str
    item: LabelledImage | Example


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that cannot be used: its file and line or id, and a sentence why."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


class Reading:
    """The options of one reading, and what it learns on the way.

    Args:
        root: the folder of the data; pictures lie below it.
        images: another folder in which pictures are looked for, and below which they may lie.
        allow_outside: pictures may lie anywhere.
        label: of objects whose format has no labels. prefix: the prompt of rows whose format has none.

    Attributes:
        problems: what could not be used.
        classes: names of classes in the data's own order, where it lists them.
        cut: boxes that reached out of their picture by a hair and were cut.
        ignored: what was passed over on purpose, and how often.
    """

    def __init__(
        self, root: Path, *, images: Path | None = None, allow_outside: bool = False, label: str | None = None,
        prefix: str | None = None,
    ):  # fmt: skip
        self.root, self.images, self.allow_outside, self.label, self.prefix = root, images, allow_outside, label, prefix
        self._roots = [os.path.realpath(folder) for folder in (root, images) if folder is not None]
        self.problems: list[Problem] = []
        self.classes: list[str] = []
        self.cut = 0
        self.ignored: Counter[str] = Counter()

    # --- what is wrong ---

    def attempt(self, where: str, make: Callable[..., Result], *arguments: Any) -> Result | None:
        """What `make` makes, or None after its reason was kept."""
        try:
            return make(*arguments)
        except InputError as error:
            self.problems.append(Problem(where=where, why=str(error)))
        except OSError as error:
            self.problems.append(Problem(where=where, why=f"cannot be read ({error.strerror or error}); mend the file"))
        return None

    def stop_if_bad(self) -> None:
        """
        Raises:
            InputError: there are problems; the first `TOLD` and their number are told.
        """
        if len(self.problems) == 1:
            raise InputError(str(self.problems[0]))
        if self.problems:
            first = "".join(f"\n  {problem}" for problem in self.problems[:TOLD])
            more = len(self.problems) - TOLD
            rest = f"\n  and {more} more" if more > 0 else ""
            raise InputError(f"{len(self.problems)} entries cannot be used, mend or leave them out:{first}{rest}")

    # --- pictures ---

    def picture(self, name: Any, *folders: Path) -> Path:
        """The file of a picture, looked for in `images`, or else in the folders, in order.

        Raises:
            InputError: no name, an address, outside the data's folder, or not there.
        """
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise InputError(f"found {name!r} where a picture's file name is expected; name the file")
        if _ADDRESS.match(name):
            raise InputError(
                f"the picture {_short(name)!r} is an address, expected a file; download it and name the file"
            )
        places = ([self.images] if self.images else []) + list(folders[:1] if ".." in Path(name).parts else folders)
        outside = False
        for place in places:
            for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
                file = place / spelled
                if not self.allow_outside and not self.inside(file):
                    outside = True
                elif file.is_file():
                    return file
        if outside:
            raise InputError(
                f"the picture {_short(name)!r} lies outside the folder of the data; move it there, name its folder "
                "with --images, or trust the file with --allow-outside"
            )
        shown = ", ".join(dict.fromkeys(str(place) for place in places))
        raise InputError(f"there is no picture {_short(name)!r} in {shown}; put it there, or name its folder")

    def inside(self, file: Path) -> bool:
        """Whether a file lies below the folder of the data, or that of the pictures, once links are followed."""
        real = os.path.realpath(file)
        return any(os.path.commonpath([real, root]) == root for root in self._roots)

    def size(self, picture: Path, said: tuple[Any, Any] | None = None) -> tuple[int, int]:
        """Width and height of the upright picture, from its header.

        Args:
            said: width and height that the labels speak of, compared where both are numbers above 0.

        Raises:
            InputError: no picture, or one of another size than the labels say.
        """
        size = upright_size(picture)
        if said is not None and all(is_number(side) and side > 0 for side in said) and tuple(said) != size:
            turned = "; its EXIF turns it, and the labels do not" if tuple(said) == size[::-1] else ""
            raise InputError(
                f"{picture.name} has {size[0]} x {size[1]} px, the labels say {said[0]} x {said[1]}{turned}; "
                "use the picture that was labelled"
            )
        return size

    # --- objects ---

    def name(self, label: Any) -> str:
        """A label with single spaces.

        Raises:
            InputError: no words.
        """
        words = " ".join(label.split()) if isinstance(label, str) else ""
        if not words:
            raise InputError(f"found the label {label!r}, expected words; name what is in the box")
        return words

    def box(
        self, label: Any, corners: Sequence[Any], size_px: tuple[int, int], *, polygons: Polygons | None = None,
        runs: str | None = None, crowd: bool = False,
    ) -> TrueBox:  # fmt: skip
        """A sound object: four finite numbers, an area, inside the picture; a hair outside is cut and counted.

        Args:
            corners: left, top, right, bottom in pixels.

        Raises:
            InputError: anything else.
        """
        if len(corners) != 4 or not all(is_number(corner) for corner in corners):
            raise InputError(f"found the box {_short(list(corners))}, expected four numbers in pixels; mend it")
        left, top, right, bottom = map(float, corners)
        if right <= left or bottom <= top:
            raise InputError(
                f"box {_short(list(corners))} has no area, expected right > left and bottom > top; give corners in "
                "pixels, left and top first"
            )
        width, height = size_px
        slack_x, slack_y = max(SLACK_PX, SLACK_SHARE * width), max(SLACK_PX, SLACK_SHARE * height)
        inside = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
        if (
            min(left + slack_x, top + slack_y, width + slack_x - right, height + slack_y - bottom) < 0
            or inside[2] <= inside[0]
            or inside[3] <= inside[1]
        ):
            raise InputError(
                f"box {_short(list(corners))} lies outside its picture of {width} x {height} px; give pixels of that "
                "picture, left and top first"
            )
        self.cut += inside != (left, top, right, bottom)
        return TrueBox(label=self.name(label), xyxy=inside, polygons=polygons, runs=runs, crowd=crowd)


def upright_size(picture: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown, from its header.

    Raises:
        InputError: none that can be read.
    """
    try:
        with Image.open(picture, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{picture} is no picture that can be read ({_short(str(error))}); get a fresh copy"
        ) from error
    if width * height > MAX_PIXELS:
        raise InputError(f"{picture} has {width} x {height} px, at most {MAX_PIXELS:,} are read; shrink it")
    return (height, width) if turned else (width, height)


def is_number(value: Any) -> bool:
    """A finite number of pixels, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _FAR


def _are_numbers(values: list[Any]) -> bool:
    """`is_number` of all of them, quickly: a data set has millions."""
    return {*map(type, values)} <= {int, float} and all(map(math.isfinite, values)) and max(map(abs, values)) < _FAR


def as_object(
    value: Any, needed: Iterable[str], optional: Iterable[str] = (), *, open_ended: bool = False
) -> Mapping[str, Any]:
    """`value` as an object with the needed keys, and none but the optional ones unless `open_ended`.

    Raises:
        InputError: no object, a key too few or too many.
    """
    needed, known = list(needed), [*needed, *optional]
    if not isinstance(value, dict):
        raise InputError(f"found {_short(value)}, expected an object with {', '.join(sorted(needed))}; mend it")
    if not open_ended:
        for key in value:
            if key not in known:
                raise InputError(f"unknown key {_short(key)!r}{did_you_mean(key, known)}")
    if missing := [key for key in needed if key not in value]:
        raise InputError(f"{' and '.join(missing)} missing, expected {', '.join(sorted(needed))}; add it")
    return value


def as_polygons(value: Any) -> Polygons:
    """Polygons as tuples.

    Raises:
        InputError: not lists of at least three x, y pairs of finite numbers.
    """
    sound = isinstance(value, list) and value and all(isinstance(ring, list) for ring in value)
    if not sound or not all(len(ring) >= 6 and len(ring) % 2 == 0 and _are_numbers(ring) for ring in value):
        raise InputError(
            f"found the polygons {_short(value)}, expected lists of x, y pairs in pixels, at least three; mend them"
        )
    return tuple(tuple(map(float, ring)) for ring in value)


def as_runs(value: Any, size_px: tuple[int, int]) -> str:
    """COCO's run lengths, plain or compressed, as compressed text, once they are known to fill the picture.

    Raises:
        InputError: anything else.
    """
    size, counts = (value.get("size"), value.get("counts")) if isinstance(value, dict) else (None, None)
    width, height = size_px
    if size != [height, width]:
        raise InputError(f"run lengths of size {size!r}, expected [{height}, {width}] (height, width); mend them")
    if isinstance(counts, list) and all(type(run) is int and 0 <= run <= width * height for run in counts):
        runs = counts
    elif isinstance(counts, str) and not _ENDLESS_RUN.search(counts):
        runs = rle.counts_runs(counts)
    else:
        raise InputError(f"run lengths {_short(counts)}, expected COCO's text or a list of counts; mend them")
    if any(run < 0 for run in runs) or sum(runs) != width * height or not sum(runs[1::2]):
        raise InputError(f"run lengths cover {sum(runs)} pixels, expected {width * height} and an object; mend them")
    return counts if isinstance(counts, str) else rle.counts_text(np.array(runs))


def extents(polygons: Polygons) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of polygons."""
    x = [value for ring in polygons for value in ring[::2]]
    y = [value for ring in polygons for value in ring[1::2]]
    return min(x), min(y), max(x), max(y)


# --- files of a data set ---------------------------------------------------------------------------------------------


def split_of(name: str) -> str:
    """The split a file or folder name speaks of: `instances_val2017` -> `valid`; "" for none or several."""
    found = {SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def split_of_folder(folder: Path) -> str:
    """The split a folder is for: `train`, `val2017`; "" where its name says something else as well."""
    return SPLITS.get(re.sub(r"[\W\d_]+$", "", folder.name.lower()), "")


def label_files(path: Path, suffixes: Sequence[str], prefer: str = "") -> list[tuple[str, Path]]:
    """(split, file) of every file of labels: the file itself, those in a folder, or those in the folders below it.

    Args:
        suffixes: in lower case, such as `.json`.
        prefer: where a folder holds files whose names begin so, the others are passed over.

    Raises:
        InputError: none, or several that are not told apart by their splits.
    """
    if not path.is_dir():
        return [(split_of(path.stem) or split_of_folder(path.parent), path)]
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = _files_in(path, suffixes) or [file for folder in folders for file in _files_in(folder, suffixes)]
    found = [file for file in found if prefer and file.name.startswith(prefer)] or found
    if not found:
        raise InputError(f"{path} holds no {' or '.join(suffixes)} file of labels; name the file itself")
    splits = [
        (split_of(file.stem) or (split_of_folder(file.parent) if file.parent != path else ""), file) for file in found
    ]
    if len(found) > 1 and (len({split for split, _ in splits}) < len(found) or not all(split for split, _ in splits)):
        names = ", ".join(str(file.relative_to(path)) for file in found[:5])
        raise InputError(
            f"expected one file of labels, or one for each split, in {path}, found {names}; name the file itself"
        )
    return splits


def _files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(
        file for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith((".", REJECTS)) and file.is_file()
    )  # fmt: skip


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder by name."""
    return _files_in(folder, tuple(PICTURES)) if folder.is_dir() else []


def _short(value: Any, limit: int = 80) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
