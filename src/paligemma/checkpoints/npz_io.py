"""npz archives: headers first, then arrays piece by piece; keys are the file's own. Nothing is unpickled.

bfloat16, which numpy lacks, is stored as two raw bytes (`|V2`). Not done here: what the arrays mean.
Source: numpy's npy format, versions 1 and 2.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.lib import format as npy
from torch import Tensor

from paligemma.checkpoints.safetensors_io import DOWNLOAD_AGAIN, PIECE_BYTES, writing
from paligemma.checkpoints.tensors import Shape, quantised, raw_bytes, scratch
from paligemma.errors import CheckpointError

_TORCH_TYPES = {("f", 4): torch.float32, ("f", 2): torch.float16, ("V", 2): torch.bfloat16}
_DESCRIPTIONS = {torch.float32: "<f4", torch.float16: "<f2", torch.bfloat16: "|V2"}
_PREFIX = "params/"
_TRAINING_STATE = re.compile(r"(opt|extra|chrono)/|step$")  # beside params/ in a checkpoint of a running training


# What zipfile, zlib and numpy raise about damaged archives.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, KeyError, ValueError)


@dataclass(frozen=True)
class Member:
    """One array inside an archive, known by its header."""

    path: Path
    name: str
    shape: Shape
    dtype: torch.dtype
    fortran_order: bool


def read_members(paths: Iterable[Path], ignored: str | None = None) -> dict[str, Member]:
    """Every array of the files by its key without `params/`; only headers are read.

    Args:
        ignored: a pattern; arrays whose names begin so are passed over, whatever they hold.

    Raises:
        CheckpointError: not an npz, Python objects in it, a key that occurs twice, or a quantised array.
    """
    members: dict[str, Member] = {}
    for path in paths:
        for member in _members_of(path, ignored):
            key = member.name.removeprefix(_PREFIX)
            if key in members:
                raise CheckpointError(
                    f"{members[key].path.name} and {path.name} in {path.parent} both hold {key}; name the one to load"
                )
            members[key] = member
    return members


def _members_of(path: Path, ignored: str | None) -> list[Member]:
    with _in_one_sentence(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        trained = any(name.startswith(_PREFIX) for name in names)
        wanted = [name for name in names if not (trained and _TRAINING_STATE.match(name.removesuffix(".npy")))]
        wanted = [name for name in wanted if not (ignored and re.match(ignored, name))]
        found = []
        for name in wanted:
            if not name.endswith(".npy"):
                raise CheckpointError(f"{path} holds {name[:80]!r}, expected numpy arrays only; it is no weight file")
            with archive.open(name) as stream:
                found.append(_read_header(path, name.removesuffix(".npy"), stream))
        return found


@contextmanager
def _in_one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        size = path.stat().st_size
        reason = str(error)[:200]
        raise CheckpointError(f"{path} ({size:,} bytes) is no sound npz archive ({reason}); {DOWNLOAD_AGAIN}") from None


def _read_header(path: Path, name: str, stream: Any) -> Member:
    """Leaves the stream at the first element."""
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"npy version {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"header of {name}: {error}") from None
    if dtype.hasobject:
        raise CheckpointError(
            f"{path} holds Python objects in {name}, which are pickles and never opened; use plain arrays"
        )
    stored = _TORCH_TYPES.get((dtype.kind, dtype.itemsize))
    if stored is None or dtype.fields or dtype.byteorder == ">":
        raise quantised(str(path), name, str(dtype))
    return Member(path, name, tuple(shape), stored, fortran_order)


@dataclass
class Archives:
    """Open archives; each array is read from its first element to its last, in steps of the caller's size."""

    _files: dict[Path, zipfile.ZipFile] = field(default_factory=dict)

    def open(self, member: Member) -> Any:
        with _in_one_sentence(member.path):
            if member.path not in self._files:
                self._files[member.path] = zipfile.ZipFile(member.path)
            stream = self._files[member.path].open(f"{member.name}.npy")
            _read_header(member.path, member.name, stream)
        return stream

    def read(self, member: Member) -> Tensor:
        """The whole array."""
        shape = member.shape[::-1] if member.fortran_order else member.shape
        array = self.read_next(member, self.open(member), shape)
        return array.permute(*reversed(range(array.ndim))) if member.fortran_order else array

    def read_next(self, member: Member, stream: Any, shape: Shape) -> Tensor:
        """The next elements of an open array in row-major order; the archive checks its CRC at the end."""
        buffer = scratch(math.prod(shape), member.dtype)
        raw = raw_bytes(buffer)
        with _in_one_sentence(member.path):
            while raw:
                got = stream.readinto(raw[:PIECE_BYTES])
                if not got:
                    raise EOFError(f"the data of {member.name} end early")
                raw = raw[got:]
        return buffer.view(shape)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


@contextmanager
def writing_npz(path: Path, prefix: bool) -> Iterator["Writer"]:
    """An uncompressed archive that appears under its name only when complete."""
    with writing([path]) as [partial], zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        yield Writer(archive, _PREFIX if prefix else "")


@dataclass(frozen=True)
class Writer:
    archive: zipfile.ZipFile
    prefix: str

    @contextmanager
    def array(self, key: str, shape: Shape, dtype: torch.dtype) -> Iterator[Any]:
        """A stream for the bytes of one array, after its header. The same array gives the same bytes: no date."""
        with self.archive.open(zipfile.ZipInfo(f"{self.prefix}{key}.npy"), "w", force_zip64=True) as stream:
            header = {"descr": _DESCRIPTIONS[dtype], "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(stream, header)
            yield stream
