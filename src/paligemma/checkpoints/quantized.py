"""Quantised weights in files of our own: matrices as codes and scales in rows, everything else as it is.

A directory like Hugging Face's but for the safetensors, whose name is another: transformers would draw random weights
for every key it does not find. Keys are the model's own names; `X.weight`, a matrix, is `X.codes` and `X.scales`:

    method     X.codes                 X.scales                      a number is
    int8       int8[rows, columns]     float32[rows]                 code x scale
    fp8        uint8[rows, columns]    float32[rows]                 float8_e4m3fn of the code x scale
    int4, nf4  uint8[rows, columns/2]  bfloat16[rows, columns/64]    level of the code x scale

    version 1  every matrix in int8; decoded while it is read          `paligemma convert --format int8`
    version 2  the matrices of the parts that the header names, each    `paligemma quantize`
               with its error when it was coded, `X.error`; stays in codes when it is loaded to answer

The header tells `FORMAT`, version, methods, the number type that was quantised and, in version 2, whose weights these
were (`fingerprint`). The levels are those of `linear.packed.METHODS`. Not done here: writing (`quantizing`), running
without decoding (`packing`). Reasons: docs/decisions/0014-quantised-weights-in-files.md.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from paligemma.checkpoints.hf import HFTensors
from paligemma.checkpoints.parts import is_matrix, method_of, methods_of, spelled
from paligemma.checkpoints.safetensors_io import STORED_TYPES, TORCH_TYPES, TensorFiles, read_metadata
from paligemma.checkpoints.tensors import DTYPES, Shape, TensorSource, dtype_name, look_alike, parameter_shapes
from paligemma.config import Config
from paligemma.errors import CheckpointError, UsageError
from paligemma.linear.packed import METHODS

FORMAT = "paligemma-quantized"
INT8 = "int8"  # the method, and the name of the format, of version 1
QUANTIZED = "quantized"  # the name of the format of version 2
AT_ONCE = 2**18  # numbers that are decoded at a time: larger pieces were measured to leave holes in memory
WRITE_AGAIN = "write it again with `paligemma quantize` or `paligemma convert --format int8`"


def part(name: str, what: str) -> str:
    """The key of a matrix' "codes", "scales" or "error"."""
    return name.removesuffix("weight") + what


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What the header of such files says.

    Attributes:
        parts: the method of each part (version 2); None is every matrix in int8, to be decoded (version 1).
        dtype: the number type that was quantised, and of what is no matrix.
        sha256: `fingerprint` of the weights that were quantised (version 2).
    """

    dtype: torch.dtype
    parts: Mapping[str, str] | None = None
    sha256: str = ""

    @property
    def format(self) -> str:
        return INT8 if self.parts is None else QUANTIZED

    def method(self, name: str, shape: Shape) -> str | None:
        """The name in `METHODS` of how this parameter is coded; None where it is not."""
        if self.parts is None:
            return INT8 if is_matrix(name, shape) else None
        return method_of(name, shape, self.parts)

    def keys(self, name: str, shape: Shape) -> dict[str, tuple[Shape, tuple[torch.dtype, ...]]]:
        """Shape and possible types of every tensor that a parameter is kept in."""
        method = self.method(name, shape)
        if method is None:
            return {name: (shape, tuple(TORCH_TYPES.values()))}
        (codes, scales), (of_code, of_scale) = METHODS[method].row_shapes(*shape), METHODS[method].row_types
        found: dict[str, tuple[Shape, tuple[torch.dtype, ...]]] = {
            part(name, "codes"): (codes, (of_code,)), part(name, "scales"): (scales, (of_scale,)),
        }  # fmt: skip
        return found if self.parts is None else {**found, part(name, "error"): ((), (torch.float32,))}

    def to_header(self) -> dict[str, str]:
        told = {"format": FORMAT, "dtype": dtype_name(self.dtype)}
        if self.parts is None:
            return {**told, "version": "1", "method": INT8}
        return {**told, "version": "2", "parts": spelled(self.parts), "sha256": self.sha256}


def read_coding(files: TensorFiles) -> Coding | None:
    """What the headers say; None where these are no files of this kind.

    Raises:
        CheckpointError: they are, but of a version, method or type that is not known here, or they disagree.
    """
    told = read_metadata(files.files[0])
    if told.get("format") != FORMAT:
        return None
    where = files.files[0]
    for file in files.files[1:]:
        if read_metadata(file) != told:
            raise CheckpointError(f"{where} and {file.name} are shards of different checkpoints; {WRITE_AGAIN}")
    version, dtype = told.get("version"), DTYPES.get(told.get("dtype", ""))
    if version == "1" and told.get("method") == INT8 and dtype is not None:
        return Coding(dtype=dtype)
    if version == "2" and dtype is not None:
        try:
            return Coding(dtype=dtype, parts=methods_of(told.get("parts", "")), sha256=told.get("sha256", ""))
        except UsageError as error:
            raise CheckpointError(f"{where} has quantised weights that are not known: {error}; {WRITE_AGAIN}") from None
    raise CheckpointError(
        f"{where} holds version {version} of quantised weights, {told.get('method') or told.get('parts')} of "
        f"{told.get('dtype')}, expected version 1, {INT8}, or version 2; {WRITE_AGAIN}"
    )


@dataclass
class QuantizedTensors:
    """The tensors of such files, decoded; `rows` gives a matrix as it is stored."""

    files: TensorFiles
    config: Config
    where: str
    coding: Coding
    unknown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        entries = self.files.entries
        left = set(entries)
        for name, shape in parameter_shapes(self.config).items():
            keys = self.coding.keys(name, shape)
            left -= set(keys)
            for key, (wanted, types) in keys.items():
                if key in entries:
                    self._check(key, types, wanted if key != name and not key.endswith(".codes") else None)
        self.unknown = sorted(left)

    def _check(self, key: str, types: tuple[torch.dtype, ...], shape: Shape | None) -> None:
        entry, names = self.files.entries[key], [STORED_TYPES[dtype] for dtype in types]
        if entry.stored not in names:
            raise CheckpointError(
                f"{self.where} stores {key} as {entry.stored}, expected {' or '.join(names)}; {WRITE_AGAIN}"
            )
        if shape is not None and entry.shape != shape:
            each = "group of the " if len(shape) == 2 else "of the "
            wanted = f"one scale for each {each}{shape[0]} rows" if shape else "one number"
            raise CheckpointError(
                f"{self.where} has {key} of shape {list(entry.shape)}, expected {wanted}; {WRITE_AGAIN}"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The number type that was quantised."""
        return self.coding.dtype

    @cached_property
    def methods(self) -> dict[str, str]:
        """The method's name of every matrix that is in codes."""
        shapes = parameter_shapes(self.config).items()
        return {name: method for name, shape in shapes if (method := self.coding.method(name, shape)) is not None}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Of parameters all of whose tensors are there; other codes than a matrix needs count as its shape."""
        entries = self.files.entries
        found = {}
        for name, shape in parameter_shapes(self.config).items():
            keys = self.coding.keys(name, shape)
            if all(key in entries for key in keys):
                first, (wanted, _) = next(iter(keys.items()))
                found[name] = shape if entries[first].shape == wanted else entries[first].shape
        return found

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        entries = self.files.entries
        return {name: self.dtype if name in self.methods else entries[name].dtype for name in self.shapes}

    def key(self, name: str) -> str:
        """Of a matrix its codes', or the first that is missing."""
        keys = list(self.coding.keys(name, parameter_shapes(self.config)[name]))
        return next((key for key in keys if key not in self.files.entries), keys[0])

    def looks_like(self) -> str | None:
        vision, text = self.config.vision, self.config.text
        return look_alike(
            vision_width=vision.width, text_width=text.width, text_depth=text.depth, image_size_px=vision.image_size_px
        )

    def codes(self, name: str) -> Tensor:
        """A matrix' codes in rows, a view of the file."""
        return self.files.read(part(name, "codes"), METHODS[self.methods[name]].row_types[0])

    def scales(self, name: str) -> Tensor:
        """A matrix' scales in rows.

        Raises:
            CheckpointError: one is no number, or negative where only sizes belong.
        """
        method = METHODS[self.methods[name]]
        scales = self.files.read(part(name, "scales"), method.row_types[1])
        if not bool(scales.isfinite().all()) or (method.levels is None and bool((scales < 0).any())):
            raise CheckpointError(f"{self.where} has scales in {part(name, 'scales')} that are no sizes; {WRITE_AGAIN}")
        return scales

    def error(self, name: str) -> float | None:
        """How far a matrix was off when it was coded, |W - decoded| / |W|; None where the file does not say."""
        if self.coding.parts is None:
            return None
        error = self.files.read(part(name, "error"), torch.float32).item()
        return None if math.isnan(error) else error

    def rows(self, name: str, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Codes and scales of a matrix in rows, `count` rows at a time, read past the map; the next piece overwrites
        the codes."""
        scales, width = self.scales(name), self.files.entries[part(name, "codes")].shape[1]
        for start, codes in self.files.pieces(part(name, "codes"), count * width):
            first = start // width
            yield codes.view(-1, width), scales[first : first + len(codes) // width]

    def decoded(self, name: str, count: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """The numbers of a matrix, `count` rows at a time."""
        method = METHODS[self.methods[name]]
        for codes, scales in self.rows(name, count):
            yield method.decode(codes, scales, self.shapes[name][1], dtype)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        if name not in self.methods:
            return self.files.read(name, dtype)
        out, start = torch.empty(self.shapes[name], dtype=dtype), 0
        for numbers in self.decoded(name, max(1, AT_ONCE // out.shape[1]), dtype):
            out[start : start + len(numbers)] = numbers
            start += len(numbers)
        return out


def check_original(tensors: TensorSource, wanted_to: str) -> None:
    """
    Raises:
        UsageError: weights of `paligemma quantize`, which are there to answer.
    """
    if isinstance(tensors, QuantizedTensors) and tensors.coding.parts is not None:
        raise UsageError(
            f"{tensors.where} is quantised already, as {spelled(tensors.coding.parts)}, expected original weights to "
            f"{wanted_to}; take those"
        )


def numbers_in_rows(tensors: TensorSource, name: str, count: int) -> Iterator[Tensor]:
    """A matrix in its own number type, `count` rows at a time; what a piece was is lost with the next."""
    if isinstance(tensors, HFTensors):
        width = tensors.shapes[name][1]
        for _, numbers in tensors.files.pieces(tensors.keys[name], count * width):
            yield numbers.view(-1, width)
    elif isinstance(tensors, QuantizedTensors) and name in tensors.methods:
        yield from tensors.decoded(name, count, tensors.dtype)
    else:
        yield from tensors.read(name, tensors.dtypes[name]).split(count)
