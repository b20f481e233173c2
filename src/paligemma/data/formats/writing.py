"""What all writers share: where files go, under which names pictures are found from there, class numbers.

A picture below the output folder is named where it lies. Another one gets a hard link in the folder, which takes no
space and no rights to the original's place, or with `copy` a copy; so whatever is written can be moved and trusted as a
whole, and no file names a picture outside.
"""

import filecmp
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from paligemma.data.formats.reading import Entry
from paligemma.data.labelled import LabelledImage
from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.results.files import folder, told
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

    def picture(
        self, picture: Path, subfolder: str = "images", *, always: bool = False, root: Path | None = None
    ) -> str:
        """The name of a picture seen from the output's folder, with `/`.

        Args:
            subfolder: where pictures from elsewhere go.
            always: pictures from below the output's folder go there too, each under a stem of its own.
            root: the folder below which the picture's place is kept in its name.

        Raises:
            InputError: it is not there. ResourceError: it cannot be linked or copied.
        """
        if picture not in self._places:
            real, base = Path(os.path.realpath(picture)), Path(os.path.realpath(self.folder))
            if real.is_relative_to(base) and not always:
                self._places[picture] = real.relative_to(base).as_posix()
            else:
                self._places[picture] = self._put(picture, subfolder, root)
        return self._places[picture]

    def _put(self, picture: Path, subfolder: str, root: Path | None) -> str:
        inside = picture.relative_to(root) if root is not None and picture.is_relative_to(root) else Path(picture.name)
        parts = [part for part in inside.parts if part not in ("..", os.sep)]
        wanted = PurePosixPath(subfolder, *parts)
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


def by_split(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Entries of each split, splits in the order train, valid, test; those without one are `UNSPLIT`'s."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.split or UNSPLIT, []).append(entry)
    order = ["train", "valid", "test"]
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order)))


def labelled(entry: Entry) -> LabelledImage:
    """The labelled picture of an entry.

    Raises:
        UsageError: it is a row of text.
    """
    if not isinstance(entry.item, LabelledImage):
        raise UsageError(
            f"{entry.item.id} is a row of text, expected a picture with boxes; this format holds boxes only"
        )
    return entry.item
