"""Safetensors files: checked headers, lazy reading, streamed and sharded writing. Keys are the file's own.

A tensor in the wanted type is a view of the memory-mapped file and costs nothing until it is touched. Any other type is
converted in pieces of `PIECE_BYTES` read past the map, so that a model never takes more than its own bytes and one
piece. Nothing is unpickled. Source: the format's specification (8 bytes header length, JSON header, data).
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paligemma.checkpoints.tensors import Shape, raw_bytes, scratch
from paligemma.errors import CheckpointError, ResourceError

TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_READ_TYPES = {**TORCH_TYPES, "I8": torch.int8, "U8": torch.uint8}  # with the codes of quantised weights
STORED_TYPES = {dtype: name for name, dtype in _READ_TYPES.items()}
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
PIECE_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_INDEX_BYTES = 64 * 2**20
DOWNLOAD_AGAIN = "the file is damaged or incomplete; download or copy it again"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: bytes `start` to `stop` of `path`."""

    path: Path
    stored: str
    shape: Shape
    start: int
    stop: int

    @property
    def dtype(self) -> torch.dtype:
        return _READ_TYPES[self.stored]


def read_header(path: Path) -> dict[str, Entry]:
    """Every tensor of one file, its bytes checked to lie inside the file, without hole or overlap.

    Raises:
        CheckpointError: not a safetensors file, truncated, or inconsistent; names the sizes found and expected.
    """
    header, data_start = _read_json_header(path)
    header.pop("__metadata__", None)
    entries = {key: _entry(path, key, value, data_start) for key, value in header.items()}
    expected = data_start
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != expected:
            raise CheckpointError(
                f"{path} places {key} at byte {entry.start:,}, expected {expected:,}; {DOWNLOAD_AGAIN}"
            )
        expected = entry.stop
    if (size := path.stat().st_size) != expected:
        raise CheckpointError(f"{path} has {size:,} bytes, expected {expected:,}; {DOWNLOAD_AGAIN}")
    return entries


def read_metadata(path: Path) -> dict[str, str]:
    """The words a file's header has beside its tensors; empty where there are none.

    Raises:
        CheckpointError: not a safetensors file, or words that are no text.
    """
    found = _read_json_header(path)[0].get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise CheckpointError(f"{path} has metadata that are no words, {str(found)[:80]}; {DOWNLOAD_AGAIN}")
    return found


