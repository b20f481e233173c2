"""Tar shards in webdataset's layout <-> examples by number.

    shards-{0000..0010}.tar:   000000.jpg  000000.json  000001.jpg  000001.json ...

Neighbouring members whose names are equal up to the first dot are one example: pictures in their order, and either
`.json` with prefix and suffix or the texts `.prefix.txt` and `.txt` (`.suffix.txt`, `.caption`). Shards are indexed
once and then read in place, so that a set of shards is a source by number: every process reads only what its positions
ask for, which is how nodes and workers share them. Nothing is unpacked; links, devices and sparse members are refused.
Compressed tars cannot be read in place. Format: webdataset.github.io.
"""

import glob
import hashlib
import io
import json
import os
import re
import tarfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from paligemma.config import did_you_mean
from paligemma.data.example import Example, Picture
from paligemma.data.formats import strict
from paligemma.data.listed import BadRow
from paligemma.errors import InputError, UsageError
from paligemma.images import MAX_BYTES
from paligemma.results.files import folder, told

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
_JSON, _PREFIX, _SUFFIX = "json", "prefix", "suffix"
_TEXTS = {"prefix.txt": _PREFIX, "suffix.txt": _SUFFIX, "txt": _SUFFIX, "text": _SUFFIX, "caption": _SUFFIX}
_ROLES = ("picture", _JSON, _PREFIX, _SUFFIX)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_MAX_TEXT = 16 << 20
_MAX_SHARDS = 1_000_000
_KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif", "PPM": "ppm"}


def shard_files(pattern: str) -> list[Path]:
    """The files a pattern names: `{0000..0010}` and `{a,b}` spelled out, `*` looked up, a folder's `*.tar`; in order.

    Raises:
        InputError: a file that is not there, or none at all.
    """
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "*.tar")
    files: list[Path] = []
    for spelled in _spelled_out(pattern):
        found = sorted(glob.glob(spelled)) if glob.has_magic(spelled) and not os.path.exists(spelled) else [spelled]
        files += map(Path, found)
    if not files:
        raise InputError(f"no file fits {pattern}; check the folder and the pattern")
    for file in files:
        if not file.is_file():
            raise InputError(f"there is no shard {file} of {pattern}; check the range")
    return files


def _spelled_out(pattern: str) -> list[str]:
    choices: list[list[str]] = []
    done = 0
    for match in _RANGE.finditer(pattern):
        first, last, words = match.groups()
        choices.append([pattern[done : match.start()]])
        if words is not None:
            choices.append(words.split(","))
        else:
            if int(last) - int(first) >= _MAX_SHARDS:
                raise InputError(f"{match.group()} names more than {_MAX_SHARDS:,} shards; name fewer")
            choices.append([str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)])
        done = match.end()
    return ["".join(parts) for parts in product(*choices, [pattern[done:]])]


class _Member(NamedTuple):
    role: int  # in _ROLES
    shard: int
    start: int
    size: int


class ShardSource:
    """The examples of a set of shards; see the module.

    Args:
        prefix: prompt of examples that have none.

    Raises:
        InputError: a shard that is no tar, is damaged or compressed, or holds what cannot be read safely.
    """

    def __init__(self, pattern: str, *, name: str, prefix: str | None = None):
        self.name, self._prefix = name, prefix
        self._files = shard_files(pattern)
        self._firsts = array("Q")  # of each example its first member
        self._numbers = array("L")  # of each example its place in its shard, for messages
        self._roles, self._shards = array("B"), array("L")
        self._starts, self._sizes = array("Q"), array("Q")
        digest = hashlib.sha256()
        for shard, file in enumerate(self._files):
            self._index(shard, file, digest)
        if not self._firsts:
            raise InputError(f"the shards {pattern} hold no examples; expected members such as 0001.jpg and 0001.json")
        self._firsts.append(len(self._roles))
        self.fingerprint = digest.hexdigest()

    def _index(self, shard: int, file: Path, digest: Any) -> None:
        last, number = None, -1
        for member in _members(file):
            key, _, extension = _key_and_extension(member.name)
            role = _role(extension)
            if role is None:
                continue
            if key != last:
                last, number = key, number + 1
                self._firsts.append(len(self._roles))
                self._numbers.append(number)
            self._roles.append(_ROLES.index(role))
            self._shards.append(shard)
            self._starts.append(member.offset_data)
            self._sizes.append(member.size)
            digest.update(f"{file.name}/{member.name} {member.offset_data} {member.size}\n".encode())

    def __len__(self) -> int:
        return len(self._firsts) - 1

    def __getitem__(self, index: int) -> Example:
        """
        Raises:
            BadRow: no picture, no prefix or suffix, or a JSON of other keys.
        """
        members = [
            _Member(self._roles[i], self._shards[i], self._starts[i], self._sizes[i])
            for i in range(self._firsts[index], self._firsts[index + 1])
        ]
        file = self._files[members[0].shard]
        where = f"{file.name}:{self._numbers[index]}"
        try:
            with open(file, "rb") as stream:
                images, texts = _contents(stream, members)
        except InputError as error:
            raise BadRow(where, "row", str(error)) from error
        except OSError as error:
            raise BadRow(where, "row", f"cannot be read ({error.strerror or error}); check the disk") from error
        if self._prefix is not None:
            texts.setdefault(_PREFIX, self._prefix)
        for field in (_PREFIX, _SUFFIX):
            if not isinstance(texts.get(field), str):
                raise BadRow(where, field, f"there is no {field}, expected a text in .json or .{field}.txt; add it")
        if not images:
            raise BadRow(where, "image", f"there is no picture, expected one of .{', .'.join(PICTURES)}; add it")
        return Example(
            id=where, images=tuple(images), prefix=texts[_PREFIX], suffix=texts[_SUFFIX], source=self.name
        )  # fmt: skip


