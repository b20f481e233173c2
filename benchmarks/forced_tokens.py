"""What it saves to feed forced tokens in one pass: decode steps and time per detection, three ways in one run.

    python benchmarks/forced_tokens.py [--rounds 3] [--pictures 12] [--json out.json]

    forced   under the grammar of boxes; tokens it forces are fed together with their neighbours
    single   under the same grammar, one token at a time
    free     without grammar, as many tokens

Two models: the bundled nano on held-out scenes, and a random one of 210 million parameters, large enough for decoding
to be bound by reading weights, that finds three traffic lights in noise, in bfloat16 and in float32. The ways
alternate; times are those after the prompt's own pass, medians over rounds: by the clock, and of the processor, which
other programs disturb less.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from paligemma.config import IMAGE_SLOT, Config, TextConfig, VisionConfig
from paligemma.engine import Constraint, Engine, Generation, Sampling
from paligemma.engine.prefill import Prefill
from paligemma.model import PaliGemmaModel
from paligemma.processor import Encoded

WAYS = ("forced", "single", "free")
HELD_OUT = 1_000_000_000  # seeds of scenes no training saw
VOCAB = 32_768
LOC, LABEL, SEMICOLON, SPACE, EOS = range(30_000, 31_024), (500, 501), 600, 601, 1
VISION = VisionConfig(width=256, depth=4, mlp_dim=1024, num_heads=4, image_size_px=112)
NUM_TOKENS = 3 * 8 - 1  # eos included
TEXT = TextConfig(
    width=1024, depth=11, mlp_dim=4096, num_heads=8, num_kv_heads=4, head_dim=128, vocab_size=VOCAB,
    post_norms=True, attn_logit_softcap=50.0, final_logit_softcap=30.0, sliding_window=4096, query_scale_dim=128.0,
)  # fmt: skip


class ThreeBoxes:
    """`<loc>` x 4, a label of two tokens, then ` ; ` and the next, or eos: shaped as tokenizers cut it.

    A random model ends anywhere, so after a label of the first two objects another id stands in for eos: the choice
    between ending and going on is made as in earnest, but both go on.
    """

    def start(self) -> tuple[int, int]:
        return 0, 0

    def allowed(self, state: tuple[int, int]) -> Sequence[int]:
        count, place = state
        if place < 4:
            return LOC
        if place < 6:
            return (LABEL[place - 4],)
        if place == 6:
            return (EOS, EOS + 1) if count == 2 else (SEMICOLON, SEMICOLON + 10)
        return (SPACE,)

    def lone(self, state: tuple[int, int]) -> None:
        return None

    def advance(self, state: tuple[int, int], token_id: int) -> tuple[int, int]:
        count, place = state
        return (count + 1, 0) if place == 7 else (count, place + 1)


class Clock:
    """An engine that tells how long the passes after the prompt took, in seconds of the clock and of the processor."""

    def __init__(self, engine: Engine):
        self.engine, self.begun = engine, (0.0, 0.0)
        self.advance = Prefill.advance
        Prefill.advance = lambda *arguments: self._advance(*arguments)  # type: ignore[method-assign]

    def _advance(self, *arguments: Any) -> Any:
        result = self.advance(*arguments)
        self.begun = time.perf_counter(), time.process_time()
        return result

    def run(self, way: str, prompts: list[Any], grammars: list[Constraint], lengths: Sequence[int]) -> Any:
        """Answers of one batch, and the two times it decoded."""
        free = way == "free"
        answers = self.engine.generate(
            prompts, [Sampling(max_tokens=length) for length in lengths], batch_size=len(prompts),
            constraints=None if free else grammars, force_in_one_step=way == "forced",
        )  # fmt: skip
        return answers, time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]


def random_model(dtype: torch.dtype) -> tuple[Engine, list[Any], list[Constraint]]:
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = PaliGemmaModel(Config(vision=VISION, text=TEXT))
    model = model.to_empty(device="cpu").eval()
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if parameter.ndim >= 2:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(float("layer_norm" in name or "layernorm" in name) * name.endswith("weight"))
    model = model.to(dtype)
    tokens = torch.tensor([IMAGE_SLOT] * VISION.num_image_tokens + [2, *range(1000, 1006), 108])
    prompts = [
        Encoded(
            tokens=tokens, pixels=torch.rand(1, 3, 112, 112, generator=generator) * 2 - 1,
            mask_ar=torch.zeros_like(tokens), mask_loss=torch.zeros_like(tokens),
        )
        for _ in range(4)
    ]  # fmt: skip
    return Engine(model, eos_id=EOS), prompts, [ThreeBoxes()] * 4


def nano(pictures: int) -> tuple[Engine, list[Any], list[Constraint]]:
    import paligemma
    from paligemma.scenes import draw_scene
    from paligemma.tasks.constraint import BoxGrammar

    model = paligemma.load()
    scenes = [draw_scene(HELD_OUT + k, kind="objects") for k in range(pictures)]
    labels = [scene.things[0].label for scene in scenes]
    prompts = [
        model.processor.encode(scene.image, f"detect {label}") for scene, label in zip(scenes, labels, strict=True)
    ]
    return model.engine, prompts, [BoxGrammar(model.tokenizer, [label], masks=False) for label in labels]


def lengths(engine: Engine, prompts: list[Any], grammars: list[Constraint]) -> list[int]:
    """Of the answers under the grammar, eos included; the run warms up as well."""
    return [len(answer.logprobs) for answer in engine.generate(prompts, Sampling(max_tokens=96), constraints=grammars)]


def measure(
    engine: Engine, prompts: list[Any], grammars: list[Constraint], limits: list[int], batch_size: int, rounds: int
) -> dict[str, Any]:
    """Steps, tokens and milliseconds per detection of each way, and how many answers are the same."""
    clock = Clock(engine)
    said: dict[str, list[Generation]] = {}
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            said[way], wall, processor = [], 0.0, 0.0
            for start in range(0, len(prompts), batch_size):
                part = slice(start, start + batch_size)
                answers, more_wall, more_processor = clock.run(way, prompts[part], grammars[part], limits[part])
                said[way].extend(answers)
                wall, processor = wall + more_wall, processor + more_processor
            times[way].append((wall / len(prompts) * 1e3, processor / len(prompts) * 1e3))
    Prefill.advance = clock.advance  # type: ignore[method-assign]
    return {
        way: {
            "steps": statistics.mean(answer.steps for answer in said[way]),
            "tokens": statistics.mean(len(answer.logprobs) for answer in said[way]),
            "clock_ms": statistics.median(wall for wall, _ in times[way]),
            "processor_ms": statistics.median(processor for _, processor in times[way]),
            "ms_of_rounds": times[way],
            "same_as_single": sum(a.tokens == b.tokens for a, b in zip(said[way], said["single"], strict=True)),
        }
        for way in WAYS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    print("| model | batch | way | decode steps | tokens | clock, ms | processor, ms | ratio | same tokens |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ("nano", "random, bfloat16", "random, float32"):
        if name == "nano":
            engine, prompts, grammars = nano(arguments.pictures)
            limits = lengths(engine, prompts, grammars)
        else:
            engine, prompts, grammars = random_model(torch.bfloat16 if "bfloat16" in name else torch.float32)
            limits = [NUM_TOKENS] * len(prompts)
            engine.generate(prompts[:1], Sampling(max_tokens=6), constraints=grammars[:1])  # warms up
        for batch_size in (1, 4):
            some = len(prompts) if name == "nano" else batch_size
            found = measure(engine, prompts[:some], grammars[:some], limits[:some], batch_size, arguments.rounds)
            results[f"{name}, batch {batch_size}"] = found
            for way in WAYS:
                one = found[way]
                print(
                    f"| {name} | {batch_size} | {way} | {one['steps']:.1f} | {one['tokens']:.1f} | "
                    f"{one['clock_ms']:.1f} | {one['processor_ms']:.1f} | "
                    f"{one['processor_ms'] / found['single']['processor_ms']:.2f} | "
                    f"{one['same_as_single']} of {some} |",
                    flush=True,
                )
    if arguments.json:
        report = {
            "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__, "results": results,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
