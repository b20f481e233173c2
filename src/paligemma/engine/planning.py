"""What answering takes in memory and time, by formula, before anything is loaded.

    memory   weights + key-value cache + the largest of: image tower at work, one block of the decoder at work, logits
    time     prompt: matrix products over the matrix rate; each token after it: bytes of the decoder over the read rate

In: an architecture, a precision of `PRECISIONS`, a load and a machine's `Rates`. Out: bytes and seconds. How much of a
machine's rates the engine reaches is measured (`reached`, from benchmarks/bench.py; docs/plan.md compares). Not done
here: training (`train.planning`), measuring the machine (`machine`).
"""

from dataclasses import dataclass

from paligemma.config import Config
from paligemma.engine.machine import Rates
from paligemma.engine.runner import IMAGES_AT_ONCE
from paligemma.linear.packed import METHODS
from paligemma.model.layers import BLOCK_BYTES
from paligemma.model.offload import PLACES

FLOAT32, BFLOAT16 = 4, 2
SCORES_HELD = 5  # blocks of attention scores that exist at a time while they are capped, masked and summed


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How weights are kept and computed.

    Attributes:
        bits: of a number of the decoder's matrices and of the vocabulary, with its scales.
        vision_bits: of the image tower's matrices; `--quantize` takes 8 there under 4-bit methods.
        computed: bytes of a computed number. matrix: whose rate of `Rates.matrix` bounds the decoder's products.
        reached: shares of the matrix rate in a prompt and of the read rate in a step that the engine was seen to reach;
            None where that was not measured yet.
    """

    bits: float
    vision_bits: float
    computed: int
    matrix: str
    reached: tuple[float, float] | None = None


def _coded(method: str, reached: tuple[float, float]) -> Precision:
    bits, vision_bits = METHODS[method].stored_bits, METHODS["int8"].stored_bits
    return Precision(bits=bits, vision_bits=vision_bits, computed=BFLOAT16, matrix="int8", reached=reached)


_FP8 = METHODS["fp8"].stored_bits

PRECISIONS: dict[str, Precision] = {
    "bf16": Precision(bits=16, vision_bits=16, computed=BFLOAT16, matrix="bf16", reached=(0.88, 0.91)),
    "fp32": Precision(bits=32, vision_bits=32, computed=FLOAT32, matrix="fp32", reached=(0.81, 0.89)),
    "int8": _coded("int8", reached=(0.84, 0.92)),
    "int4": _coded("int4", reached=(0.75, 0.73)),
    "nf4": _coded("nf4", reached=(0.75, 0.73)),
    "fp8": Precision(bits=_FP8, vision_bits=_FP8, computed=BFLOAT16, matrix="fp8"),  # not yet measured on a card
}


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked at a time: rows of so many text tokens and pictures, and so many new tokens for each."""

    rows: int = 1
    text_tokens: int = 64
    images: int = 1
    new_tokens: int = 64

    def tokens(self, architecture: Config) -> int:
        """Of one prompt, image tokens included."""
        return self.images * architecture.vision.num_image_tokens + self.text_tokens


@dataclass(frozen=True, kw_only=True)
class AnswerPlan:
    """Bytes, and seconds on one machine.

    Attributes:
        activations: the largest intermediate results, logits included. first_token_s: of the whole batch.
        step_s: of each later token of all rows. limit_first_token_s, limit_step_s: at the machine's full rates. The
            first two are None where it was not measured how much of them is reached.
    """

    weights: int
    cache: int
    activations: int
    first_token_s: float | None
    step_s: float | None
    limit_first_token_s: float
    limit_step_s: float

    @property
    def peak(self) -> int:
        return self.weights + self.cache + self.activations

    def tokens_per_s(self, load: Load) -> float | None:
        """Of all rows together, while they are decoded."""
        return None if self.step_s is None else load.rows / self.step_s


