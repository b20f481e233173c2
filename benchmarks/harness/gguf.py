"""GGUF files, version 3, written: metadata, tensors in blocks of 32 numbers. Source: ggml `docs/gguf.md`.

Q8_0    float16 scale = largest / 127, 32 signed bytes; 8.5 bits a number
Q4_0    float16 scale = the number farthest from 0 / -8, 32 halves of bytes, offset by 8; 4.5 bits a number
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLOCK = 32  # numbers that share a scale
ALIGNMENT = 32
ROWS_AT_ONCE = 8192
KINDS = {"F32": 0, "Q4_0": 2, "Q8_0": 8}
BLOCK_BYTES = {"Q4_0": 18, "Q8_0": 34}
NAMES = {
    "embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
    "pre_attention_norm.weight": "attn_norm.weight", "post_attention_norm.weight": "post_attention_norm.weight",
    "pre_ffw_norm.weight": "ffn_norm.weight", "post_ffw_norm.weight": "post_ffw_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}  # fmt: skip


def encoded(weight: Any, layout: str) -> bytes:
    """The blocks of a matrix, float[rows, columns]."""
    return b"".join(_blocks(rows.float().numpy().reshape(-1, BLOCK), layout) for rows in weight.split(ROWS_AT_ONCE))


def _blocks(numbers: Any, layout: str) -> bytes:
    import numpy as np

    if layout == "Q8_0":
        scale = np.abs(numbers).max(1, keepdims=True) / 127
        codes = np.rint(numbers * _inverse(scale)).astype(np.int8).view(np.uint8)
    else:
        farthest = np.take_along_axis(numbers, np.abs(numbers).argmax(1)[:, None], 1)
        scale = farthest / -8
        codes = np.clip(numbers * _inverse(scale) + 8.5, 0, 15).astype(np.uint8)
        codes = codes[:, : BLOCK // 2] | codes[:, BLOCK // 2 :] << 4
    return np.concatenate([scale.astype(np.float16).view(np.uint8), codes], axis=1).tobytes()


def _inverse(scale: Any) -> Any:
    import numpy as np

    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


class Writer:
    """`begin` with all names, shapes and layouts, then `add` the bytes of each in that order, then `close`."""

    def __init__(self, path: Path, metadata: dict[str, Any]):
        self.file, self.metadata = path.open("wb"), metadata

    def begin(self, tensors: Sequence[tuple[str, tuple[int, ...], str]]) -> None:
        head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(self.metadata))
        head += b"".join(_string(key) + _value(value) for key, value in self.metadata.items())
        offset = 0
        for name, shape, layout in tensors:
            count = 1
            for side in shape:
                count *= side
            size = 4 * count if layout == "F32" else count // BLOCK * BLOCK_BYTES[layout]
            head += _string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
            head += struct.pack("<IQ", KINDS[layout], offset)
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        self._write(head)

    def add(self, data: bytes) -> None:
        self._write(data)

    def close(self) -> None:
        self.file.close()

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.file.write(bytes(-self.file.tell() % ALIGNMENT))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind, pack = {str: (8, _string), int: (5, _int), float: (6, _float)}[type(value[0])]
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(map(pack, value))
    kind, pack = {str: (8, _string), int: (4, _unsigned), float: (6, _float)}[type(value)]
    return struct.pack("<I", kind) + pack(value)


def _int(value: int) -> bytes:
    return struct.pack("<i", value)


def _unsigned(value: int) -> bytes:
    return struct.pack("<I", value)


def _float(value: float) -> bytes:
    return struct.pack("<f", value)
