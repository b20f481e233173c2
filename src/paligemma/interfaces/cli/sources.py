"""What the arguments stand for: files, folders, patterns, addresses, videos and stdin -> one example after the other.

Comes in: the words of the command line. Goes out: `Item`s, one at a time and in order, each with the name it is told by
and the picture still unopened (a frame of a video is decoded already). What cannot be used is an item too, with its
error, so that the others go on. Nothing is kept; folders are read one by one. Not done here: opening pictures (`api`).
"""

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from paligemma.errors import InputError, PaliGemmaError, UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.options import STDIN, SourceOptions

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")  # taken out of folders
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv", ".3gp")
CLIP_FRAMES = 16  # of a clip, unless told otherwise
MAX_LINE = 65_536  # characters of one line of stdin; no path is that long


@dataclass(frozen=True, kw_only=True)
class Item:
    """One example on its way to the model.

    Args:
        name: what it is called in messages and results: a path, an address, `-`.
        pictures: what `api` opens: one picture, or several of one example; none where there is an `error`.
        place: path below an output directory that keeps its name, such as `holiday/a.jpg`.
        facts: what else results tell of it: `frame` and `time_s` of a video.
    """

    name: str
    pictures: tuple[Any, ...] = ()
    place: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    error: InputError | None = None

    @property
    def title(self) -> str:
        """The name for people; of a frame with its time."""
        return f"{self.name} at {self.facts['time_s']:.2f} s" if "time_s" in self.facts else self.name

    @property
    def path(self) -> str:
        """The name for files of results; a frame is called as if it lay beside its video as a picture."""
        return os.path.join(os.path.dirname(self.name), os.path.basename(self.place)) if self.facts else self.name

    @property
    def paths(self) -> tuple[str, ...]:
        """For each picture the file that results name."""
        return tuple(picture if isinstance(picture, str) else self.path for picture in self.pictures)