def answer_plan(architecture: Config, name: str, load: Load, rates: Rates) -> AnswerPlan:
    """The plan of answering at a precision of `PRECISIONS`."""
    precision = PRECISIONS[name]
    tokens, pictures = load.tokens(architecture), load.rows * load.images
    tower = "fp32" if precision.computed == FLOAT32 else "bf16"
    vision, text = forward_flops(architecture, rows=load.rows, tokens=tokens, pictures=pictures)
    prompt = vision / rates.matrix[tower] + text / rates.matrix[precision.matrix]
    cache = cache_bytes(architecture, load, precision)
    count = architecture.text.num_parameters
    read = (count * precision.bits / 8 + cache) / rates.read
    step = max(read, 2.0 * count * load.rows / rates.matrix[precision.matrix])
    of_prompt, of_step = precision.reached or (None, None)
    return AnswerPlan(
        weights=weight_bytes(architecture, precision), cache=cache,
        activations=activation_bytes(architecture, load, precision),
        first_token_s=None if of_prompt is None else prompt / of_prompt,
        step_s=None if of_step is None else step / of_step,
        limit_first_token_s=prompt, limit_step_s=step,
    )  # fmt: skip


def layers_that_wait(weights: int, layer: int, depth: int, room: int) -> int | None:
    """How many decoder layers must wait in the host's memory (`model.offload`) so that the others fit; None if too few.

    Args:
        weights: bytes of all weights, `depth` layers of `layer` bytes among them. room: bytes for weights.
    """
    if weights <= room:
        return 0
    count = PLACES + -(-(weights - room) // layer)
    return count if count <= depth else None


def layer_bytes(architecture: Config, precision: Precision) -> int:
    """Of one decoder layer."""
    text = architecture.text
    return round((text.num_parameters - text.embedding_rows * text.width) / text.depth * precision.bits / 8)


def weight_bytes(architecture: Config, precision: Precision) -> int:
    """Of all weights; the vocabulary's matrix is there once, for both its uses. Norms, biases, positions, the patch
    embedding and the projector stay as they are computed."""
    text, vision = architecture.text, architecture.vision
    decoder = text.num_parameters - text.width * (text.depth * text.num_norms + 1)
    tower = vision.depth * (4 * vision.width**2 + 2 * vision.width * vision.mlp_dim)
    rest = architecture.num_parameters - decoder - tower
    return round((decoder * precision.bits + tower * precision.vision_bits) / 8) + precision.computed * rest


def cache_bytes(architecture: Config, load: Load, precision: Precision) -> int:
    """Of keys and values of all rows to the end of their answers."""
    slots = load.rows * (load.tokens(architecture) + load.new_tokens)
    return slots * architecture.text.cache_bytes_per_token * precision.computed // BFLOAT16


def activation_bytes(architecture: Config, load: Load, precision: Precision) -> int:
    """The most that exists beside weights and cache at one time of a prompt's pass."""
    c, text = precision.computed, architecture.text
    pictures = min(load.rows * load.images, IMAGES_AT_ONCE)
    working = working_bytes(
        architecture, rows=load.rows, tokens=load.tokens(architecture), pictures=pictures, c=c, residual=c
    )
    logits = load.rows * text.embedding_rows * (FLOAT32 + c * (3 if text.final_logit_softcap is not None else 1))
    return max(working, logits)


def working_bytes(
    architecture: Config, *, rows: int, tokens: int, pictures: int, c: int, residual: int
) -> int:  # fmt: skip
    """The largest results of one block: of an MLP, and of one block of attention scores.

    Args:
        tokens: of a row. c: bytes of a computed number. residual: of a number of the residual stream.
    """
    vision, text = architecture.vision, architecture.text
    read = rows * tokens * (3 * c * text.mlp_dim + 3 * FLOAT32 * text.width)
    seen = pictures * vision.num_image_tokens * (3 * c * vision.mlp_dim + 3 * residual * vision.width)
    if text.attn_logit_softcap is not None:
        scores = min(FLOAT32 * rows * text.num_heads * tokens**2, BLOCK_BYTES)
        read = max(read, SCORES_HELD * scores)
    return max(read, seen)


def forward_flops(architecture: Config, *, rows: int, tokens: int, pictures: int) -> tuple[float, float]:
    """Operations of both towers for one batch, two for each product that is added up; without the head."""
    vision, text = architecture.vision, architecture.text
    patches = pictures * vision.num_image_tokens
    seen = 2.0 * patches * vision.num_parameters + 4.0 * patches * vision.num_image_tokens * vision.width * vision.depth
    read = rows * tokens
    matrices = text.num_parameters - text.embedding_rows * text.width
    attention = 4.0 * read * tokens * text.num_heads * text.head_dim * text.depth
    return seen, 2.0 * read * matrices + attention
