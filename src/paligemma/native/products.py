"""The C kernels as functions of tensors; each returns None where it does not apply, and the caller goes the plain way.

In: tensors on the CPU, float32 or bfloat16. Out: tensors of the same type. Not done here: gradients, making codes.
"""

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from paligemma.native.build import library

PLAIN_ROWS = 4  # more rows are the work of `many_product`, or of oneDNN's and MKL's matrix products
STEPS = ("none", "gelu", "gated")  # what `many_product` does to its sums, as numbered in many_rows.c
ALONE = 2**17  # numbers of a weight below which waking other threads costs more than it gives
FLOATS = (torch.float32, torch.bfloat16)
PANEL = 64  # outputs whose codes lie together, as in steps.h


class Shape(ctypes.Structure):
    """`shape` of steps.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("rows", "inputs", "outputs", "padded_in", "group", "bits", "grouped", "bfloat16", "threads")
    ]


class Matrix(ctypes.Structure):
    """`matrix` of steps.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("codes", "scales", "table")]


@lru_cache(maxsize=4096)
def shape_of(*sizes: int) -> Shape:
    """The same one for the same sizes."""
    return Shape(*sizes)


def plain_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """x W' + b, sums in float32; None where there are no kernels, or not for this.

    Args:
        x: float[..., in], at most 4 rows in all.
        weight: [out, in] of the same type, contiguous.
        bias: [out] of the same type.
    """
    rows = x.numel() // x.shape[-1]
    alike = x.dtype == weight.dtype and x.dtype in FLOATS and (bias is None or bias.dtype == x.dtype)
    if not alike or not 0 < rows <= PLAIN_ROWS or not _takes(x, weight) or (found := library()) is None:
        return None
    out, width = weight.shape
    x, y = x.contiguous(), x.new_empty((*x.shape[:-1], out))
    threads = torch.get_num_threads() if out * width > ALONE else 1
    shape = shape_of(rows, width, out, width, width, 0, 0, int(x.dtype == torch.bfloat16), threads)
    found.handle.plain_product(
        ctypes.addressof(shape), x.data_ptr(), weight.data_ptr(), _pointer(bias), y.data_ptr()
    )  # fmt: skip
    return y


def many_product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, up: Tensor | None = None, gelu: bool = False
) -> Tensor | None:
    """x W' + b of bfloat16 in any number of rows; or gelu of that; or gelu(x W') * (x up'), rounded as separate steps
    would. A row's bits do not depend on the others. None where this processor or another size has no kernel.

    Args:
        x: [..., in], an even number of inputs.
        weight, up: [out, in], contiguous, a multiple of 8 outputs.
        bias: [out].
    """
    given = [part for part in (x, weight, bias, up) if part is not None]
    if any(part.dtype != torch.bfloat16 for part in given) or not _takes(x, weight) or (found := library()) is None:
        return None
    out, width = weight.shape
    rows = x.numel() // width
    threads = torch.get_num_threads() if rows * out * width > ALONE else 1
    shape = shape_of(rows, width, out, width, width, 0, 0, 1, threads)
    size = found.handle.many_rows_bytes(ctypes.addressof(shape))
    if not size:
        return None
    x, y, scratch = x.contiguous(), x.new_empty((*x.shape[:-1], out)), torch.empty(size, dtype=torch.uint8)
    step = STEPS.index("gated" if up is not None else "gelu" if gelu else "none")
    found.handle.many_rows(
        ctypes.addressof(shape), step, x.data_ptr(), weight.data_ptr(), _pointer(up), _pointer(bias), y.data_ptr(),
        scratch.data_ptr(),
    )  # fmt: skip
    return y


def takes_many(width: int, out: int) -> bool:
    """Whether `many_product` has a kernel for these sizes."""
    found, shape = library(), shape_of(1, width, out, width, width, 0, 0, 1, 1)
    return found is not None and found.handle.many_rows_bytes(ctypes.addressof(shape)) > 0


def coded_product(
    x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, *, outputs: int, group: int, table: Tensor | None
) -> Tensor | None:
    """x W' + b with W in codes and x rounded to 8 bits in groups; None where there are no kernels, or not for this.

    Args:
        x: float[..., in].
        codes: uint8 as in kernels.c, inputs padded to whole groups, outputs to whole panels.
        scales: their bytes, uint8: of float32[panels, 64] without a table, of bfloat16[panels, groups, 64] with one.
        bias: [outputs] of the type of x.
        table: uint8[16], what 4-bit codes stand for plus 128; None where codes are bytes.
    """
    rows = x.numel() // x.shape[-1]
    fits = x.dtype in FLOATS and (bias is None or bias.dtype == x.dtype)
    if not fits or rows == 0 or not _takes(x, codes) or (found := library()) is None:
        return None
    width, bits = x.shape[-1], 8 if table is None else 4
    padded = -(-width // group) * group
    threads = torch.get_num_threads() if rows * outputs * width > ALONE else 1
    shape = shape_of(
        rows, width, outputs, padded, group, bits, int(table is not None), int(x.dtype == torch.bfloat16), threads
    )
    address = ctypes.addressof(shape)
    x, y = x.contiguous(), x.new_empty((*x.shape[:-1], outputs))
    scratch = torch.empty(found.handle.scratch_bytes(address), dtype=torch.uint8)
    weight = Matrix(codes.data_ptr(), scales.data_ptr(), _pointer(table))
    found.handle.coded_product(
        address, x.data_ptr(), ctypes.addressof(weight), _pointer(bias), y.data_ptr(), scratch.data_ptr()
    )  # fmt: skip
    return y


def pack(
    weight: Tensor, codes: Tensor, scales: Tensor, *, group: int, levels: Tensor | None
) -> tuple[float, float] | None:
    """Codes of a weight, written into `codes` and `scales` as `coded_product` takes them; None without kernels.

    Args:
        weight: float[out, in], contiguous.
        levels: float32[16], what 4-bit codes stand for; None makes bytes.

    Returns:
        |weight - decoded| squared, and |weight| squared.
    """
    if weight.dtype not in FLOATS or not _takes(weight, codes) or (found := library()) is None:
        return None
    out, width = weight.shape
    padded, bits = -(-width // group) * group, 8 if levels is None else 4
    threads = torch.get_num_threads()
    shape = shape_of(
        0, width, out, padded, group, bits, int(levels is not None), int(weight.dtype == torch.bfloat16), threads
    )
    size, scratch = ctypes.c_double(), torch.empty(threads, 2, padded)
    off = found.handle.pack(
        ctypes.addressof(shape), weight.contiguous().data_ptr(), _pointer(levels), codes.data_ptr(), scales.data_ptr(),
        ctypes.addressof(size), scratch.data_ptr(),
    )  # fmt: skip
    return off, size.value


def _takes(x: Tensor, stored: Tensor) -> bool:
    on_cpu = x.device.type == "cpu" == stored.device.type
    return on_cpu and stored.is_contiguous() and not (torch.is_grad_enabled() and x.requires_grad)


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
