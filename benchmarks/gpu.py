"""On a GPU, beside transformers: time to first token, tokens/s and prefill rate, as shares of the card's own limits.

    python benchmarks/gpu.py --list
    python benchmarks/gpu.py [--case 3b-224-b1 ...] [--sides graphs eager hf-eager hf-static] [--minutes 9] [--json F]

A case is a size (3b, 10b, 28b), a resolution and a batch. Every side runs in this process on random bfloat16 weights
made on the device; prompts are one picture and 14 tokens, answers 64 greedy tokens without an end. The copy bandwidth
and the matrix rate are measured first. `of_limit` is, for decoding, weights and cache read for each token over the
bandwidth; for the prefill, multiplications over the matrix rate. A case that does not fit the time or the memory is
reported as skipped, with its reason.

    graphs      recorded passes with our kernels    plain       recorded passes without them
    compiled    those, fused by TorchInductor       eager       our kernels without recording
    hf-eager    generate() as it comes              hf-static   generate() with its static cache, which compiles

Before the cases, every kernel is timed beside what PyTorch has; `--case` with no name times only those.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from paligemma.config import IMAGE_SLOT, Config
from paligemma.engine import Engine, Sampling
from paligemma.model import PaliGemmaModel
from paligemma.model.fused import plain
from paligemma.model.layers import AttentionMask, RMSNorm, attend
from paligemma.processor import Encoded

SIZES = {"3b": "paligemma2-3b-pt", "10b": "paligemma2-10b-pt", "28b": "paligemma2-28b-pt"}
SIDES = ("graphs", "plain", "compiled", "eager", "hf-eager", "hf-static")
DEFAULT_SIDES = ("graphs", "plain", "hf-eager", "hf-static")
WORDS, NEW = 14, 64
CASES = [f"{size}-{px}-b{batch}" for size in SIZES for px in (224, 448, 896) for batch in (1, 8, 64)]
FIRST = ["3b-224-b1", "3b-448-b64", "3b-224-b64", "3b-224-b8", "10b-224-b1", "28b-224-b1"]  # what says most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", choices=CASES, default=[*FIRST, *(c for c in CASES if c not in FIRST)])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(DEFAULT_SIDES))
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no side after so long")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        return print("\n".join(CASES))
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device was found; benchmarks/bench.py measures processors")
    deadline = time.monotonic() + 60 * arguments.minutes
    report: dict[str, Any] = {"machine": machine(), "limits": limits(), "cases": []}
    print(json.dumps({**report["machine"], **report["limits"]}), flush=True)
    report["kernels"] = list(kernels(report["limits"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    bench = Bench(report["limits"], deadline)
    for case in arguments.case:
        for side in arguments.sides:
            row = {"case": case, "side": side, **bench.measure(case, side)}
            report["cases"].append(row)
            print(line(row), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(with_ratios(report), indent=1) + "\n")


def line(row: dict[str, Any]) -> str:
    name = f"{row['case']:12} {row['side']:10}"
    if "skipped" in row:
        return f"{name} skipped: {row['skipped']}"
    return (
        f"{name} first token {row['ttft_s'] * 1e3:8.1f} ms ({row['prefill_of_limit']:.2f} of the matrix rate)   decode "
        f"{row['ms_per_token']:7.3f} ms/pass {row['tokens_per_s']:8.0f} tok/s ({row['decode_of_limit']:.2f} of the "
        f"bandwidth)   {row['gib']:.1f} GiB   warm-up {row['warm_up_s']:.1f} s"
    )


def with_ratios(report: dict[str, Any]) -> dict[str, Any]:
    """The report with one row for each case beside the fastest peer there is: above 1 we are faster."""
    ratios = []
    for case in dict.fromkeys(row["case"] for row in report["cases"]):
        rows = {row["side"]: row for row in report["cases"] if row["case"] == case and "skipped" not in row}
        mine = [rows[side] for side in ("graphs", "plain", "compiled") if side in rows]
        for peer in ("hf-eager", "hf-static"):
            if mine and peer in rows:
                for what, of_limit in (("ms_per_token", "decode_of_limit"), ("ttft_s", "prefill_of_limit")):
                    best = min(mine, key=lambda row: row[what])
                    ratios.append({
                        "case": f"{case}-{'decode' if what == 'ms_per_token' else 'ttft'}", "ours": best[what],
                        "peer": rows[peer][what], "peer_name": peer, "ratio": rows[peer][what] / best[what],
                        "of_limit": best[of_limit],
                    })  # fmt: skip
    return {**report, "rows": ratios}


# --- the card -------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name, "gib": round(properties.total_memory / 2**30, 1), "torch": torch.__version__,
        "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def seconds_of(run: Callable[[], object], times: int = 10) -> float:
    """Median of `times` runs by device events, after two that do not count."""
    found = []
    for number in range(times + 2):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        stop.synchronize()
        if number >= 2:
            found.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(found)


def limits() -> dict[str, float]:
    """Bytes/s of a copy (read and written), and bfloat16 operations/s of a large product, on random numbers."""
    return {"copy_bytes_per_s": copy_rate(2**31), "bf16_flops": matrix_rate(8192)}


def copy_rate(size: int) -> float:
    source = torch.empty(size, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * size / seconds_of(lambda: target.copy_(source))


def matrix_rate(side: int) -> float:
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b)


# --- kernels --------------------------------------------------------------------------------------------------------


def kernels(limits: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Microseconds in a recorded pass of each kernel and of PyTorch's own, and the share of the limit ours reaches."""
    with torch.inference_mode():
        for name, run, theirs, amount, limit in kernel_cases():
            try:
                ours_s, theirs_s = recorded_seconds(run), recorded_seconds(theirs)
            except Exception as error:  # one that fails is a finding of its own
                print(f"{name:32} failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            row = {
                "kernel": name,
                "us": ours_s * 1e6,
                "torch_us": theirs_s * 1e6,
                "of_limit": amount / ours_s / limits[limit],
            }
            print(
                f"{name:32} {row['us']:9.1f} us   torch {row['torch_us']:9.1f} us   {row['of_limit']:.2f} of the limit"
            )
            yield row
            forget()


