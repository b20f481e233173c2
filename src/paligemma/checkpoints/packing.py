"""A checkpoint on disk -> a model whose matrices are packed in 4 or 8 bits, one matrix in memory at a time.

In: an opened checkpoint and, for each part of the model, a method of `linear.packed.METHODS`. Out: the model, ready to
answer, and how far each matrix is off. Matrices are read past the memory map in pieces of some rows, so that the peak
is what stays and one piece; int8 files give their codes as they are. Not done here: training, writing files.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paligemma.checkpoints.hf import HFTensors
from paligemma.checkpoints.load import POSITIONS, Opened
from paligemma.checkpoints.quantized import QuantizedTensors
from paligemma.checkpoints.tensors import Shape, TensorSource, dtype_name, empty_model
from paligemma.config import did_you_mean
from paligemma.errors import CheckFailed, ResourceError, UsageError
from paligemma.linear.packed import AT_ONCE, METHODS, PackedEmbedding, PackedLinear
from paligemma.model import PaliGemmaModel, resample_positions
from paligemma.native.products import PANEL

PARTS = {  # full names of the modules that belong to each; the small projector stays as it is
    "vision": r"vision_tower\.layers\..+",
    "lm": r"language_model\.layers\..+",
    "head": r"language_model\.embed_tokens",
}
VISION = {"int4": "int8", "nf4": "int8"}  # of one method for all: few of the bytes, none of those each token reads


@dataclass(frozen=True)
class Packed:
    """One packed matrix.

    Attributes:
        error: |W - decoded| / |W|; None where an int8 file's codes were taken over.
    """

    name: str
    method: str
    shape: Shape
    bytes: int
    error: float | None


@dataclass(frozen=True)
class PackReport:
    """What was packed, in the order of the file."""

    rows: tuple[Packed, ...]

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    def __str__(self) -> str:
        known = [row.error for row in self.rows if row.error is not None]
        worst = f"; the least exact is {max(known):.1%} off" if known else ""
        return f"{len(self.rows)} matrices take {self.bytes / 1e9:.3g} GB in fewer bits{worst}"

    def to_text(self) -> str:
        """A line for each matrix: name, shape, method, error."""
        lines = [
            (row.name, " x ".join(map(str, row.shape)), row.method, "-" if row.error is None else f"{row.error:.4f}")
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
        )


def methods_of(quantize: "str | Mapping[str, str]") -> dict[str, str]:
    """The method of each part, of "int8", "int4", "nf4", of "lm=int4,head=int8" or of {"lm": "int4"}.

    One method alone means all parts, with the image encoder in 8 bits under 4-bit methods.

    Raises:
        UsageError: an unknown part or method, or nothing at all.
    """
    if isinstance(quantize, str) and "=" not in quantize:
        method = _known(quantize, METHODS, "quantize")
        return {part: VISION.get(method, method) if part == "vision" else method for part in PARTS}
    pairs = quantize if isinstance(quantize, Mapping) else dict(_pair(given) for given in quantize.split(","))
    found = {_known(part, PARTS, "quantize"): _known(method, METHODS, "quantize") for part, method in pairs.items()}
    if not found:
        raise UsageError(f"quantize names no part; give a method ({', '.join(METHODS)}) or parts as lm=int4")
    return found


def _pair(given: str) -> tuple[str, str]:
    part, equals, method = given.strip().partition("=")
    if not equals:
        raise UsageError(f"quantize has {given!r}; give parts as lm=int4,head=int8, or one method for all")
    return part, method


def _known(name: str, table: dict[str, Any], option: str) -> str:
    if name not in table:
        raise UsageError(f"unknown {option} {name!r}{did_you_mean(name, table)}")
    return name


def build_packed(
    opened: Opened,
    dtype: torch.dtype,
    methods: Mapping[str, str],
    device: "str | torch.device" = "cpu",
    *,
    image_size_px: int | None = None,
) -> tuple[PaliGemmaModel, PackReport]:
    """The model in evaluation mode, the matrices of the parts in `methods` packed, everything else in `dtype`.

    Args:
        image_size_px: of the pictures it will take; by default the checkpoint's own.

    Raises:
        ResourceError: not enough memory.
        CheckFailed: a matrix has numbers that are none.
    """
    config = opened.config.at_resolution(image_size_px) if image_size_px else opened.config
    model, rows = empty_model(config), []
    where = {re.compile(PARTS[part]): method for part, method in methods.items()}
    try:
        for name, shape in opened.tensors.shapes.items():
            owner, _, leaf = name.rpartition(".")
            method = next((m for pattern, m in where.items() if leaf == "weight" and pattern.fullmatch(owner)), None)
            if method is None or len(shape) != 2:
                tensor = opened.tensors.read(name, dtype)
                if name == POSITIONS and len(tensor) != config.vision.num_image_tokens:
                    tensor = resample_positions(tensor, config.vision.grid_size)
                setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor.to(device), requires_grad=False))
                continue
            plain = model.get_submodule(owner)
            layer = _pack(opened.tensors, name, shape, method, plain, dtype).to(device)
            layer.bias = getattr(plain, "bias", None)  # has no numbers yet where the file has them behind the weight
            model.set_submodule(owner, layer, strict=True)
            stored = layer.codes.numel() + layer.scales.numel()
            rows.append(Packed(owner, method, shape, stored, layer.error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(
            f"the weights in {dtype_name(dtype)} and {', '.join(sorted(set(methods.values())))} need more memory than "
            f"{device} has free; take a smaller model or fewer bits"
        ) from error
    return model.eval(), PackReport(tuple(rows))


def _pack(
    tensors: TensorSource, name: str, shape: Shape, method: str, plain: nn.Module, dtype: torch.dtype
) -> PackedLinear:
    """The packed twin of a linear layer or of the vocabulary's table."""
    out, width = shape
    layer = (PackedEmbedding if isinstance(plain, nn.Embedding) else PackedLinear)(method, width, out)
    if isinstance(layer, PackedEmbedding):
        layer.dtype = dtype
    if isinstance(tensors, QuantizedTensors) and METHODS[method].levels is None:
        layer.adopt(tensors.codes(name), tensors.scales(name))
        return layer
    layer.encode_pieces(_pieces(tensors, name, shape))
    if layer.error is not None and not layer.error < float("inf"):
        raise CheckFailed(
            f"{tensors.where} has numbers in {tensors.key(name)} that are infinite or none, which cannot be quantised; "
            "download the file again, or load it without quantize"
        )
    return layer


def _pieces(tensors: TensorSource, name: str, shape: Shape) -> Iterator[Tensor]:
    """Rows of a matrix, some whole panels at a time; what a piece was is lost with the next."""
    rows = PANEL * max(1, AT_ONCE // (PANEL * shape[1]))
    if isinstance(tensors, HFTensors):
        for _, numbers in tensors.files.pieces(tensors.keys[name], rows * shape[1]):
            yield numbers.view(-1, shape[1])
    else:
        yield from tensors.read(name, tensors.dtypes[name]).split(rows)
