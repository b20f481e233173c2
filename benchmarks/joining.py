"""How long one who reads a stream waits when another picture comes in: prompts that pause between layers, or do not.

    python benchmarks/joining.py [--model DIRECTORY] [--quantize int8] [--rounds 3] [--json out.json]

One stream is read; after a few tokens a second one begins, with a picture that nobody has seen, and both go on. Told
are the longest wait of the first, that of the second for its first token, and when both were done. The ways take turns;
every figure is a median. Without --model the bundled one answers.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import paligemma
from paligemma.config import IMAGE_SLOT, Config
from paligemma.engine import Engine, Sampling
from paligemma.engine.continuous import PREFILL_BETWEEN, Continuous
from paligemma.processor import Encoded

WAYS = ("pauses", "at once")
BEFORE, TOKENS = 4, 24  # of the first stream when the second comes, and of each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--quantize")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = paligemma.load(arguments.model, device="cpu", quantize=arguments.quantize)
    engine = Engine(model.model, eos_id=1)
    engine.eos_ids = frozenset()  # every answer is as long as it may be
    seen: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds + 1):
        for way in WAYS:
            found = joined(engine, model.config, math.inf if way == "at once" else PREFILL_BETWEEN["cpu"], number)
            if number:  # the first round warms up
                seen[way].append(found)
    rows = [
        {"way": way, **{key: statistics.median(one[key] for one in rounds) for key in rounds[0]}}
        for way, rounds in seen.items()
    ]
    print(f"| {model.name}, {model.dtype}, {arguments.quantize or 'plain'} | " + " | ".join(list(rows[0])[1:]) + " |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) if key == "way" else f"{value:.3f}" for key, value in row.items()) + " |")
    if arguments.json:
        settings = {**vars(arguments), "json": None, "torch": torch.__version__, "threads": torch.get_num_threads()}
        arguments.json.write_text(json.dumps({"settings": settings, "rounds": seen, "rows": rows}, indent=1) + "\n")


def joined(engine: Engine, config: Config, between: float, seed: int) -> dict[str, float]:
    """Seconds: the usual step and the longest wait of the first stream, the second's first token, everything."""
    generator = torch.Generator().manual_seed(seed)
    line = engine.open(2, config.vision.num_image_tokens + 16 + TOKENS)
    line.between = between
    first, second = (asked(config, generator) for _ in range(2))
    began = time.perf_counter()
    line.submit(engine._request(first, Sampling(max_tokens=TOKENS, stop_repeats=None), 1, "it", engine._rule(None)))
    steps = [_step(line) for _ in range(BEFORE)]
    joins = time.perf_counter()
    ticket = line.submit(
        engine._request(second, Sampling(max_tokens=TOKENS, stop_repeats=None), 1, "it", engine._rule(None))
    )
    waits = []
    while not ticket.admitted:
        waits.append(_step(line))
    entered = time.perf_counter() - joins
    line.run()
    return {
        "usual step": statistics.median(steps[1:]), "longest wait": max(waits), "second's first token": entered,
        "both done": time.perf_counter() - began,
    }  # fmt: skip


def _step(line: Continuous) -> float:
    began = time.perf_counter()
    line.step()
    return time.perf_counter() - began


def asked(config: Config, generator: torch.Generator) -> Any:
    side, slots = config.vision.image_size_px, config.vision.num_image_tokens
    words = torch.randint(3, 200, (14,), generator=generator)
    tokens = torch.cat([torch.full((slots,), IMAGE_SLOT), words])
    nothing = torch.zeros_like(tokens)
    pixels = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    return Encoded(tokens=tokens, pixels=pixels, mask_ar=nothing, mask_loss=nothing)


if __name__ == "__main__":
    main()
