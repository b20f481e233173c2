"""Mixed requests: one by one, in batches, in a line that rows join and leave, and in one that gives the same bits.

    python benchmarks/mixed_prompts.py [--requests 64] [--rows 16] [--model nano|3b] [--device cpu] [--json out.json]

A batch is requests of like length that begin together; the next begins when its last answer is whole.

Requests have none to three pictures, prompts of 4 to 60 tokens and answers of 4 to 120 tokens, from one seed; weights
are random and no answer ends by itself. The ways take turns; what counts is the median of the rounds, on a CPU that
of the processor's own time, which others on the machine do not change. The answers of all ways are compared.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from paligemma.config import IMAGE_SLOT, Config, nano
from paligemma.engine import Engine, Generation, Sampling
from paligemma.model import PaliGemmaModel
from paligemma.processor import Encoded

WAYS = ("one by one", "batches", "continuous", "same bits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=["nano", "3b"], default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = nano(112) if arguments.model == "nano" else Config.of("paligemma2-3b-pt-224")
    model = draw(config, arguments.device, getattr(torch, arguments.dtype))
    prompts, samplings = requests(config, arguments.requests)
    engines = {way: engine_of(model, invariant=way == "same bits") for way in arguments.ways}
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    took: dict[str, list[float]] = {way: [] for way in engines}
    said: dict[str, list[list[int]]] = {}
    for number in range(arguments.rounds + 1):
        for way, engine in engines.items():
            began = clock()
            found = answered(engine, way, prompts, samplings, arguments.rows)
            if number:  # the first round warms up
                took[way].append(clock() - began)
            said[way] = [one.tokens for one in found]
    table(took, said, arguments)


def draw(config: Config, device: str, dtype: torch.dtype) -> PaliGemmaModel:
    with torch.device("meta"):
        model = PaliGemmaModel(config)
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(1.0 if "vision" in name and "norm" in name and name.endswith("weight") else 0.0)
    return model


def requests(config: Config, count: int) -> tuple[list[Encoded], list[Sampling]]:
    generator = torch.Generator().manual_seed(1)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    prompts, samplings = [], []
    for _ in range(count):
        images, side = between(0, 3), config.vision.image_size_px
        words = torch.randint(3, config.text.vocab_size, (between(4, 60),), generator=generator)
        tokens = torch.cat([torch.full((images * config.vision.num_image_tokens,), IMAGE_SLOT), words])
        pixels = torch.rand(images, 3, side, side, generator=generator) * 2 - 1 if images else None
        nothing = torch.zeros_like(tokens)
        prompts.append(Encoded(tokens=tokens, pixels=pixels, mask_ar=nothing, mask_loss=nothing))
        samplings.append(Sampling(max_tokens=between(4, 120), stop_repeats=None))
    return prompts, samplings


def answered(
    engine: Engine, way: str, prompts: list[Encoded], samplings: list[Sampling], rows: int
) -> list[Generation]:
    if way != "batches":
        return engine.generate(prompts, samplings, batch_size=1 if way == "one by one" else rows)
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place].tokens))
    found: dict[int, Generation] = {}
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        together = engine.generate([prompts[i] for i in part], [samplings[i] for i in part], batch_size=rows)
        found.update(zip(part, together, strict=True))
    return [found[place] for place in range(len(prompts))]


def engine_of(model: PaliGemmaModel, *, invariant: bool) -> Engine:
    engine = Engine(model, eos_id=1, invariant=invariant)
    engine.eos_ids = frozenset()  # every answer is as long as it may be
    return engine


def table(took: dict[str, list[float]], said: dict[str, list[list[int]]], arguments: argparse.Namespace) -> None:
    first = next(iter(took))
    rows = []
    for way, rounds in took.items():
        seconds = statistics.median(rounds)
        rows.append({
            "way": way, "seconds": seconds, "answers_per_minute": 60 * arguments.requests / seconds,
            "ratio": statistics.median(took[first]) / seconds,
            "same_answers": sum(a == b for a, b in zip(said[way], said[first], strict=True)),
        })  # fmt: skip
    what = (
        f"{arguments.requests} requests, {arguments.rows} rows, {arguments.model} {arguments.dtype} {arguments.device}"
    )
    print(f"| {what} | s | answers a minute | ratio | same |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['way']} | {row['seconds']:.2f} | {row['answers_per_minute']:.0f} | {row['ratio']:.2f} | "
            f"{row['same_answers']} of {arguments.requests} |"
        )
    if arguments.json:
        settings = {**vars(arguments), "json": None, "torch": torch.__version__, "threads": torch.get_num_threads()}
        arguments.json.write_text(json.dumps({"settings": settings, "took": took, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
