"""Quantised weights in files of our own: matrices as int8 codes with one scale for each row, everything else as it is.

A directory like Hugging Face's but for the safetensors, whose name is another: transformers would draw random weights
for every key it does not find. Keys are the model's own names, a matrix `X.weight` is `X.codes` int8[rows, columns] and
`X.scales` float32[rows]; the header tells `FORMAT`, method and the number type that was quantised. The tied table of
the vocabulary is one such matrix. Weight = code * scale: the numbers of `linear.quantized.Int8Linear`, which can take
them as they lie. Here they are decoded while they are read, in pieces. Not done here: running without decoding.
Reasons: docs/decisions/0014-quantised-weights-in-files.md.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from paligemma.checkpoints.hf import EMBEDDING, pad_rows, padded_for_image_token, write_side_files
from paligemma.checkpoints.hf_config import ImageSettings
from paligemma.checkpoints.safetensors_io import TORCH_TYPES, TensorFiles, read_metadata, write_sharded
from paligemma.checkpoints.tensors import (
    DTYPES,
    Shape,
    TensorSource,
    dtype_name,
    look_alike,
    parameter_shapes,
)
from paligemma.config import Config
from paligemma.errors import CheckpointError
from paligemma.linear.quantized import decode_rows, encode_rows

FORMAT = "paligemma-quantized"
VERSION = "1"
METHOD = "int8"
AT_ONCE = 2**18  # numbers that are coded or decoded at a time: larger pieces were measured to leave holes in memory
WRITE_AGAIN = f"write it again with `paligemma convert SOURCE TARGET --format {METHOD}`"


def is_matrix(name: str, shape: Shape) -> bool:
    """Whether this parameter is coded: the weights of linear layers and the table of the vocabulary."""
    return name.endswith(".weight") and len(shape) == 2


def part(name: str, what: str) -> str:
    """The key of a matrix' "codes" or "scales"."""
    return name.removesuffix("weight") + what


def is_quantized(files: TensorFiles) -> bool:
    """Whether the header says that these are files of this kind.

    Raises:
        CheckpointError: they are, but of a version, method or type that is not known here.
    """
    told = read_metadata(files.files[0])
    if told.get("format") != FORMAT:
        return False
    found = told.get("version"), told.get("method")
    if found != (VERSION, METHOD) or told.get("dtype") not in DTYPES:
        raise CheckpointError(
            f"{files.files[0]} holds version {found[0]} of quantised weights, {found[1]} of {told.get('dtype')}, "
            f"expected version {VERSION}, {METHOD}; {WRITE_AGAIN}"
        )
    return True


