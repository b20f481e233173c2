"""Codes in rows, as files keep them <-> codes in panels, as kernels read them; eight codes of 4 bits are one word.

    rows     8 bits: int8[out, in]           4 bits: uint8[out, in / 2], lower half of a byte first
    panels   as `native/kernels.c` tells: 64 rows side by side, four bytes of a row together; bytes are 128 too large,
             and the upper half of four bytes belongs to the four inputs behind those of the lower half

Both ways are a change of bits within words of 32 and a transposition, at the pace of memory. Not done here: scales.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.native.products import PANEL

_OFFSETS = -(0x80808080 ^ 0xFFFFFFFF) - 1  # 128 in each byte of an int32
_BYTES, _HALVES = 0x0000FF00, 0x00F000F0  # the inner ones of two neighbours that change places


def to_panels(codes: Tensor, bits: int, row_bytes: int, fill: int) -> Tensor:
    """uint8[panels, 64 * row_bytes] of codes in rows; missing rows and bytes of rows become `fill`."""
    missing = (0, row_bytes - codes.shape[1], 0, -len(codes) % PANEL)
    rows = F.pad(codes.view(torch.uint8), missing, value=fill) if any(missing) else codes.contiguous()
    words = rows.view(torch.int32)
    words = words ^ _OFFSETS if bits == 8 else _swap(_swap(words, _BYTES, 8), _HALVES, 4)
    by_panel = words.view(-1, PANEL, row_bytes // 4).transpose(1, 2).contiguous()
    return by_panel.view(len(by_panel), -1).view(torch.uint8)


def to_rows(panels: Tensor, bits: int, rows: int, row_bytes: int) -> Tensor:
    """The inverse: the first `rows` rows and `row_bytes` bytes of each."""
    words = panels.view(torch.int32).view(len(panels), -1, PANEL).transpose(1, 2).contiguous()
    words = words ^ _OFFSETS if bits == 8 else _swap(_swap(words, _HALVES, 4), _BYTES, 8)
    found = words.view(len(panels) * PANEL, -1).view(torch.uint8)[:rows, :row_bytes].contiguous()
    return found.view(torch.int8) if bits == 8 else found


def _swap(words: Tensor, mask: int, distance: int) -> Tensor:
    """Bits of `mask` change places with those `distance` above; int32, whose sign the mask keeps out."""
    differ = ((words >> distance) ^ words) & mask
    return words ^ differ ^ (differ << distance)