def kernel_cases() -> Iterator[tuple[str, Callable[[], object], Callable[[], object], float, str]]:
    """Name, our function, PyTorch's, bytes or operations, and which limit they are held against."""
    from paligemma.model import triton_kernels

    def half(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02

    for name, width, counts in (
        ("matvec qkv 3b", 2304, (2048, 1024, 1024)), ("matvec o 3b", 2048, (2304,)), ("matvec down 3b", 9216, (2304,)),
        ("matvec head 3b", 2304, (257216,)), ("matvec qkv 10b", 3584, (4096, 2048, 2048)),
    ):  # fmt: skip
        x, weights = half(1, 1, width), Turns([[half(count, width) for count in counts] for _ in range(8)])
        joined = Turns([torch.cat(own) for own in weights.all])
        yield (
            name, lambda x=x, w=weights: triton_kernels.matvec(x, *w()), lambda x=x, w=joined: F.linear(x, w()),
            2 * width * sum(counts), "copy_bytes_per_s",
        )  # fmt: skip
    x, pairs = half(1, 1, 2304), Turns([(half(9216, 2304), half(9216, 2304)) for _ in range(8)])
    yield (
        "gated matvec 3b", lambda: triton_kernels.gated_matvec(x, *pairs()), lambda: [F.linear(x, w) for w in pairs()],
        4 * 2304 * 9216, "copy_bytes_per_s",
    )  # fmt: skip
    norm, wide = RMSNorm(2304, 1e-6).cuda().bfloat16(), half(64 * 1038, 2304)
    yield "norm of 66,432 rows", lambda: norm(wide), plainly(lambda: norm(wide)), 4 * wide.numel(), "copy_bytes_per_s"
    gate, up = half(16_384, 9216), half(16_384, 9216)
    yield (
        "geglu of 16,384 rows", lambda: triton_kernels.geglu(gate, up),
        lambda: F.gelu(gate, approximate="tanh") * up, 6 * gate.numel(), "copy_bytes_per_s",
    )  # fmt: skip
    for batch, queries, keys in ((1, 1, 512), (64, 1, 512), (8, 1, 4608), (8, 1038, 1038), (1, 4110, 4110)):
        q, k, v = half(batch, 8, queries, 256), half(batch, 4, keys, 256), half(batch, 4, keys, 256)
        step = torch.arange(keys, device="cuda").repeat(batch, 1)
        mask = AttentionMask(step[:, keys - queries :], step[:, keys - queries :], step, step, step >= 0)
        whole = AttentionMask(step * 0, step, step * 0, step, step >= 0) if queries > 1 else mask

        def run(q: Any = q, k: Any = k, v: Any = v, mask: Any = whole) -> object:
            return attend(q, k, v, scale=1 / 16, softcap=50.0, mask=mask)

        amount = 4 * batch * keys * 4 * 256 if queries == 1 else 4 * batch * 8 * queries * keys * 256
        limit = "copy_bytes_per_s" if queries == 1 else "bf16_flops"
        yield f"attention {batch} x {queries} x {keys}", run, plainly(run), amount, limit


class Turns:
    """One thing after another, so that no cache remembers the last."""

    def __init__(self, all: list[Any]):
        self.all, self.turn = all, 0

    def __call__(self) -> Any:
        self.turn += 1
        return self.all[self.turn % len(self.all)]


def plainly(run: Callable[[], object]) -> Callable[[], object]:
    def without_kernels() -> object:
        with plain():
            return run()

    return without_kernels


def recorded_seconds(run: Callable[[], object], times: int = 16) -> float:
    """Seconds of one of `times` runs that are recorded together, so that launching costs nothing."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return seconds_of(graph.replay) / times


# --- sides ----------------------------------------------------------------------------------------------------------


class Bench:
    """Measures sides of cases; a model is kept as long as the next case wants the same."""

    def __init__(self, limits: dict[str, float], deadline: float):
        self.limits, self.deadline = limits, deadline
        self.kept: tuple[tuple[str, int, bool], Any] | None = None

    def measure(self, case: str, side: str) -> dict[str, Any]:
        size, px, batch = case.split("-")
        config = Config.of(f"{SIZES[size]}-{px}").with_padding_rows()
        rows = int(batch[1:])
        if time.monotonic() > self.deadline:
            return {"skipped": "the time is up"}
        needed = 2 * config.num_parameters + cache_bytes(config, rows) + activation_bytes(config, rows, side)
        total = torch.cuda.get_device_properties(0).total_memory
        if needed > 0.95 * total:
            return {"skipped": f"about {needed / 2**30:.0f} GiB are needed and there are {total / 2**30:.0f}"}
        try:
            model = self._model(size, int(px), config, theirs=side.startswith("hf"))
            run = {"hf-eager": hf, "hf-static": hf}.get(side, ours)
            with torch.inference_mode(), plain() if side in ("plain", "compiled") else nullcontext():
                return self._figures(config, rows, run(model, config, rows, side))
        except Exception as error:  # a side that fails is a finding of its own
            return {"skipped": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
        finally:
            forget()

    def _model(self, size: str, px: int, config: Config, theirs: bool) -> Any:
        key = (size, px, theirs)
        if self.kept is None or self.kept[0] != key:
            self.kept = None
            forget()
            self.kept = (key, (draw_theirs if theirs else draw_ours)(config))
        return self.kept[1]

    def _figures(self, config: Config, rows: int, found: dict[str, float]) -> dict[str, Any]:
        read = decode_bytes(config, rows)
        return {
            **found,
            "tokens_per_s": rows / found["ms_per_token"] * 1e3,
            "decode_of_limit": read / (found["ms_per_token"] / 1e3) / self.limits["copy_bytes_per_s"],
            "prefill_of_limit": prefill_flops(config, rows) / found["ttft_s"] / self.limits["bf16_flops"],
            "gib": torch.cuda.max_memory_allocated() / 2**30,
        }


def forget() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def decoder_weights(config: Config) -> int:
    return config.text.num_parameters - config.text.embedding_rows * config.text.width


def decode_bytes(config: Config, rows: int) -> float:
    """Weights (with the tied head) read once, and the cache of every row half way through its answer."""
    tokens = config.vision.num_image_tokens + WORDS + NEW // 2
    return 2 * config.text.num_parameters + rows * tokens * config.text.cache_bytes_per_token


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
        with torch.device("cuda"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def draw(model: torch.nn.Module) -> None:
    """Random weights of a size that keeps activations near 1; norms as they are after initialisation."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 0.02)
        else:
            parameter.data.fill_(1.0 if "vision" in name and "norm" in name and name.endswith("weight") else 0.0)


def draw_ours(config: Config) -> PaliGemmaModel:
    with torch.device("meta"):
        model = PaliGemmaModel(config)
    model = model.to(torch.bfloat16).to_empty(device="cuda").eval().requires_grad_(False)
    draw(model)
    return model


def draw_theirs(config: Config) -> Any:
    from transformers import Gemma2Config, PaliGemmaConfig, PaliGemmaForConditionalGeneration, SiglipVisionConfig

    vision, text = config.vision, config.text
    theirs = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=vision.width, num_hidden_layers=vision.depth, intermediate_size=vision.mlp_dim,
            num_attention_heads=vision.num_heads, image_size=vision.image_size_px, patch_size=vision.patch_size_px,
            vision_use_head=False,
        ),
        text_config=Gemma2Config(
            hidden_size=text.width, num_hidden_layers=text.depth, intermediate_size=text.mlp_dim,
            num_attention_heads=text.num_heads, num_key_value_heads=text.num_kv_heads, head_dim=text.head_dim,
            vocab_size=text.embedding_rows, hidden_activation="gelu_pytorch_tanh", sliding_window=text.sliding_window,
            attn_logit_softcapping=text.attn_logit_softcap, final_logit_softcapping=text.final_logit_softcap,
            query_pre_attn_scalar=int(text.query_scale_dim or text.head_dim),
        ),
        image_token_index=text.vocab_size, projection_dim=text.width,
    )  # fmt: skip
    with bfloat16_on_device():
        model: Any = PaliGemmaForConditionalGeneration(theirs)
    model = model.to("cuda", torch.bfloat16).eval().requires_grad_(False)
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
    prompt = Encoded(tokens=tokens, pixels=pixels.to("cuda", torch.bfloat16), mask_ar=zeros, mask_loss=zeros)
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
    ids = tokens[None].repeat(rows, 1).cuda()
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids),
        "pixel_values": pixels.to("cuda", torch.bfloat16).repeat(rows, 1, 1, 1),
    }  # fmt: skip
    more = {"cache_implementation": "static"} if side == "hf-static" else {}

    def generate(new: int) -> None:
        model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, **more)

    return timed(generate)


if __name__ == "__main__":
    main()