@dataclass
class QuantizedTensors:
    """The tensors of such files, decoded; `codes` and `scales` give a matrix as it is stored."""

    files: TensorFiles
    config: Config
    where: str
    unknown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        entries = self.files.entries
        left = set(entries)
        for name, shape in parameter_shapes(self.config).items():
            keys = [part(name, "codes"), part(name, "scales")] if is_matrix(name, shape) else [name]
            left -= set(keys)
            for key in keys:
                stored = entries[key].stored if key in entries else None
                wanted = ("I8",) if key.endswith(".codes") else ("F32",) if key.endswith(".scales") else TORCH_TYPES
                if stored is not None and stored not in wanted:
                    raise CheckpointError(
                        f"{self.where} stores {key} as {stored}, expected {' or '.join(wanted)}; {WRITE_AGAIN}"
                    )
            if keys[-1] in entries and len(keys) == 2 and entries[keys[1]].shape != shape[:1]:
                raise CheckpointError(
                    f"{self.where} has {keys[1]} of shape {list(entries[keys[1]].shape)}, expected one scale for each "
                    f"of the {shape[0]} rows; {WRITE_AGAIN}"
                )
        self.unknown = sorted(left)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The number type that was quantised."""
        return DTYPES[read_metadata(self.files.files[0])["dtype"]]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        entries = self.files.entries
        found = {}
        for name, shape in parameter_shapes(self.config).items():
            key = part(name, "codes") if is_matrix(name, shape) else name
            if key in entries and self.key(name) == key:
                found[name] = entries[key].shape
        return found

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        entries = self.files.entries
        return {name: entries[name].dtype if name in entries else self.dtype for name in self.shapes}

    def key(self, name: str) -> str:
        """Of a matrix the codes', or the scales' where these are missing."""
        if not is_matrix(name, parameter_shapes(self.config)[name]):
            return name
        codes, scales = part(name, "codes"), part(name, "scales")
        return scales if codes in self.files.entries and scales not in self.files.entries else codes

    def looks_like(self) -> str | None:
        vision, text = self.config.vision, self.config.text
        return look_alike(
            vision_width=vision.width, text_width=text.width, text_depth=text.depth, image_size_px=vision.image_size_px
        )

    def codes(self, name: str) -> Tensor:
        """int8[rows, columns] of a matrix, a view of the file."""
        return self.files.read(part(name, "codes"), torch.int8)

    def scales(self, name: str) -> Tensor:
        """float32[rows] of a matrix.

        Raises:
            CheckpointError: one is negative or no number.
        """
        scales = self.files.read(part(name, "scales"), torch.float32)
        if not bool(((scales >= 0) & scales.isfinite()).all()):
            raise CheckpointError(f"{self.where} has scales in {part(name, 'scales')} that are no sizes; {WRITE_AGAIN}")
        return scales

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        if name in self.files.entries:
            return self.files.read(name, dtype)
        scales = self.scales(name)
        rows, columns = self.shapes[name]
        out = torch.empty((rows, columns), dtype=dtype)
        at_once = max(1, AT_ONCE // columns)
        for start, codes in self.files.pieces(part(name, "codes"), at_once * columns):
            first, count = start // columns, len(codes) // columns
            out[first : first + count] = decode_rows(codes.view(-1, columns), scales[first : first + count], dtype)
        return out


def write_quantized(
    source: TensorSource,
    config: Config,
    directory: Path,
    *,
    dtype: torch.dtype,
    shard_bytes: int,
    image_token_id: int | None,
    image: ImageSettings,
    tokenizer_path: Path | None,
) -> list[Path]:
    """A directory with every matrix in int8 and the rest in `dtype`; one tensor in memory at a time.

    Returns the files written.
    """
    padded, _ = padded_for_image_token(config, image_token_id)
    shapes: dict[str, Shape] = {}
    types: dict[str, torch.dtype] = {}
    for name, shape in parameter_shapes(padded).items():
        if is_matrix(name, shape):
            shapes |= {part(name, "codes"): shape, part(name, "scales"): shape[:1]}
            types |= {part(name, "codes"): torch.int8, part(name, "scales"): torch.float32}
        else:
            shapes[name], types[name] = shape, dtype
    waiting: dict[str, Tensor] = {}  # the scales of the codes that were written last

    def read(key: str) -> Tensor:
        if key in waiting:
            return waiting.pop(key)
        if not key.endswith(".codes"):
            return source.read(key, dtype)
        name = key.removesuffix("codes") + "weight"
        weight = source.read(name, source.dtypes[name])
        codes, scales = _encoded(pad_rows(weight, padded.text.embedding_rows) if name == EMBEDDING else weight)
        waiting[part(name, "scales")] = scales
        return codes

    directory.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "version": VERSION, "method": METHOD, "dtype": dtype_name(dtype)}
    files = write_sharded(directory, shapes, types, read, shard_bytes, stem=METHOD, metadata=metadata)
    return files + write_side_files(
        directory, config, dtype=dtype, image_token_id=image_token_id, image=image, tokenizer_path=tokenizer_path
    )


def _encoded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `encode_rows`, some rows at a time, so that little memory is needed beside the codes."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight))
    at_once = max(1, AT_ONCE // weight.shape[1])
    for start in range(0, len(weight), at_once):
        stop = min(start + at_once, len(weight))
        codes[start:stop], scales[start:stop] = encode_rows(weight[start:stop])
    return codes, scales