class Sources:
    """The examples that the arguments stand for; iterate once.

    Args:
        skip: directories that hold our own output and are not read as input.
    """

    def __init__(self, arguments: Sequence[str], options: SourceOptions, skip: Iterable[str | None] = ()):
        if list(arguments).count(STDIN) > 1:
            raise UsageError("`-` reads stdin and can be given once only")
        if not arguments:
            raise InputError("no picture was given; name picture files behind the words of the command")
        self.arguments, self.options = arguments, options
        self.skip = {os.path.realpath(path) for path in skip if path}
        self._stdin_picture: bytes | None = None
        self._stdin_head = b""
        if STDIN in arguments:
            self._look_at_stdin()

    @property
    def several(self) -> bool:
        """Whether the answer is a list, however long it turns out: more than one file, or anything that may be more."""
        return len(self.arguments) > 1 or self._is_list(self.arguments[0])

    def __iter__(self) -> Iterator[Item]:
        for argument in self.arguments:
            if argument != STDIN:
                yield from self._of(argument)
            elif self._stdin_picture is not None:
                yield Item(name="-", pictures=(self._stdin_picture,), place="stdin.png")
            else:
                yield from self._listed()

    def count(self) -> int | None:
        """How many there will be, without opening any; None where only reading on can tell."""
        number = 0
        for argument in self.arguments:
            if argument == STDIN and self._stdin_picture is None:
                return None
            if argument == STDIN or is_url(argument):
                number += 1
                continue
            for path, _ in self._paths(argument):
                if not self.options.clip and self._is_video(path):
                    return None
                number += 1
        return number

    def files(self) -> Iterator[str]:
        """The paths that the arguments name; what stdin lists is not known yet."""
        for argument in self.arguments:
            if argument != STDIN and not is_url(argument):
                yield from (path for path, _ in self._paths(argument))

    def directories(self) -> set[str]:
        """The real paths of the directories that those pictures lie in; videos are not counted."""
        pictures = (path for path in self.files() if not self._is_video(path))
        return {os.path.realpath(parent) for parent in {os.path.dirname(path) or "." for path in pictures}}

    # --- arguments -> paths ---

    def _is_list(self, argument: str) -> bool:
        if argument == STDIN:
            return self._stdin_picture is None
        if is_url(argument):
            return False
        if _is_directory(argument) or _is_pattern(argument):
            return True
        return not self.options.clip and self._is_video(argument)

    def _paths(self, argument: str) -> Iterator[tuple[str, str]]:
        """(path, place) of every file an argument stands for; a plain file stands for itself, there or not."""
        if _is_directory(argument):
            for path in self._walk(argument):
                yield path, os.path.relpath(path, argument)
        elif _is_pattern(argument):
            fixed = _fixed_part(argument)
            for path in sorted(glob.iglob(argument, recursive=True)):
                if not os.path.isdir(path) and self._is_meant(path, argument, fixed):
                    yield path, os.path.relpath(path, fixed)
        else:
            yield argument, os.path.basename(argument)

    def _is_meant(self, path: str, pattern: str, fixed: str) -> bool:
        """Leaves out our own output, and what `**` finds behind links to folders, which may go round in circles."""
        folder = os.path.dirname(path)
        if "**" in pattern:
            straight = os.path.join(os.path.realpath(fixed), os.path.relpath(folder or ".", fixed))
            if os.path.realpath(folder or ".") != os.path.normpath(straight):
                return False
        return self._is_ours(fixed) or not self._is_ours(folder)

    def _walk(self, directory: str) -> Iterator[str]:
        """The pictures of a folder by name, then those of its subfolders; hidden ones and links to folders are left."""
        suffixes = PICTURES + (VIDEOS if self.options.wants_frames else ())
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:
            yield directory  # told as an item that cannot be used
            return
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.name.lower().endswith(suffixes):
                yield entry.path
        if self.options.recursive:
            for folder in folders:
                if not self._is_ours(folder):
                    yield from self._walk(folder)

    def _is_ours(self, directory: str) -> bool:
        real = os.path.realpath(directory or ".") if self.skip else ""
        return any(real == ours or real.startswith(ours + os.sep) for ours in self.skip)

    # --- paths -> items ---

    def _of(self, argument: str) -> Iterator[Item]:
        if is_url(argument):
            yield self._fetched(argument)
            return
        nothing = True
        for path, place in self._paths(argument):
            nothing = False
            yield from self._opened(path, place)
        if nothing:
            yield Item(name=argument, error=InputError(_why_nothing(argument, self.options)))

    def _opened(self, path: str, place: str) -> Iterator[Item]:
        """A picture as its path; a video as its frames, or as one clip."""
        error = _plainly_no_file(path)
        if error is not None:
            yield Item(name=path, error=error)
        elif self._is_video(path):
            yield from self._frames(path, place)
        else:
            yield Item(name=path, pictures=(path,), place=place)

    def _is_video(self, path: str) -> bool:
        """By its suffix or first bytes; an animated picture counts where frames are asked for."""
        suffix = os.path.splitext(path)[1].lower()
        if suffix in VIDEOS or (self.options.wants_frames and suffix in (".gif", ".webp", ".png", ".tif", ".tiff")):
            return suffix in VIDEOS or _has_frames(path)
        if suffix in PICTURES or not os.path.isfile(path):
            return False
        from paligemma.images import HEAD_BYTES, recognise

        try:
            with open(path, "rb") as file:
                return recognise(file.read(HEAD_BYTES)) == "video"
        except OSError:
            return False

    def _frames(self, path: str, place: str) -> Iterator[Item]:
        from paligemma.images import each_frame

        options, stem = self.options, os.path.splitext(place)[0]
        chosen: dict[str, Any] = {"stride": options.stride, "fps": options.fps, "frames": options.frames}
        if all(value is None for value in chosen.values()):
            chosen = {"frames": CLIP_FRAMES} if options.clip else {"fps": 1.0}
        try:
            if options.clip:
                clip = list(islice(each_frame(path, **chosen), options.frames or CLIP_FRAMES))
                numbers = {"frames": [frame.number for frame in clip]}
                yield Item(name=path, pictures=tuple(frame.image for frame in clip), place=f"{stem}.png", facts=numbers)
                return
            for frame in each_frame(path, **chosen):
                moment = {"frame": frame.number, "time_s": round(frame.time_s, 3)}
                yield Item(name=path, pictures=(frame.image,), place=f"{stem}-{frame.number:06}.png", facts=moment)
        except InputError as error:
            yield Item(name=path, error=error)

    def _fetched(self, url: str) -> Item:
        from paligemma.interfaces.cli import urls

        name = urls.shown(url)
        try:
            if not self.options.allow_url:
                raise InputError(f"{name} is an address, expected a file; give --allow-url to download it")
            return Item(name=name, pictures=(urls.fetch(url),), place=urls.file_name(url))
        except InputError as error:
            return Item(name=name, error=error)

    # --- stdin ---

    def _look_at_stdin(self) -> None:
        """Reads a whole picture, if stdin holds one, else nothing but its first bytes."""
        from paligemma.images import HEAD_BYTES, MAX_BYTES, recognise

        if sys.stdin.isatty():
            console.note("reading paths, one per line; end with Ctrl-D")
            return
        binary = getattr(sys.stdin, "buffer", None)
        if binary is None:
            return
        self._stdin_head = binary.peek(HEAD_BYTES)[:HEAD_BYTES] if isinstance(binary, io.BufferedReader) else b""
        if recognise(self._stdin_head) == "picture":
            self._stdin_picture = binary.read(MAX_BYTES + 1)

    def _listed(self) -> Iterator[Item]:
        """What the lines of stdin name, each read when it is needed."""
        nothing = True
        binary = getattr(sys.stdin, "buffer", None)
        while True:
            line = os.fsdecode(binary.readline(MAX_LINE)) if binary is not None else sys.stdin.readline(MAX_LINE)
            if not line:
                break
            path = line.rstrip("\r\n")
            if not path.strip():
                continue
            nothing = False
            if len(line) >= MAX_LINE or "\0" in path:
                raise InputError("stdin holds neither a picture nor a list of paths; give paths, one per line")
            yield from self._of(path)
        if nothing:
            raise InputError("stdin is empty, expected paths or a picture; give the path of one")


