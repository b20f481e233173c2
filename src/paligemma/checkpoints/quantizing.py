"""A checkpoint -> the files of `quantized`, a few rows of one matrix in memory at a time.

In: the tensors of any checkpoint, and what the header shall say. Out: safetensors and side files, and how far each
matrix is off. Codes are made by the layer that answers with them, so a file holds what packing the source in memory
gives; codes that the source has already are taken over. Not done here: the layout (`quantized`), choosing source and
target (`conversion`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from paligemma.checkpoints.hf import EMBEDDING, pad_rows, padded_for_image_token, write_side_files
from paligemma.checkpoints.hf_config import ImageSettings
from paligemma.checkpoints.pack_report import Packed, PackReport
from paligemma.checkpoints.quantized import Coding, QuantizedTensors, numbers_in_rows, part
from paligemma.checkpoints.safetensors_io import write_sharded
from paligemma.checkpoints.tensors import Shape, TensorSource, parameter_shapes
from paligemma.config import Config
from paligemma.errors import CheckFailed
from paligemma.linear.packed import AT_ONCE, METHODS, PackedLinear
from paligemma.native.products import PANEL


def rows_at_once(width: int) -> int:
    """Whole panels of about `AT_ONCE` numbers."""
    return PANEL * max(1, AT_ONCE // (PANEL * width))


def check_numbers(error: float | None, tensors: TensorSource, name: str) -> None:
    """
    Raises:
        CheckFailed: the error of a matrix is none, because its numbers are.
    """
    if error is not None and not error < math.inf:
        raise CheckFailed(
            f"{tensors.where} has numbers in {tensors.key(name)} that are infinite or none, which cannot be quantised; "
            "download the file again, or load it without quantize"
        )


@dataclass
class Coder:
    """Codes the matrices of a source one by one.

    Attributes:
        shapes, methods: of the matrices in the files.
        rows: what was coded so far. waiting: tensors that come after the codes that were written last, by key.
    """

    source: TensorSource
    shapes: dict[str, Shape]
    methods: dict[str, str]
    rows: list[Packed] = field(default_factory=list)
    waiting: dict[str, Tensor] = field(default_factory=dict)

    def codes(self, name: str) -> Iterator[Tensor]:
        """A matrix' codes, some rows at a time; afterwards its scales and error are waiting."""
        scales, off, size = [], 0.0, 0.0
        kept = isinstance(self.source, QuantizedTensors) and self.source.methods.get(name) == self.methods[name]
        for codes, some_scales, squares in self._kept(name) if kept else self._made(name):
            scales.append(some_scales)
            off, size = off + squares[0], size + squares[1]
            yield codes
        error = None if kept else (off / size) ** 0.5 if size else 0.0
        check_numbers(error, self.source, name)
        self.waiting[part(name, "scales")] = torch.cat(scales)
        self.waiting[part(name, "error")] = torch.tensor(math.nan if error is None else error)
        self.rows.append(_packed(name, self.methods[name], self.shapes[name], error))

    def _kept(self, name: str) -> Iterator[tuple[Tensor, Tensor, tuple[float, float]]]:
        assert isinstance(self.source, QuantizedTensors)
        for codes, scales in self.source.rows(name, rows_at_once(self.shapes[name][1])):
            yield codes, scales, (0.0, 0.0)

    def _made(self, name: str) -> Iterator[tuple[Tensor, Tensor, tuple[float, float]]]:
        rows, width = self.shapes[name]
        if name == EMBEDDING and self.source.shapes[name] != (rows, width):
            table = pad_rows(self.source.read(name, self.source.dtypes[name]), rows)
            parts = iter(table.split(rows_at_once(width)))
        else:
            parts = numbers_in_rows(self.source, name, rows_at_once(width))
        for numbers in parts:
            layer = PackedLinear.pack(self.methods[name], numbers)
            assert layer.squares is not None
            yield *layer.in_rows(), layer.squares


def write_quantized(
    source: TensorSource,
    config: Config,
    directory: Path,
    *,
    coding: Coding,
    shard_bytes: int,
    image_token_id: int | None,
    image: ImageSettings,
    tokenizer_path: Path | None,
) -> tuple[list[Path], PackReport]:
    """A directory with matrices in codes as `coding` says, and the rest in its type.

    Returns:
        the files written, and how far each matrix is off.

    Raises:
        CheckFailed: a matrix has numbers that are none.
    """
    padded, _ = padded_for_image_token(config, image_token_id)
    parameters = dict(parameter_shapes(padded))
    methods = {name: method for name, shape in parameters.items() if (method := coding.method(name, shape)) is not None}
    shapes: dict[str, Shape] = {}
    types: dict[str, torch.dtype] = {}
    for name, shape in parameters.items():
        for key, (stored, possible) in coding.keys(name, shape).items():
            shapes[key], types[key] = stored, possible[0] if name in methods else coding.dtype
    coder, coded = Coder(source, parameters, methods), {part(name, "codes"): name for name in methods}

    def read(key: str) -> Tensor | Iterator[Tensor]:
        if key in coded:
            return coder.codes(coded[key])
        return coder.waiting.pop(key) if key in coder.waiting else source.read(key, coding.dtype)

    directory.mkdir(parents=True, exist_ok=True)
    metadata = coding.to_header()
    files = write_sharded(directory, shapes, types, read, shard_bytes, stem=coding.format, metadata=metadata)
    files += write_side_files(
        directory, config, dtype=coding.dtype, image_token_id=image_token_id, image=image, tokenizer_path=tokenizer_path
    )
    return files, PackReport(tuple(coder.rows))


def _packed(name: str, method: str, shape: Shape, error: float | None) -> Packed:
    """The report's row; bytes as the file holds them."""
    (codes, scales), (of_code, of_scale) = METHODS[method].row_shapes(*shape), METHODS[method].row_types
    stored = math.prod(codes) * of_code.itemsize + math.prod(scales) * of_scale.itemsize
    return Packed(name.removesuffix(".weight"), method, shape, stored, error)
