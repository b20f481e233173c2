"""Bytes a step keeps between its forward and its backward pass, by formula, layer by layer.

Letters: n tokens, c bytes of a computed number (2 in bfloat16, 4 in float32), a of one in attention (4 on a CPU,
whatever the precision, where there is no cap; else c), r of the residual stream, D width, M of the MLP, Q and K widths
of queries and of keys.

    SigLIP block    r 2D [two norms]  + a 4D [q k v out]  + c M [gelu]                            a token
    Gemma block     4 per norm D (+ 4 D if it is trained)  + a (2Q + 2K)  + c 3M [gate gelu up]   a token
    soft-capped attention   (8 + c if c is 2) bytes a score, where all scores of a layer fit one block of `attend`
    each linear layer that learns    its input once more, cast on its own in bfloat16
    each float32 matrix used in bfloat16    its cast copy, which the graph holds

Gradient checkpointing keeps the residual stream in front of each block, and everything of the one block at work.
Source: the modules of `model`; compared with what autograd really keeps in the tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.engine.planning import BFLOAT16, FLOAT32, working_bytes
from paligemma.model.layers import BLOCK_BYTES
from paligemma.train.planning.inventory import Inventory, Layer

_SHARED = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}  # read the same tensor


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One micro-batch: rows of so many tokens, `learnt` of all their tokens in the loss, and its pictures.

    Attributes:
        tokens: of a row, image tokens included.
    """

    rows: int
    tokens: int
    learnt: int
    pictures: int


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes of a micro-batch.

    Attributes:
        vision, lm: what the towers keep. casts: bfloat16 copies of float32 matrices.
        working: the largest intermediate results beside them, for a moment.
        logits: one chunk of the loss.
    """

    vision: int
    lm: int
    casts: int
    working: int
    logits: int

    @property
    def total(self) -> int:
        return self.vision + self.lm + self.casts + self.working + self.logits


def kept(
    architecture: Config, parts: Inventory, shape: Shape, *,
    bf16: bool, checkpointing: bool, residual: int, chunk: int, weight_bytes: int = FLOAT32, casts: bool = True,
    device: str = "cuda",
) -> Kept:  # fmt: skip
    """The bytes of one micro-batch.

    Args:
        residual: bytes of a number of the residual stream, which has the type of the frozen weights.
        chunk: rows of logits that exist at a time.
        weight_bytes: of frozen weights; float32 ones are cast in bfloat16.
        casts: False where the copies of weights are made again in the backward pass, as "fsdp2" does.
        device: "cuda" or "cpu".
    """
    c = BFLOAT16 if bf16 else FLOAT32
    a = FLOAT32 if device == "cpu" else c
    vision, text = architecture.vision, architecture.text
    seen, read = shape.pictures * vision.num_image_tokens, shape.rows * shape.tokens
    one_seen = seen * vision_token(vision, parts.vision, c, residual, a) if parts.vision_learns else 0
    one_read = read * text_token(text, parts, c, a) + text_scores(text, shape, c, a)
    streams = residual * seen * vision.width * parts.vision_learns, residual * read * text.width
    if checkpointing:
        whole = streams[0] * vision.depth, streams[1] * text.depth
    else:
        whole = one_seen * vision.depth, one_read * text.depth
    copies = 0
    if bf16 and casts and not checkpointing:
        copies += vision.depth * _casts(parts.vision, weight_bytes) * parts.vision_learns
        copies += text.depth * _casts(parts.lm, weight_bytes)
    working = working_bytes(
        architecture, rows=shape.rows, tokens=shape.tokens, pictures=shape.pictures, c=c, residual=residual
    )
    return Kept(
        vision=whole[0], lm=whole[1], casts=copies,
        working=working + (max(one_seen, one_read) if checkpointing else 0),
        logits=logits_bytes(text, min(chunk, shape.learnt), c),
    )  # fmt: skip


def vision_token(vision: VisionConfig, layers: Sequence[Layer], c: int, residual: int, a: int) -> int:
    """Bytes of one image token in one block."""
    width = vision.width
    return residual * 2 * width + a * 4 * width + c * vision.mlp_dim + inputs_token(layers, c)


def text_token(text: TextConfig, parts: Inventory, c: int, a: int) -> int:
    """Bytes of one token in one block, attention scores apart."""
    queries, keys = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    norms = text.num_norms * FLOAT32 * text.width * (2 if parts.norms_trained else 1)
    attention = (a if text.attn_logit_softcap is None else c) * (2 * queries + 2 * keys)
    return norms + attention + c * 3 * text.mlp_dim + inputs_token(parts.lm, c)


def inputs_token(layers: Sequence[Layer], c: int) -> int:
    """Bytes of the inputs that linear layers keep of one token."""
    if c == BFLOAT16:
        return sum(c * (layer.inputs + layer.rank) for layer in layers if layer.learns)
    names = {layer.name.rpartition(".")[2]: layer for layer in layers if layer.learns}
    owners = {_SHARED.get(name, name): layer.inputs for name, layer in names.items()}
    return c * (sum(owners.values()) + sum(layer.rank for layer in names.values()))


def text_scores(text: TextConfig, shape: Shape, c: int, a: int) -> int:
    """Bytes of the attention scores one layer keeps: none by fused kernels, nor where they are made in blocks."""
    pairs = shape.rows * shape.tokens**2
    if text.attn_logit_softcap is None:
        return pairs * a  # the mask
    scores = pairs * text.num_heads
    if FLOAT32 * scores > BLOCK_BYTES:
        return 0
    return scores * (2 * FLOAT32 + (c if c == BFLOAT16 else 0)) + pairs


def logits_bytes(text: TextConfig, rows: int, c: int) -> int:
    """One chunk of logits: its float32 copy, the gradients of both ways to it and their sums, and the cap's own."""
    each = 5 * FLOAT32 + c * (text.final_logit_softcap is not None)
    return rows * text.embedding_rows * each


def _casts(layers: Sequence[Layer], weight_bytes: int) -> int:
    """Bytes of the bfloat16 copies of a block's float32 matrices; adapters are small, codes are decoded anew."""
    return sum(
        BFLOAT16 * layer.inputs * layer.outputs
        for layer in layers
        if not layer.quantized and (layer.trained or weight_bytes == FLOAT32)
    )