def _members(file: Path) -> Iterator[tarfile.TarInfo]:
    """The regular members of a tar, without reading what is in them.

    Raises:
        InputError: no tar, a truncated one, or one with links, devices or sparse members.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            size = file.stat().st_size
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile remembers all it saw
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise InputError(f"{file} holds {member.name[:80]!r}, which is no plain file; write it anew")
                if member.offset_data + member.size > size:
                    raise InputError(f"{file} ends inside {member.name[:80]!r}; get a fresh copy")
                yield member
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{file} is no uncompressed tar that can be read ({error}); unpack .tar.gz to .tar, or get a fresh copy"
        ) from error


def _key_and_extension(name: str) -> tuple[str, str, str]:
    """`a/b.c.jpg` -> `a/b`, `.`, `c.jpg`."""
    folder_name, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return folder_name + slash + stem, dot, extension.lower()


def _role(extension: str) -> str | None:
    if extension == _JSON:
        return _JSON
    return _TEXTS.get(extension) or ("picture" if extension.rpartition(".")[2] in PICTURES else None)


def _contents(stream: Any, members: Sequence[_Member]) -> tuple[list[Picture], dict[str, Any]]:
    images: list[Picture] = []
    texts: dict[str, Any] = {}
    for member in members:
        role = _ROLES[member.role]
        limit = MAX_BYTES if role == "picture" else _MAX_TEXT
        if member.size > limit:
            raise InputError(f"a {role} has {member.size:,} bytes, at most {limit:,} are read; shrink it")
        stream.seek(member.start)
        data = stream.read(member.size)
        if len(data) < member.size:
            raise InputError("the shard is shorter than when it was opened; leave its files alone during a run")
        if role == "picture":
            images.append(data)
        elif role == _JSON:
            texts |= _fields(strict.parse_json(strict.text_of(data, "the .json")))
        else:
            texts[role] = strict.text_of(data, f"the {role}").removesuffix("\n")
    return images, texts


def _fields(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"found {str(row)[:60]!r} in the .json, expected an object with prefix and suffix; mend it")
    for key in row:
        if key not in (_PREFIX, _SUFFIX, "id"):
            raise InputError(f"unknown key {key!r} in the .json{did_you_mean(key, [_PREFIX, _SUFFIX, 'id'])}")
    return {key: value for key, value in row.items() if key != "id"}


# --- writing ---------------------------------------------------------------------------------------------------------


def write_shards(
    examples: Callable[[int], Example], count: int, out: "str | Path", *, per_shard: int = 1000,
    name: str = "shard",
) -> list[Path]:  # fmt: skip
    """Writes `examples(0)` to `examples(count - 1)` as shards in a folder; equal examples give equal bytes.

    Files of pictures are taken as they are, pixels become PNG. Each shard takes its name when it is whole.

    Raises:
        UsageError: less than one example, or per shard. InputError: a picture that cannot be read.
        ResourceError: a file cannot be written.
    """
    if count < 1 or per_shard < 1:
        raise UsageError(f"found {count} examples with {per_shard} per shard, expected at least 1 of each")
    target = folder(out)
    written: list[Path] = []
    for number, first in enumerate(range(0, count, per_shard)):
        file = target / f"{name}-{number:06d}.tar"
        unfinished = file.with_name(f".{file.name}.part")
        with told(file):
            try:
                with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
                    for i in range(first, min(first + per_shard, count)):
                        _write_example(tar, f"{i:09d}", examples(i))
                os.replace(unfinished, file)
            finally:
                unfinished.unlink(missing_ok=True)
        written.append(file)
    return written


def _write_example(tar: tarfile.TarFile, key: str, example: Example) -> None:
    several = len(example.images) > 1
    for i, picture in enumerate(example.images):
        data, extension = _encoded(picture)
        _add(tar, f"{key}.{i}.{extension}" if several else f"{key}.{extension}", data)
    row = {"id": example.id, "prefix": example.prefix, "suffix": example.suffix}
    _add(tar, f"{key}.json", json.dumps(row, ensure_ascii=False).encode())


def _encoded(picture: Picture) -> tuple[bytes, str]:
    """A picture's bytes and extension.

    Raises:
        InputError: a file that is no picture.
    """
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue(), "png"
    data = strict.read_bytes(picture, MAX_BYTES) if isinstance(picture, Path) else picture
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_KINDS)) as image:
            return data, _KINDS[str(image.format)]
    except Exception as error:  # parsers of foreign bytes raise anything
        shown = picture if isinstance(picture, Path) else "a picture"
        raise InputError(f"{shown} is no picture that can be read; leave its row out, or get a fresh copy") from error


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
