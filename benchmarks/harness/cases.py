"""What is measured: one line for each case; `PEERS` says beside whom, `LAYOUTS` from which files.

A `Setup` is run once, however many cases read a figure of it. Goals are those the project set itself for two CPU cores.
"""

from dataclasses import dataclass, field
from typing import Any

VARIANT = "paligemma2-3b-pt-224"
GIB = 2**30


def variant(image_size_px: int) -> str:
    """The published name of the same model for pictures of another size."""
    return f"{VARIANT.rpartition('-')[0]}-{image_size_px}"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another program: what must be importable, how to install it, and the GiB it holds besides mapped files."""

    side: str
    needs: tuple[str, ...]
    install: str
    gib: float
    options: dict[str, Any] = field(default_factory=dict)
    layout: str = "hf"
    text_only: bool = False


_HF, _GGUF = ("transformers",), ("llama_cpp",)
_LLAMA = 'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python'
PEERS: dict[str, Peer] = {
    "transformers bf16": Peer(side="hf", needs=_HF, install="pip install transformers", gib=2),
    "transformers fp32": Peer(
        side="hf", needs=_HF, install="pip install transformers", gib=18, options={"dtype": "float32"}
    ),
    "bitsandbytes nf4": Peer(
        side="hf", needs=(*_HF, "bitsandbytes", "accelerate"), install="pip install bitsandbytes accelerate", gib=4,
        options={"quantize": "nf4"},
    ),
    "torchao int4": Peer(
        side="hf", needs=(*_HF, "torchao"), install="pip install torchao", gib=7, options={"quantize": "int4"}
    ),
    "llama.cpp Q8_0": Peer(
        side="llama_cpp", needs=_GGUF, install=_LLAMA, gib=3.2, layout="Q8_0", text_only=True
    ),
    "llama.cpp Q4_0": Peer(
        side="llama_cpp", needs=_GGUF, install=_LLAMA, gib=3.2, layout="Q4_0", text_only=True
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Ours at one precision: keywords of `paligemma.load`, type of the decoder's products, GiB besides mapped files."""

    options: dict[str, Any]
    matrix: str
    gib: float


LOADED: dict[str, Loaded] = {
    "bf16": Loaded(options={"dtype": "bfloat16"}, matrix="bf16", gib=2),
    "fp32": Loaded(options={"dtype": "float32"}, matrix="fp32", gib=13),
    "int8": Loaded(options={"dtype": "bfloat16", "quantize": "int8"}, matrix="int8", gib=4),
    "int4": Loaded(options={"dtype": "bfloat16", "quantize": "int4"}, matrix="int8", gib=4),
    "nf4": Loaded(options={"dtype": "bfloat16", "quantize": "nf4"}, matrix="int8", gib=4),
}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One way to run.

    Attributes:
        prompts: text tokens of each row, image tokens apart. answers: most new tokens of each row.
        mixed: rows differ.
    """

    precision: str
    peers: tuple[str, ...]
    image_size_px: int = 224
    prompts: tuple[int, ...] = (14,)
    answers: tuple[int, ...] = (32,)

    @property
    def rows(self) -> int:
        return len(self.prompts)

    @property
    def mixed(self) -> bool:
        return len(set(self.prompts)) > 1 or len(set(self.answers)) > 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One figure of a setup, and what it should be.

    Attributes:
        figure: of `report.FIGURES`. ratio, of_limit: at least; at_most: of our own figure.
    """

    name: str
    figure: str
    setup: Setup | None
    ratio: float | None = None
    of_limit: float | None = None
    at_most: float | None = None


_BF16 = Setup(precision="bf16", peers=("transformers bf16",))
_FP32 = Setup(precision="fp32", peers=("transformers fp32",), answers=(12,))
_INT8 = Setup(precision="int8", peers=("llama.cpp Q8_0",))
_INT4 = Setup(precision="int4", peers=("llama.cpp Q4_0", "torchao int4"))
_NF4 = Setup(precision="nf4", peers=("bitsandbytes nf4",))
_448 = Setup(precision="bf16", peers=("transformers bf16",), image_size_px=448, answers=(4,))
_896 = Setup(precision="bf16", peers=("transformers bf16",), image_size_px=896, answers=(2,))
_FOUR = Setup(precision="bf16", peers=("transformers bf16",), prompts=(14,) * 4, answers=(12,) * 4)
# Answers of two tokens ("yes") to whole captions: what waits for the longest answer pays for it.
_PROMPTS = (6, 8, 8, 10, 10, 12, 12, 14, 14, 16, 18, 20, 24, 28, 32, 40)
_ANSWERS = (2, 12, 2, 24, 3, 4, 2, 8, 16, 2, 3, 32, 6, 2, 4, 12)
_SIXTEEN = Setup(precision="bf16", peers=("transformers bf16",), prompts=_PROMPTS, answers=_ANSWERS)
_SIXTEEN8 = Setup(precision="int8", peers=("transformers bf16",), prompts=_PROMPTS, answers=_ANSWERS)

_ALL = [
    Case(name="bf16-ttft", figure="ttft_s", setup=_BF16, ratio=1 / 0.85, of_limit=0.85),
    Case(name="bf16-decode", figure="tokens_per_s", setup=_BF16, ratio=2.3, of_limit=0.85),
    Case(name="bf16-pipeline", figure="pipeline_tokens_per_s", setup=_BF16),
    Case(name="bf16-memory", figure="peak_gib", setup=_BF16),
    Case(name="bf16-load", figure="load_s", setup=_BF16),
    Case(name="fp32-ttft", figure="ttft_s", setup=_FP32),
    Case(name="fp32-decode", figure="tokens_per_s", setup=_FP32, ratio=2.0),
    Case(name="int8-ttft", figure="ttft_s", setup=_INT8, ratio=1 / 0.45),
    Case(name="int8-decode", figure="tokens_per_s", setup=_INT8, ratio=1.25, of_limit=0.75),
    Case(name="int8-memory", figure="peak_gib", setup=_INT8),
    Case(name="int4-ttft", figure="ttft_s", setup=_INT4, ratio=1 / 0.75),
    Case(name="int4-decode", figure="tokens_per_s", setup=_INT4, ratio=1.15, of_limit=0.65),
    Case(name="int4-memory", figure="peak_gib", setup=_INT4, at_most=2.5),
    Case(name="nf4-ttft", figure="ttft_s", setup=_NF4),
    Case(name="nf4-decode", figure="tokens_per_s", setup=_NF4),
    Case(name="448-ttft", figure="ttft_s", setup=_448, ratio=1 / 0.7),
    Case(name="448-memory", figure="extra_gib", setup=_448, ratio=2.0),
    Case(name="896-ttft", figure="ttft_s", setup=_896, ratio=1 / 0.7),
    Case(name="896-memory", figure="extra_gib", setup=_896, ratio=2.0),
    Case(name="batch4", figure="tokens_per_s", setup=_FOUR),
    Case(name="batch16", figure="pictures_per_min", setup=_SIXTEEN, ratio=3.0),
    Case(name="batch16-decode", figure="tokens_per_s", setup=_SIXTEEN),
    Case(name="batch16-int8", figure="pictures_per_min", setup=_SIXTEEN8, ratio=3.0),
    Case(name="nano", figure="wall_s", setup=None, at_most=2.5),
    Case(name="nano-model", figure="model_s", setup=None, at_most=0.3),
]
CASES: dict[str, Case] = {case.name: case for case in _ALL}
