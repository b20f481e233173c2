"""What all writers share: where files go, under which names pictures are found from there, class numbers.

A picture below the output folder is named where it lies. Another one gets a hard link in the folder, which takes no
space and no rights to the original's place, or with `copy` a copy; so whatever is written can be moved and trusted as a
whole, and no file names a picture outside.
"""

import filecmp
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from paligemma.data.formats.reading import Entry, Problem
from paligemma.data.labelled import LabelledImage
from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.results.files import folder, told, writing
from paligemma.results.labels import Classes

UNSPLIT = "train"  # where entries go whose data does not say


class Writing:
    """One output.

    Args:
        out: a folder, or for formats of one file that file, if there is one split.
        copy: copies pictures instead of linking them.
        classes: names of classes in order; others follow as they appear.

    Attributes:
        folder: the output's folder, which is made.
        written: files written so far, without pictures.
    """

    def __init__(self, out: Path, *, copy: bool = False, classes: Iterable[str] = ()):
        self.out, self.copy = out, copy
        self.classes = Classes()
        self.classes.numbers(classes)
        self.folder = folder(out.parent if out.suffix and not out.is_dir() else out)
        self.written: list[Path] = []
        self._places: dict[Path, str] = {}
        self._taken: set[str] = set()

    def file(self, split: str, suffix: str, count: int) -> Path:
        """The file of a split among `count`: `train.json` in the folder, or the file that was named.

        Raises:
            UsageError: a file was named for several splits, or one of another suffix.
        """
        if self.out == self.folder:
            path = self.folder / f"{split or UNSPLIT}{suffix}"
        elif self.out.suffix.lower() != suffix:
            raise UsageError(f"the output is {self.out}, expected a folder or a name ending in {suffix}; rename it")
        elif count > 1:
            raise UsageError(f"{count} splits do not fit into the one file {self.out}; name a folder")
        else:
            path = self.out
        self.written.append(path)
        return path

    def picture(self, picture: Path, subfolder: str = "images", *, always: bool = False) -> str:
        """The name of a picture seen from the output's folder, with `/`.

        Args:
            subfolder: where pictures from elsewhere go.
            always: pictures from below the output's folder go there too, and each call gets a stem of its own.

        Raises:
            InputError: it is not there. ResourceError: it cannot be linked or copied.
        """
        if always:
            return self._put(picture, subfolder)
        if picture not in self._places:
            real, base = Path(os.path.realpath(picture)), Path(os.path.realpath(self.folder))
            inside = real.is_relative_to(base)
            self._places[picture] = real.relative_to(base).as_posix() if inside else self._put(picture, subfolder)
        return self._places[picture]

    def _put(self, picture: Path, subfolder: str) -> str:
        wanted = PurePosixPath(subfolder, picture.name)
        number = 1
        while True:
            name = wanted if number == 1 else wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
            target = self.folder / name
            stem = str(name.with_suffix(""))
            if stem not in self._taken and (not target.exists() or _same(picture, target)):
                break
            number += 1
        self._taken.add(stem)
        if not target.exists():
            _bring(picture, target, self.copy)
        return name.as_posix()


def _same(picture: Path, target: Path) -> bool:
    return target.is_file() and (os.path.samefile(picture, target) or filecmp.cmp(picture, target, shallow=False))


def _bring(picture: Path, target: Path, copy: bool) -> None:
    if not picture.is_file():
        raise InputError(f"there is no picture {picture} any more; put it back")
    folder(target.parent)
    if copy:
        with told(target):
            shutil.copyfile(picture, target)
        return
    try:
        os.link(os.path.realpath(picture), target)
    except OSError as error:
        raise ResourceError(
            f"cannot link {picture} to {target} ({error.strerror or error}), expected both on one disk; give --copy"
        ) from error


def write_rejects(problems: Iterable[Problem], file: Path) -> Path:
    """One JSON object a line, `{"where": ..., "why": ...}`, of everything that was left out."""
    with writing(file) as stream:
        for problem in problems:
            stream.write(json.dumps({"where": problem.where, "why": problem.why}, ensure_ascii=False) + "\n")
    return file


def by_split(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Entries of each split, splits in the order train, valid, test; those without one are `UNSPLIT`'s."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.split or UNSPLIT, []).append(entry)
    order = ["train", "valid", "test"]
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order)))


def labelled(entry: Entry, *, crowds: bool = False) -> LabelledImage:
    """The labelled picture of an entry, without crowds unless a format can mark them.

    Raises:
        UsageError: it is a row of text.
    """
    if not isinstance(entry.item, LabelledImage):
        raise UsageError(
            f"{entry.item.id} is a row of text, expected a picture with boxes; this format holds boxes only"
        )
    if crowds:
        return entry.item
    return replace(entry.item, boxes=tuple(box for box in entry.item.boxes if not box.crowd))
