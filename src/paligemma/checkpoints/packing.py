"""A checkpoint on disk -> a model whose matrices are packed in 4 or 8 bits, one matrix in memory at a time.

In: an opened checkpoint and, for each part of the model, a method of `linear.packed.METHODS`. Out: the model, ready to
answer, and how far each matrix is off. Matrices are read past the memory map in pieces of some rows, so that the peak
is what stays and one piece; files that hold such codes give them as they are. Not done here: training, writing files.
"""

from collections.abc import Mapping

import torch
from torch import nn

from paligemma.checkpoints.load import Opened, read_parameter
from paligemma.checkpoints.pack_report import Packed, PackReport
from paligemma.checkpoints.parts import method_of, methods_of, spelled
from paligemma.checkpoints.quantized import QuantizedTensors, numbers_in_rows
from paligemma.checkpoints.quantizing import check_numbers, rows_at_once
from paligemma.checkpoints.tensors import Shape, TensorSource, dtype_name, empty_model
from paligemma.errors import ResourceError, UsageError
from paligemma.linear.packed import PackedEmbedding, PackedLinear
from paligemma.model import PaliGemmaModel


def chosen_methods(opened: Opened, quantize: "str | Mapping[str, str] | None") -> dict[str, str] | None:
    """The method of each part: that of the file, or the one asked for; None keeps all numbers as they are.

    Raises:
        UsageError: no method, or another one than that of a file which `paligemma quantize` wrote.
    """
    asked = None if quantize is None else methods_of(quantize)
    stored = opened.tensors.coding.parts if isinstance(opened.tensors, QuantizedTensors) else None
    if stored is None:
        return asked
    if asked not in (None, stored):
        raise UsageError(
            f"{opened.path} is quantised already, as {spelled(stored)}, and {spelled(asked or {})} was asked for; "
            "load it as it is, or quantise the original"
        )
    return dict(stored)


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
    try:
        for name, shape in opened.tensors.shapes.items():
            owner, _, leaf = name.rpartition(".")
            method = method_of(name, shape, methods)
            if method is None:
                tensor = read_parameter(opened, name, dtype, config)
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
    layer = (PackedEmbedding if isinstance(plain, nn.Embedding) else PackedLinear).empty(method, width, out)
    if isinstance(layer, PackedEmbedding):
        layer.dtype = dtype
    if isinstance(tensors, QuantizedTensors) and tensors.methods.get(name) == method:
        layer.adopt_pieces(tensors.rows(name, rows_at_once(width)))
        layer.error = tensors.error(name)
    else:
        layer.encode_pieces(numbers_in_rows(tensors, name, rows_at_once(width)))
        check_numbers(layer.error, tensors, name)
    return layer