def _read_json_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header and at which byte the data begin."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 9 or length > min(MAX_HEADER_BYTES, size - 8) or start[8:] != b"{":
            if start[:2] == b"PK" or start[:1] == b"\x80":
                raise CheckpointError(
                    f"{path} is a pickle or zip archive, expected safetensors; pickles are never opened"
                )
            raise CheckpointError(
                f"{path} has {size:,} bytes, expected a header of {length + 8:,} and data; {DOWNLOAD_AGAIN}"
            )
        file.seek(8)
        return _parse(file.read(length), path), 8 + length


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice")
        return found

    try:
        header = json.loads(text.decode(), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has no readable safetensors header ({error}); {DOWNLOAD_AGAIN}") from None
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path} has a header of type {type(header).__name__}, expected an object; {DOWNLOAD_AGAIN}"
        )
    return header


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(path: Path, key: str, value: Any, data_start: int) -> Entry:
    fields = value if isinstance(value, dict) else {}
    stored, shape, offsets = (fields.get(name) for name in ("dtype", "shape", "data_offsets"))
    if (
        not isinstance(stored, str)
        or stored not in _BITS
        or not isinstance(shape, list)
        or not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(map(_is_count, [*shape, *offsets]))
        or math.prod(shape) * _BITS[stored] != 8 * (offsets[1] - offsets[0])
    ):
        raise CheckpointError(f"{path} describes {key} as {str(value)[:120]}, which is no tensor; {DOWNLOAD_AGAIN}")
    return Entry(path, stored, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def find_files(path: Path) -> list[Path]:
    """The weight files of a directory (one, or the shards its index names), or the one file given.

    Raises:
        CheckpointError: no weights, an index that points elsewhere, or a missing shard.
    """
    if path.is_file():
        return [path]
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if (path / INDEX).is_file():
        return _shards(path / INDEX)
    indices = sorted(path.glob(f"*{INDEX_SUFFIX}"))
    if len(indices) == 1:
        return _shards(indices[0])
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found
    raise CheckpointError(
        f"{path} holds {len(found)} safetensors files and no {INDEX}, expected {SINGLE} or shards with their index; "
        "download it again"
    )


def read_json(path: Path, limit: int = MAX_INDEX_BYTES) -> dict[str, Any]:
    """A JSON object of bounded size without NaN or infinity.

    Raises:
        CheckpointError: anything else.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        if path.stat().st_size > limit:
            raise ValueError(f"{path.stat().st_size:,} bytes, expected at most {limit:,}")
        data = json.loads(path.read_text("utf-8"), parse_constant=refuse)
        if not isinstance(data, dict):
            raise ValueError(f"a {type(data).__name__}, expected an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable as JSON ({str(error)[:200]}); {DOWNLOAD_AGAIN}") from None
    return data


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; {DOWNLOAD_AGAIN}")
    names = set()
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} points to {str(name)[:120]!r}, expected a safetensors file beside it; do not use it"
            )
        names.add(name)
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards ({', '.join(missing[:3])}); "
            "complete the download"
        )
    files = [index.parent / name for name in sorted(names)]
    stored = {key: path.name for path in files for key in read_header(path)}
    if stored != weight_map:
        wrong = sorted(stored.items() ^ weight_map.items())[0]
        raise CheckpointError(
            f"{index} and its shards disagree, first about {wrong[0]!r} in {wrong[1]}; {DOWNLOAD_AGAIN}"
        )
    return files


@dataclass
class TensorFiles:
    """The tensors of one or several safetensors files, by the files' keys."""

    files: list[Path]
    entries: dict[str, Entry] = field(default_factory=dict)
    _open: dict[Path, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for path in self.files:
            for key, entry in read_header(path).items():
                if key in self.entries:
                    raise CheckpointError(f"{key} occurs in {self.entries[key].path} and in {path}; keep one of them")
                self.entries[key] = entry

    def read(self, key: str, dtype: torch.dtype) -> Tensor:
        """A view of the file where it holds `dtype`, otherwise a converted copy."""
        entry = self.entries[key]
        return self._view(key, entry) if entry.dtype == dtype else _converted(entry, dtype)

    def pieces(self, key: str, count: int) -> Iterator[tuple[int, Tensor]]:
        """The tensor's numbers in row-major order, `count` at a time, read past the map: where they begin, and a
        buffer that the next piece overwrites."""
        return _pieces(self.entries[key], count)

    def _view(self, key: str, entry: Entry) -> Tensor:
        try:
            if entry.path not in self._open:
                self._open[entry.path] = safe_open(entry.path, "pt")
            return self._open[entry.path].get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{entry.path} cannot be read ({error}); {DOWNLOAD_AGAIN}") from None


def _converted(entry: Entry, dtype: torch.dtype) -> Tensor:
    out = torch.empty(entry.shape, dtype=dtype)
    flat = out.view(-1)
    for start, numbers in _pieces(entry, PIECE_BYTES // entry.dtype.itemsize):
        flat[start : start + len(numbers)] = numbers
    return out


def _pieces(entry: Entry, count: int) -> Iterator[tuple[int, Tensor]]:
    total = math.prod(entry.shape)
    buffer = scratch(min(count, total), entry.dtype)
    raw = raw_bytes(buffer)
    with entry.path.open("rb", buffering=0) as file:
        file.seek(entry.start)
        for start in range(0, total, count):
            size = min(count, total - start)
            wanted = raw[: size * entry.dtype.itemsize]
            while wanted:  # one unbuffered read may return less than asked for
                got = file.readinto(wanted)
                if not got:
                    raise CheckpointError(f"{entry.path} ended while it was read; {DOWNLOAD_AGAIN}")
                wanted = wanted[got:]
            yield start, buffer[:size]


# --- writing ---------------------------------------------------------------------------------------------------------

ReadTensor = Callable[[str], Tensor | Iterable[Tensor]]  # whole, or as pieces in row-major order
Types = torch.dtype | Mapping[str, torch.dtype]  # one for all tensors, or by key


def write_sharded(
    directory: Path, shapes: dict[str, Shape], dtype: Types, read: ReadTensor, shard_bytes: int, *, stem: str = "model",
    metadata: dict[str, str] | None = None,
) -> list[Path]:  # fmt: skip
    """Writes all tensors, read once in this order, one in memory at a time; with an index if they take more than
    `shard_bytes`. Names begin with `stem`; `metadata` as for `write_file`.

    Files appear under their names only when complete. Returns the files written, the index last.

    Raises:
        ResourceError: not enough room on the disk.
    """
    total = sum(_size(key, shape, dtype) for key, shape in shapes.items())
    require_space(directory, total)
    shards = list(_split(shapes, dtype, shard_bytes))
    if len(shards) == 1:
        names = [f"{stem}.safetensors"]
    else:
        names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    with writing(directory / name for name in names) as partial:
        for path, shard in zip(partial, shards, strict=True):
            write_file(path, shard, dtype, read, metadata)
    files = [directory / name for name in names]
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        files.append(directory / f"{stem}{INDEX_SUFFIX}")
        files[-1].write_text(json.dumps(index, indent=2) + "\n")
    return files


def _type(key: str, types: Types) -> torch.dtype:
    return types if isinstance(types, torch.dtype) else types[key]


def _size(key: str, shape: Shape, types: Types) -> int:
    return math.prod(shape) * _type(key, types).itemsize


def _split(shapes: dict[str, Shape], dtype: Types, shard_bytes: int) -> Iterator[dict[str, Shape]]:
    shard: dict[str, Shape] = {}
    used = 0
    for key, shape in shapes.items():
        size = _size(key, shape, dtype)
        if shard and used + size > shard_bytes:
            yield shard
            shard, used = {}, 0
        shard[key] = shape
        used += size
    yield shard


def write_file(
    path: Path, shapes: dict[str, Shape], dtype: Types, read: ReadTensor, metadata: dict[str, str] | None = None
) -> None:
    """One safetensors file, streamed in the order of `shapes`; `metadata` are words for its header.

    Wider types lie first, so that every tensor begins at a multiple of its own width, as mapping it needs.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for key in sorted(shapes, key=lambda key: -_type(key, dtype).itemsize):
        start, end = end, end + _size(key, shapes[key], dtype)
        stored = STORED_TYPES[_type(key, dtype)]
        header[key] = {"dtype": stored, "shape": list(shapes[key]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        data_start = file.tell()
        for key, shape in shapes.items():
            found = read(key)
            assert not isinstance(found, Tensor) or tuple(found.shape) == shape, key
            start, end = (data_start + offset for offset in header[key]["data_offsets"])
            file.seek(start)
            for tensor in (found,) if isinstance(found, Tensor) else found:
                assert tensor.dtype == _type(key, dtype), key
                write_tensor(file, tensor)
            assert file.tell() == end, key


def write_tensor(file: "BinaryIO | Any", tensor: Tensor) -> None:
    """The tensor's bytes in row-major order, little-endian."""
    file.write(raw_bytes(tensor.detach().contiguous()))


def require_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ResourceError(
            f"{directory} has {free / 1e9:.1f} GB free, the weights need {needed / 1e9:.1f} GB; "
            "free some space or choose another disk"
        )


@contextmanager
def writing(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Hands out hidden names for `paths`; renames them when the block ends well, removes them otherwise."""
    final = list(paths)
    partial = [path.with_name(f".{path.name}.partial") for path in final]
    try:
        yield partial
        for source, path in zip(partial, final, strict=True):
            source.replace(path)
    except OSError as error:
        raise ResourceError(
            f"{final[0].parent} cannot be written ({error.strerror}); check space and rights"
        ) from error
    finally:
        for source in partial:
            source.unlink(missing_ok=True)
