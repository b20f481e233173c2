"""A case on one side: a model of random weights on the card, ours or transformers', and how long its answers take.

graphs      recorded passes with our kernels          plain       recorded passes without them
compiled    those, fused by TorchInductor             eager       our kernels without recording
int8 int4 nf4 fp8   recorded passes over coded weights
offload     half the layers wait in the host's memory
hf-eager    generate() as it comes                    hf-static   generate() with its static cache, which compiles
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from harness.theirs import hf_config
from on_gpu.card import DEVICE, forget
from on_gpu.kernels import can_run, random_codes
from torch import nn

from paligemma.checkpoints.parts import methods_of, part_of
from paligemma.config import IMAGE_SLOT, Config
from paligemma.engine import Engine, Sampling
from paligemma.linear.packed import METHODS, PackedEmbedding, PackedLinear
from paligemma.model import PaliGemmaModel
from paligemma.model.fused import plain
from paligemma.model.offload import stream_layers
from paligemma.processor import Encoded

SIZES = {"3b": "paligemma2-3b-pt", "10b": "paligemma2-10b-pt", "28b": "paligemma2-28b-pt"}
SIDES = ("graphs", "plain", "compiled", "eager", *METHODS, "offload", "hf-eager", "hf-static")
WORDS, NEW = 14, 64


class Bench:
    """Measures sides of cases; a model is kept as long as the next case wants the same."""

    def __init__(self, limits: dict[str, float]):
        self.limits = limits
        self.kept: tuple[tuple[str, int, str], Any] | None = None

    def measure(self, case: str, side: str) -> dict[str, Any]:
        size, px, batch = case.split("-")
        config = Config.of(f"{SIZES[size]}-{px}").with_padding_rows()
        rows = int(batch[1:])
        if side in METHODS and (why := can_run(side)):
            return {"skipped": why}
        weights = 2 * config.num_parameters * (METHODS[side].stored_bits / 16 if side in METHODS else 1)
        needed = weights + cache_bytes(config, rows) + activation_bytes(config, rows, side)
        total = torch.cuda.get_device_properties(0).total_memory
        if needed > 0.95 * total:
            return {"skipped": f"about {needed / 2**30:.0f} GiB are needed and there are {total / 2**30:.0f}"}
        try:
            model = self._model(size, int(px), config, side)
            run = hf if side.startswith("hf") else ours
            with torch.inference_mode(), plain() if side in ("plain", "compiled") else nullcontext():
                return self._figures(config, rows, model, run(model, config, rows, side))
        except Exception as error:  # a side that fails is a finding of its own
            return {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"}
        finally:
            forget()

    def _model(self, size: str, px: int, config: Config, side: str) -> Any:
        kind = "hf" if side.startswith("hf") else side if side in METHODS or side == "offload" else "ours"
        key = (size, px, kind)
        if self.kept is None or self.kept[0] != key:
            self.kept = None
            forget()
            model = draw_theirs(config) if kind == "hf" else draw_ours(config, kind if kind in METHODS else None)
            if kind == "offload":
                stream_layers(model, torch.device(DEVICE), config.text.depth // 2)
            self.kept = (key, model)
        return self.kept[1]

    def _figures(self, config: Config, rows: int, model: Any, found: dict[str, float]) -> dict[str, Any]:
        text = getattr(model, "language_model", None) if isinstance(model, PaliGemmaModel) else None
        stored = 2 * config.text.num_parameters if text is None else sum(p.nbytes for p in text.parameters())
        read = decode_bytes(config, rows, stored)
        return {
            **found,
            "tokens_per_s": rows / found["ms_per_token"] * 1e3,
            "decode_of_limit": read / (found["ms_per_token"] / 1e3) / self.limits["copy_bytes_per_s"],
            "prefill_of_limit": prefill_flops(config, rows) / found["ttft_s"] / self.limits["bf16_flops"],
            "gib": torch.cuda.max_memory_allocated() / 2**30,
        }


def decoder_weights(config: Config) -> int:
    return config.text.num_parameters - config.text.embedding_rows * config.text.width


def decode_bytes(config: Config, rows: int, weights: int) -> float:
    """Weights (with the tied head) read once, and the cache of every row half way through its answer."""
    tokens = config.vision.num_image_tokens + WORDS + NEW // 2
    return weights + rows * tokens * config.text.cache_bytes_per_token


def cache_bytes(config: Config, rows: int) -> float:
    return rows * (config.vision.num_image_tokens + WORDS + NEW) * config.text.cache_bytes_per_token


def activation_bytes(config: Config, rows: int, side: str) -> float:
    """Roughly: the widest layer, and a whole matrix of scores where the peer keeps one."""
    tokens = config.vision.num_image_tokens + WORDS
    scores = 8 * rows * config.text.num_heads * tokens**2 if side.startswith("hf") else 2**32
    return rows * tokens * (6 * config.text.mlp_dim + 16 * config.text.width) + scores


def prefill_flops(config: Config, rows: int) -> float:
    """Of both towers, the attention included and the head for one position."""
    image = config.vision.num_image_tokens
    tokens = image + WORDS
    vision = 2 * config.vision.num_parameters * image + 4 * config.vision.depth * config.vision.width * image**2
    width = config.text.num_heads * config.text.head_dim
    text = 2 * decoder_weights(config) * tokens + 4 * config.text.depth * width * tokens**2
    return rows * (vision + text + 2 * config.text.embedding_rows * config.text.width)


@contextmanager
def bfloat16_on_device() -> Iterator[None]:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(DEVICE):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def draw(model: torch.nn.Module, done: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """Random weights of a size that keeps activations near 1; norms as they are after initialisation."""
    for name, parameter in model.named_parameters():
        if id(parameter) in done:
            continue
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 0.02)
        else:
            parameter.data.fill_(1.0 if "vision" in name and "norm" in name and name.endswith("weight") else 0.0)


def draw_ours(config: Config, method: str | None = None) -> PaliGemmaModel:
    """In bfloat16, or with the matrices that a method codes in its codes."""
    with torch.device("meta"):
        model = PaliGemmaModel(config).to(torch.bfloat16)
    coded = [] if method is None else code_matrices(model, methods_of(method))
    for module in model.modules():
        if module not in coded:
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty_like(parameter, device=DEVICE), requires_grad=False))
    model.eval()
    draw(model, {id(parameter) for layer in coded for parameter in (layer.codes, layer.scales)})
    return model


def code_matrices(model: PaliGemmaModel, methods: dict[str, str]) -> list[PackedLinear]:
    """Replaces the matrices of these parts by layers with random codes."""
    coded = []
    for name, module in list(model.named_modules()):
        method = methods.get(part_of(name) or "")
        if method is None or not isinstance(module, nn.Linear | nn.Embedding):
            continue
        out, width = module.weight.shape
        kind = PackedEmbedding if isinstance(module, nn.Embedding) else PackedLinear
        layer = random_codes(kind.empty(method, width, out))
        if isinstance(layer, PackedEmbedding):
            layer.dtype = torch.bfloat16
        bias = getattr(module, "bias", None)
        if bias is not None:
            layer.bias = nn.Parameter(torch.zeros(out, dtype=torch.bfloat16, device=DEVICE), requires_grad=False)
        model.set_submodule(name, layer, strict=True)
        coded.append(layer)
    return coded


def draw_theirs(config: Config) -> Any:
    from transformers import PaliGemmaForConditionalGeneration

    with bfloat16_on_device():
        model: Any = PaliGemmaForConditionalGeneration(hf_config(config))
    model = model.to(DEVICE, torch.bfloat16).eval().requires_grad_(False)
    draw(model)
    return model


def timed(generate: Callable[[int], object]) -> dict[str, float]:
    """Of a function that makes so many tokens for every row: one token alone is the first, the others are the rest."""
    began = time.perf_counter()
    for new in (1, NEW, NEW):
        generate(new)
    torch.cuda.synchronize()
    warm_up_s = time.perf_counter() - began
    took: dict[int, list[float]] = {1: [], NEW: []}
    for _ in range(3):
        for new, seconds in took.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            generate(new)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    first, whole = statistics.median(took[1]), statistics.median(took[NEW])
    return {"ttft_s": first, "ms_per_token": (whole - first) / (NEW - 1) * 1e3, "warm_up_s": warm_up_s}


def ours(model: PaliGemmaModel, config: Config, rows: int, side: str) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, *[config.vision.image_size_px] * 2, generator=generator) * 2 - 1
    words = torch.randint(3, 200_000, (WORDS,), generator=generator)
    tokens = torch.cat([torch.full((config.vision.num_image_tokens,), IMAGE_SLOT), words])
    zeros = torch.zeros_like(tokens)
    prompt = Encoded(tokens=tokens, pixels=pixels.to(DEVICE, torch.bfloat16), mask_ar=zeros, mask_loss=zeros)
    engine = Engine(
        model, eos_id=1, forbidden_ids=[], recorded=side != "eager", compiled=side == "compiled"
    )  # fmt: skip
    engine.eos_ids = frozenset()  # answers of random weights end anywhere; these do not

    def generate(new: int) -> None:
        engine.generate([prompt] * rows, Sampling(max_tokens=new, stop_repeats=None), batch_size=rows)

    engine.open(rows, len(tokens) + NEW)  # the cache is as large as it will be from the beginning
    return timed(generate)


def hf(model: Any, config: Config, rows: int, side: str) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, *[config.vision.image_size_px] * 2, generator=generator) * 2 - 1
    words = torch.randint(3, 200_000, (WORDS,), generator=generator)
    tokens = torch.cat([torch.full((config.vision.num_image_tokens,), config.text.vocab_size), words])
    ids = tokens[None].repeat(rows, 1).to(DEVICE)
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids),
        "pixel_values": pixels.to(DEVICE, torch.bfloat16).repeat(rows, 1, 1, 1),
    }  # fmt: skip
    more = {"cache_implementation": "static"} if side == "hf-static" else {}

    def generate(new: int) -> None:
        model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, **more)

    return timed(generate)
