"""Files beside the answers: pictures with the answer drawn in, cut-out boxes, masks.

Comes in: an answered example. Goes out: files whose names are those of the pictures. No input is ever overwritten, and
no two pictures of one run get the same file. Not done here: what is drawn (`results`).
"""

import os
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from paligemma.errors import ResourceError, UsageError
from paligemma.interfaces.cli.options import STDIN, BoxOptions, OutputOptions
from paligemma.interfaces.cli.sources import Item, Sources

if TYPE_CHECKING:
    from paligemma.results import Answer

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # what an answer can be drawn into
DATA = (".json", ".csv", ".txt")  # what else `--save FILE` writes


class Saver:
    """Writes what `--save`, `--save-crops` and `--save-mask` ask for.

    Raises:
        UsageError: a target that cannot be, or one that would overwrite a picture it is about.
    """

    def __init__(self, output: OutputOptions, boxes: BoxOptions, sources: Sources, several: bool):
        self.save_to = _target("--save", output.save)
        self.is_directory = output.save is not None and _names_directory(output.save)
        self.crops = _directory("--save-crops", boxes.save_crops)
        self.masks = _directory("--save-mask", boxes.save_mask)
        self._taken: set[str] = set()
        self._keep_others = STDIN in sources.arguments  # what is listed later may lie where we write
        if self.save_to is not None and not self.is_directory:
            if several:
                wanted = f"{self.save_to.stem}/"
                raise UsageError(
                    f"--save {output.save} is one file for several images; give a directory, as in {wanted}"
                )
            if self.save_to.suffix.lower() not in (*PICTURES, *DATA):
                known = ", ".join((*PICTURES, *DATA))
                raise UsageError(f"--save {output.save} has an unknown extension; end it in one of {known}")
        self._check_inputs(output, sources)

    @property
    def wanted(self) -> bool:
        return any((self.save_to, self.crops, self.masks))

    def __call__(self, item: Item, found: "Answer") -> list[Path]:
        """Writes everything about one example; returns the files and directories.

        Raises:
            ResourceError: it cannot be written.
            UsageError: it would overwrite the picture.
        """
        written = []
        if self.save_to is not None:
            target = self._free(self.save_to / _place(item)) if self.is_directory else self.save_to
            if any(_real(path) == _real(target) for path in item.paths):
                raise UsageError(f"--save would overwrite the image {target}; give another file or directory")
            _make_directory(target.parent)
            written.append(found.save(target))
        if self.crops is not None:
            written += self._cut_out("save_crops", self.crops, item, found)
        if self.masks is not None:
            written += self._cut_out("save_masks", self.masks, item, found)
        return written

    def _cut_out(self, method: str, directory: Path, item: Item, found: "Answer") -> list[Path]:
        """Crops or masks; they are called after their picture, and pictures of one name after a number more."""
        target = self._free((directory / _place(item)).with_suffix(""))
        _make_directory(target.parent)
        named = replace(found, paths=(f"{target.name}.png", *item.paths[1:]))
        return getattr(named, method)(target.parent)

    def _check_inputs(self, output: OutputOptions, sources: Sources) -> None:
        """Refuses to write into a directory of pictures that are read, or over one of them."""
        given = {"--save": self.save_to if self.is_directory else None, "--save-crops": self.crops}
        chosen = {option: path for option, path in (given | {"--save-mask": self.masks}).items() if path is not None}
        inputs = sources.directories() if chosen else set()
        for option, directory in chosen.items():
            if _real(directory) in inputs:
                raise UsageError(f"{option} would overwrite pictures in {directory}; give a directory of its own")
        files = [path for path in (output.out, None if self.is_directory else output.save) if path]
        real = {_real(path) for path in files}
        for path in sources.files() if real else ():
            if _real(path) in real:
                raise UsageError(f"the output would overwrite the image {path}; give another file")

    def _free(self, path: Path) -> Path:
        """The path, or with `-2`, `-3` ... the first that no other picture of this run has."""
        number, free = 1, path
        while str(free).casefold() in self._taken or (self._keep_others and free.exists()):
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
        self._taken.add(str(free).casefold())
        return free


def _place(item: Item) -> PurePath:
    """Where a picture goes below the output directory: its own name, as far as pictures of that kind can be written."""
    own = PurePath(*(part for part in PurePath(item.place or "image.png").parts if part not in ("..", "/", "\\")))
    return own if own.suffix.lower() in PICTURES else own.with_name(f"{own.stem or 'image'}.png")


def _target(option: str, value: str | None) -> Path | None:
    if value is None:
        return None
    if not value or value == STDIN or "\0" in value:
        raise UsageError(f"{option} needs the path of a file or a directory")
    return Path(value)


def _directory(option: str, value: str | None) -> Path | None:
    target = _target(option, value)
    if target is not None and target.exists() and not target.is_dir():
        raise UsageError(f"{option} {value} is a file; give a directory")
    return target


def _names_directory(save: str) -> bool:
    target = Path(save)
    is_directory = target.is_dir() or save.endswith(("/", "\\")) or not target.suffix
    if is_directory and target.exists() and not target.is_dir():
        raise UsageError(f"--save {save} is a file without extension; give a directory, or a name such as out.png")
    return is_directory


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot make the directory {path} ({error.strerror}); choose another") from error


def _real(path: str | Path) -> str:
    return os.path.realpath(path)
