"""All layers of a decoder for a few rows as one call, by `stack.c`: from the embeddings to the last norm.

In: the layers' weights, matrices in codes or as they are; then rows, a cache's buffers and who sees whom. Out: hidden
states; the new keys and values are in the buffers. Not done here: asking whether it applies, the vocabulary.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paligemma.native.build import Library
from paligemma.native.decoder import Attention, alike, attention_of, pointers
from paligemma.native.products import PLAIN_ROWS, Matrix, Shape

MOST_ROWS = 510  # as kernels.c has room for, between a panel and its outputs


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A weight [outputs, inputs] in codes, as `coded_product` takes it; or the numbers themselves, without scales."""

    codes: Tensor
    scales: Tensor | None
    table: Tensor | None
    inputs: int
    outputs: int
    group: int

    @classmethod
    def plain(cls, weight: Tensor) -> "Coded":
        """A contiguous weight that is in no codes."""
        outputs, inputs = weight.shape
        return cls(codes=weight, scales=None, table=None, inputs=inputs, outputs=outputs, group=inputs)

    @property
    def bits(self) -> int:
        """Of a code, or of a number."""
        return 4 if self.table is not None else 8 * self.codes.element_size()


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Of one layer: weights of norms, of which those after a part may be missing, and its matrices."""

    pre_attention: Tensor
    post_attention: Tensor | None
    pre_ffw: Tensor
    post_ffw: Tensor | None
    q: Coded
    k: Coded
    v: Coded
    o: Coded
    gate: Coded
    up: Coded
    down: Coded
    window: int | None

    @property
    def matrices(self) -> tuple[Coded, ...]:
        return self.q, self.k, self.v, self.o, self.gate, self.up, self.down


class _Linear(ctypes.Structure):
    _fields_ = [("s", Shape), ("w", Matrix)]


class _Layer(ctypes.Structure):
    """`layer` of stack.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("pre_attention", "post_attention", "pre_ffw", "post_ffw")),
        ("qkv", _Linear * 3), ("o", _Linear), ("gate_up", _Linear * 2), ("down", _Linear),
        ("keys", ctypes.c_void_p), ("values", ctypes.c_void_p), ("window", ctypes.c_int64),
    ]  # fmt: skip


class _Stack(ctypes.Structure):
    """`stack` of stack.c."""

    _fields_ = [
        ("a", Attention), ("depth", ctypes.c_int64), ("width", ctypes.c_int64), ("layers", ctypes.c_void_p),
        ("norm", ctypes.c_void_p), ("eps", ctypes.c_float),
    ]  # fmt: skip


class Stack:
    """Layers that are alike, ready to be run; it keeps their tensors.

    Args:
        norm: weight of the last norm. All norms have one type, that of the rows and of the cache.
    """

    def __init__(
        self, layers: Sequence[Layer], norm: Tensor, *, eps: float, num_heads: int, scale: float, softcap: float | None
    ):
        assert fits(layers), "layers differ, or what has one input does not have one kind of codes"
        self.kept, self.norm, self.eps, self.num_heads = layers, norm, eps, num_heads
        self.scale, self.softcap, self.dtype = scale, softcap, norm.dtype
        plain = any(one.scales is None for layer in layers for one in layer.matrices)
        self.most_rows = PLAIN_ROWS if plain else MOST_ROWS
        self._layers = (_Layer * len(layers))(*(_described(layer, self.dtype) for layer in layers))

    def run(
        self, found: Library, x_BTD: Tensor, cos: Tensor, sin: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor],
        slot_BT: Tensor, marks: Sequence[Tensor], *, first: int, stop: int,
    ) -> Tensor:  # fmt: skip
        """Hidden states [B, T, D] after the last norm.

        Args:
            cos, sin: float32[B, 1, T, H/2] of the positions.
            keys, values: of each layer, [R, K, S, H]; rows from `first` on are used, and slots below `stop` are seen.
            slot_BT: int64[B, T], where new keys and values go.
            marks: query steps, query positions int64[B, T], key steps, key positions int64, key valid bool[B, stop].
        """
        batch, length, width = x_BTD.shape
        x, k, v = x_BTD.contiguous(), keys[0], values[0]
        assert batch * length <= self.most_rows, f"{batch * length} rows"
        assert max(stop, int(slot_BT.max()) + 1) <= k.shape[2], "no such slot"
        layers = type(self._layers).from_buffer_copy(self._layers)  # several threads may answer at a time
        for layer, key, value in zip(layers, keys, values, strict=True):
            assert (key.stride(), value.stride()) == (k.stride(), v.stride()), "all layers' buffers must lie alike"
            layer.keys = key.data_ptr() + first * key.stride(0) * key.element_size()
            layer.values = value.data_ptr() + first * value.stride(0) * value.element_size()
        heads, head_dim, marks, slots = self.num_heads, k.shape[3], alike(marks), slot_BT.contiguous()
        strides = (length * heads * head_dim, head_dim, heads * head_dim)
        asked = attention_of(
            (batch, heads, length, head_dim), strides, k, v, stop, scale=self.scale, softcap=self.softcap, window=None,
            marks=marks, bfloat16=x.dtype == torch.bfloat16, threads=torch.get_num_threads(),
        )  # fmt: skip
        stack = _Stack(
            asked, len(layers), width, ctypes.addressof(layers), self.norm.data_ptr(), self.eps
        )  # fmt: skip
        address, where = ctypes.addressof(stack), pointers(marks)
        cos, sin, out = cos.contiguous(), sin.contiguous(), torch.empty_like(x)
        scratch = torch.empty(found.handle.stack_bytes(address), dtype=torch.uint8)
        found.handle.run_stack(
            address, ctypes.addressof(where), slots.data_ptr(), cos.data_ptr(), sin.data_ptr(), x.data_ptr(),
            out.data_ptr(), scratch.data_ptr(),
        )  # fmt: skip
        return out


def fits(layers: Sequence[Layer]) -> bool:
    """Whether stack.c can run them: all alike, and one kind of codes where the input is one."""
    kinds = {tuple(_kind(one) for one in layer.matrices) for layer in layers}
    if len(kinds) != 1:
        return False
    q, k, v, _, gate, up, _ = layers[0].matrices
    return len({_input(one) for one in (q, k, v)}) == 1 and _input(gate) == _input(up) and gate.outputs == up.outputs


def _input(one: Coded) -> tuple[int, int, bool]:
    return one.inputs, one.group, one.scales is None


def _kind(one: Coded) -> tuple[int, int, int, int]:
    return one.inputs, one.outputs, one.group, one.bits


def _described(layer: Layer, dtype: torch.dtype) -> _Layer:
    norms = (layer.pre_attention, layer.post_attention, layer.pre_ffw, layer.post_ffw)
    q, k, v, o, gate, up, down = (_linear(one, dtype) for one in layer.matrices)
    return _Layer(
        *(None if norm is None else norm.data_ptr() for norm in norms), (_Linear * 3)(q, k, v), o,
        (_Linear * 2)(gate, up), down, None, None, layer.window or 0,
    )  # fmt: skip


def _linear(one: Coded, dtype: torch.dtype) -> _Linear:
    padded, half = -(-one.inputs // one.group) * one.group, int(dtype == torch.bfloat16)
    shape = Shape(0, one.inputs, one.outputs, padded, one.group, one.bits, int(one.bits == 4), half, 0)
    scales, table = (None if part is None else part.data_ptr() for part in (one.scales, one.table))
    return _Linear(shape, Matrix(one.codes.data_ptr(), scales, table))
