"""Options that several commands share, and what a list of image arguments means.

Values are checked here as far as that is possible without a model; what is left belongs to `api`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from paligemma.errors import InputError, UsageError

STDIN = "\ue000-"  # how `main` hands a lone `-` on; no keyboard makes this character
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # what an answer can be drawn into
DATA = (".json", ".txt")  # what else `--save FILE` writes

_MODEL = Group("Model", sort_key=1)
_ANSWER = Group("Answer", sort_key=2)
_OUTPUT = Group("Output", sort_key=3)

Images = Annotated[list[str], Parameter(name="IMAGES", negative=())]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Json = Annotated[bool, Parameter(group=_OUTPUT, negative=(), show_default=False)]


@Parameter(name="*", group=_MODEL)
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model answers, and where it runs."""

    model: str = "nano"
    """Bundled model, directory, .npz file, or hub name that `paligemma pull` fetched."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type to compute in; auto takes that of the file, where it is safe."""
    revision: str | None = None
    """Of a hub name; default main."""
    tokenizer: str | None = None
    """Model, file or directory that has the tokenizer, for models that come without."""


@Parameter(name="*", group=_ANSWER)
@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How the answer's tokens are chosen."""

    max_tokens: int | None = None
    """Longest answer in tokens; by default as the task needs."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0 draws one."""
    top_k: int | None = None
    """Draw among this many likeliest tokens."""
    top_p: float | None = None
    """Draw among the likeliest tokens that hold this share of the probability."""
    seed: int | None = None
    """Makes drawing repeatable; by default another one each time."""
    num_beams: int = 1
    """Beam search over this many answers."""

    def __post_init__(self) -> None:
        _at_least("--max-tokens", self.max_tokens, 1)
        _at_least("--top-k", self.top_k, 1)
        _at_least("--num-beams", self.num_beams, 1)
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"--temperature {self.temperature} is out of range; give 0 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p} is out of range; give a number above 0, at most 1")
        if self.num_beams > 1 and self.temperature:
            raise UsageError("--num-beams searches and --temperature draws; give one of them")
        if not self.temperature and (self.top_k or self.top_p):
            raise UsageError("--top-k and --top-p change only how tokens are drawn; give --temperature as well")


@Parameter(name="*", group=_OUTPUT)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the answer goes."""

    save: str | None = None
    """Picture with the answer drawn in: a file, or a directory (for several images)."""
    json: Flag = False
    """One JSON object on stdout and nothing else; for several images with a list `results`."""


def _at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{option} {value} is too small; give at least {least}")


def image_paths(arguments: Sequence[str]) -> list[str]:
    """The paths named on the command line; `-` stands for those on stdin, one per line.

    Raises:
        UsageError: `-` is given twice.
        InputError: no path is left.
    """
    if list(arguments).count(STDIN) > 1:
        raise UsageError("`-` reads the paths from stdin and can be given once only")
    paths: list[str] = []
    for argument in arguments:
        if argument == STDIN:
            paths += [line for line in (raw.rstrip("\r\n") for raw in sys.stdin) if line.strip()]
        else:
            paths.append(argument)
    if not paths:
        raise InputError("no image is named, neither as an argument nor on stdin; give the path of one")
    return paths


def several(arguments: Sequence[str]) -> bool:
    """Whether the answer is a list: more than one argument, or a list from stdin, however long it turns out."""
    return len(arguments) > 1 or STDIN in arguments


def check_image(path: str) -> None:
    """Refuses what is plainly no image file before a model is loaded for it.

    Raises:
        InputError: nothing there, or a directory.
    """
    try:
        place = Path(path)
        if place.is_dir():
            raise InputError(f"{path} is a directory; name the images in it, as in {place / '*.jpg'}")
        if not place.exists():
            raise InputError(f"there is no image {path}; check the path")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path[:100]} is no path of an image; give one") from error


def save_targets(save: str | None, paths: Sequence[str], many: bool, together: bool = False) -> dict[int, Path]:
    """Where the answer of each example is written, by its place; empty without `--save`. `together`: one for all paths.

    In a directory a picture keeps its name; a second one of the same name gets `-2`. No input is ever overwritten.

    Raises:
        UsageError: a file for several images, or a target that is one of the inputs.
    """
    if save is None:
        return {}
    if not save or save == STDIN:
        raise UsageError("--save needs the path of a file or a directory")
    target = Path(save)
    is_directory = target.is_dir() or save.endswith(("/", "\\")) or not target.suffix
    if many and not is_directory:
        raise UsageError(f"--save {save} is one file for several images; give a directory, as in {target.stem}/")
    if is_directory and target.exists() and not target.is_dir():
        raise UsageError(f"--save {save} is a file without extension; give a directory, or a name such as out.png")
    inputs = {_real(path) for path in paths}
    if not is_directory and target.suffix.lower() not in (*PICTURES, *DATA):
        raise UsageError(f"--save {save} has an unknown extension; end it in one of {', '.join((*PICTURES, *DATA))}")
    targets: dict[int, Path] = {}
    taken: set[Path] = set()
    for i, path in enumerate(paths[:1] if together else paths):
        wanted = _free(target / _picture_name(path), taken) if is_directory else target
        if _real(str(wanted)) in inputs:
            raise UsageError(f"--save would overwrite the image {wanted}; give another file or directory")
        taken.add(wanted)
        targets[i] = wanted
    return targets


def _picture_name(path: str) -> str:
    """The name an image keeps in the output directory: its own, as far as pictures of that kind can be written."""
    own = Path(path)
    return own.name if own.suffix.lower() in PICTURES else f"{own.stem or 'image'}.png"


def _free(path: Path, taken: set[Path]) -> Path:
    number, free = 1, path
    while free in taken:
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _real(path: str) -> Path:
    return Path(path).resolve()
