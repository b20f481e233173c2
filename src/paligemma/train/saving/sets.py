"""One checkpoint set: a folder of safetensors files and a manifest that vouches for every byte of them.

    step-00000500/
      weights.safetensors, optimizer.safetensors, ema.safetensors    one file per kind of tensor
      manifest.json    step, facts, environment, lengths of the logs; size and sha256 of each file, and of itself

In: named tensors `KIND/NAME` and plain values. Out: the same. No pickle anywhere. Not done here: where a set lies, when
it counts, which ones are kept (`state.py`). Source: the safetensors specification.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paligemma.checkpoints.safetensors_io import read_header
from paligemma.checkpoints.tensors import raw_bytes
from paligemma.disk import Files, write_all
from paligemma.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"
PIECE_BYTES = 8 * 2**20
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a set holds.

    Attributes:
        step: optimizer steps that are done.
        tensors: `KIND/NAME` on the CPU, views of the files; copy them before the set may be removed.
        facts: what the loop wrote down, as JSON gives it back.
        environment: where it was written, see `process.environment`.
        logs: length in bytes of each log at that moment.
        folder: of the set.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    environment: dict[str, Any]
    logs: dict[str, int]
    folder: Path


def write_set(
    files: Files,
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    environment: Mapping[str, Any],
    logs: Mapping[str, int],
) -> None:
    """Writes and syncs every file of a set into an empty folder, the manifest last.

    Raises:
        OSError: the disk's own.
    """
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        kinds.setdefault(kind, {})[rest] = tensor
    written = {}
    for kind, group in kinds.items():
        name = f"{kind}.safetensors"
        written[name] = _write_tensors(files, folder / name, group)
    body = {
        "format": FORMAT, "step": step, "files": written, "logs": dict(logs), "environment": dict(environment),
        "facts": dict(facts),
    }  # fmt: skip
    descriptor = files.open(folder / MANIFEST)
    try:
        write_all(files, descriptor, _manifest(body))
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    files.sync_directory(folder)


def read_set(folder: Path) -> Restored:
    """A set whose every byte is as it was written.

    Raises:
        CheckpointError: in one clause, what is missing or changed.
    """
    body = check_set(folder)
    tensors = {}
    for name in body["files"]:
        kind = name.removesuffix(".safetensors")
        try:
            with safe_open(folder / name, "pt") as file:
                for key in read_header(folder / name):
                    tensors[f"{kind}/{key}"] = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{name} cannot be read ({error})") from error
    return Restored(
        step=body["step"], tensors=tensors, facts=body["facts"], environment=body["environment"], logs=body["logs"],
        folder=folder,
    )  # fmt: skip


def check_set(folder: Path) -> dict[str, Any]:
    """Reads every byte back from the disk and compares; returns what the manifest says.

    Raises:
        CheckpointError: in one clause, what is missing or changed.
    """
    body = _read_manifest(folder / MANIFEST)
    for name, expected in body["files"].items():
        try:
            found = _digest(folder / name)
        except OSError as error:
            raise CheckpointError(f"{name} cannot be read ({error.strerror})") from error
        if found["bytes"] != expected["bytes"]:
            raise CheckpointError(f"{name} has {found['bytes']:,} bytes, expected {expected['bytes']:,}")
        if found != expected:
            raise CheckpointError(f"{name} was changed, its sha256 is another one")
    return body


# --- inside ---


def _write_tensors(files: Files, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """One safetensors file, streamed and synced; returns its size and sha256. Wide types first, so all are aligned."""
    ordered = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    header, end = {}, 0
    for name in ordered:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _TYPES[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    descriptor = files.open(path)
    try:
        parts = (raw_bytes(tensors[name].detach().cpu().contiguous()) for name in ordered)
        for piece in _pieces(itertools.chain([memoryview(len(text).to_bytes(8, "little") + text)], parts)):
            digest.update(piece)
            write_all(files, descriptor, piece)
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    return {"bytes": 8 + len(text) + end, "sha256": digest.hexdigest()}


def _pieces(parts: Iterable[memoryview]) -> Iterator[bytes]:
    """The same bytes, small parts put together and large ones cut."""
    held = bytearray()
    for whole in parts:
        for start in range(0, len(whole), PIECE_BYTES):
            held += whole[start : start + PIECE_BYTES]
            if len(held) >= PIECE_BYTES:
                yield bytes(held)
                held.clear()
    yield bytes(held)


def _manifest(body: Mapping[str, Any]) -> bytes:
    def text(value: Any) -> bytes:
        return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"

    return text({"sha256": hashlib.sha256(text(body)).hexdigest(), **body})


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        body = json.loads(data)
        body.pop("sha256")
        same = _manifest(body) == data
    except OSError as error:
        raise CheckpointError(f"{MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST} is no manifest") from error
    if not same:
        raise CheckpointError(f"{MANIFEST} was changed, its sha256 is another one")
    if body.get("format") != FORMAT:
        raise CheckpointError(f"{MANIFEST} has format {body.get('format')!r}, this program reads {FORMAT}")
    odd = [name for name in body["files"] if Path(name).name != name or not name.endswith(".safetensors")]
    if odd:
        raise CheckpointError(f"{MANIFEST} names {odd[0]!r}, which is no file of a set")
    return body


def _digest(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file as the disk has it: what the system remembers of it is let go first, where it can."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}