def is_url(argument: str) -> bool:
    """Whether an argument is a web address."""
    return argument.lower().startswith(("http://", "https://"))


def _is_directory(path: str) -> bool:
    try:
        return os.path.isdir(path)
    except ValueError:  # a null byte
        return False


def _is_pattern(argument: str) -> bool:
    """Whether it has to be a pattern: it looks like one and no file is called so."""
    return glob.has_magic(argument) and not os.path.lexists(argument.replace("\0", ""))


def _fixed_part(pattern: str) -> str:
    """The directory in front of the first part with a wildcard."""
    parts = Path(pattern).parts
    fixed = [*parts[:-1]]
    for i, part in enumerate(parts):
        if glob.has_magic(part):
            fixed = [*parts[:i]]
            break
    return os.path.join(*fixed) if fixed else "."


def _why_nothing(argument: str, options: SourceOptions) -> str:
    if _is_directory(argument):
        hint = "" if options.recursive else ", or --recursive for its subfolders"
        return f"the directory {argument} holds no picture ({', '.join(PICTURES[:5])} ...); give another{hint}"
    return f"no file matches {argument}; check the pattern"


def _plainly_no_file(path: str) -> InputError | None:
    """What can be told without opening it."""
    try:
        if not os.path.exists(path):
            return InputError(f"there is no image {path[:200]}; check the path")
        if os.path.isdir(path):
            return InputError(f"the directory {path} cannot be read; check its permissions")
    except ValueError:
        return InputError(f"{path[:100]!r} is no path of an image; give one")
    return None


def _has_frames(path: str) -> bool:
    """Whether a picture file is an animation; a file that cannot be read is not."""
    from paligemma.images import each_frame

    try:
        return len(list(islice(each_frame(path), 2))) > 1
    except PaliGemmaError:
        return False
