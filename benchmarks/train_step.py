"""One training step beside transformers and PEFT: time and peak of memory, same weights, same batch, same updates.

    python benchmarks/train_step.py [--size tiny] [--rounds 2] [--steps 4] [--json out.json]
    python benchmarks/train_step.py --size 3b --rounds 1 --steps 2          # 10 GiB and minutes

    tiny   77 million parameters, 66 of them the embedding of the real vocabulary; 4 examples a step
    3b     the shape of PaliGemma 2 3B in bfloat16; 1 example a step

LoRA of rank 8 on every linear layer of the language model over a frozen bfloat16 base, and (tiny) full fine-tuning of
float32 weights, both computed in bfloat16, with and without gradient checkpointing. Here it is the `Trainer` as a run
has it; there the usual loop: forward with labels, backward, clip, AdamW. Every case has a process of its own and the
two sides alternate. Memory is the peak during the steps above what the process held before it made the model; times
are medians of the steps after the first.
"""

import argparse
import json
import re
import statistics
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.alone import MIB, Peak, alone, give, machine, resident

if TYPE_CHECKING:
    from torch import nn

    from paligemma.config import Config

SIDES = ("ours", "theirs")
CASES = {
    "tiny": (("lora", False), ("lora", True), ("full", False), ("full", True)),
    "3b": (("lora", False), ("lora", True)),
}
BATCH = {"tiny": 4, "3b": 1}
PREFIX, SUFFIX, RANK, ALPHA, LR = 16, 32, 8, 16.0, 1e-4
TOLERANCE = 1e-3  # of the losses, relative


def architecture(size: str) -> "Config":
    """With the 257,216 embedding rows of Hugging Face's files."""
    from paligemma.config import Config, TextConfig, VisionConfig

    if size == "3b":
        return Config.of("paligemma2-3b-pt-224").with_padding_rows()
    text = TextConfig(
        width=256, depth=6, mlp_dim=1024, num_heads=4, num_kv_heads=2, head_dim=64, post_norms=True,
        attn_logit_softcap=50.0, final_logit_softcap=30.0, sliding_window=4096, query_scale_dim=64.0,
    )  # fmt: skip
    vision = VisionConfig(width=256, depth=6, mlp_dim=1024, num_heads=4, image_size_px=224)
    return Config(vision=vision, text=text).with_padding_rows()


def draw(model: "nn.Module") -> None:
    """Random weights that depend on a parameter's name alone, be it ours or theirs."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = common_name(name)
            if parameter.ndim == 1:
                norm = "vision" in name and "norm" in name and name.endswith("weight")  # Gemma's norms start at 0
                parameter.fill_(float(norm))
                continue
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            size = 0.0 if "lora_B" in name else parameter[0].numel() ** -0.5
            for rows in parameter.split(max(1, 2**24 // parameter[0].numel())):
                rows.copy_(torch.randn(rows.shape, generator=generator) * size)


def common_name(name: str) -> str:
    """One name for a parameter here and there; adapters included."""
    name = re.sub(r"^(base_model\.model\.)?model\.", "", name).replace(".base_layer", "").replace(".base", "")
    name = name.replace("vision_tower.encoder", "vision_tower").replace("multi_modal_projector.linear", "projector")
    name = name.replace("embeddings.", "").replace("position_embedding.weight", "position_embedding")
    return name.replace(".default.weight", "")  # of an adapter in PEFT


def batch(size: str) -> Any:
    """One step's examples: a picture of noise, random prefix and suffix."""
    import torch

    from paligemma.config import IMAGE_SLOT
    from paligemma.processor import Batch

    config, rows = architecture(size), BATCH[size]
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, config.text.vocab_size, (rows, PREFIX + SUFFIX), generator=generator)
    slots = torch.full((rows, config.vision.num_image_tokens), IMAGE_SLOT)
    tokens = torch.cat([slots, words], dim=1)
    suffix = torch.zeros_like(tokens)
    suffix[:, -SUFFIX:] = 1
    side = config.vision.image_size_px
    return Batch(
        tokens=tokens, pixels=torch.rand(rows, 3, side, side, generator=generator) * 2 - 1,
        mask_ar=suffix, mask_input=torch.ones_like(tokens, dtype=torch.bool), mask_loss=suffix,
    )  # fmt: skip


def ours(case: dict[str, Any]) -> dict[str, Any]:
    """The steps of `Trainer`."""
    import torch

    from paligemma.model import PaliGemmaModel
    from paligemma.train.config import DataConfig, LoraConfig, LossConfig, OptimConfig, TrainConfig
    from paligemma.train.loop import Trainer
    from paligemma.train.objective import SuffixObjective
    from paligemma.train.parts import prepare
    from paligemma.train.records import Observer, StepRecord

    before, lora = resident(), case["method"] == "lora"
    with torch.device("meta"):
        model = PaliGemmaModel(architecture(case["size"]))
    model = model.to(torch.bfloat16 if lora else torch.float32).to_empty(device="cpu")
    given = batch(case["size"])
    config = TrainConfig(
        lora=LoraConfig(rank=RANK, alpha=ALPHA, where=("lm",)) if lora else None, loss=LossConfig(per="token"),
        optim=OptimConfig(lr=LR, schedule="constant", warmup=0.0), data=DataConfig(workers=0),
        steps=case["steps"], batch_size=len(given.tokens), checkpointing=case["checkpointing"],
    )  # fmt: skip
    trained = prepare(model, config).trainable
    draw(model)

    class Same:
        fingerprint = "the same batch every step"

        def micro_batches(self, step: int, rank: int = 0, world: int = 1) -> list[Any]:
            return [given]

    class Watch(Observer):
        def __init__(self) -> None:
            self.losses: list[float] = []
            self.times: list[tuple[float, float]] = []
            self.processor_s = time.process_time()

        def on_step(self, record: StepRecord) -> None:
            now = time.process_time()
            self.losses.append(record.losses["loss"])
            self.times.append((record.seconds, now - self.processor_s))
            self.processor_s = now

    watch = Watch()
    trainer = Trainer(SuffixObjective(model, config.loss), Same(), config, observers=[watch])
    with Peak() as peak:
        trainer.run()
    return told(peak, before, trained, watch.losses, watch.times)


def theirs(case: dict[str, Any]) -> dict[str, Any]:
    """The usual loop of transformers and PEFT."""
    import torch
    from harness.theirs import hf_config
    from peft import LoraConfig, get_peft_model
    from transformers import PaliGemmaForConditionalGeneration
    from transformers.initialization import no_init_weights

    before, lora = resident(), case["method"] == "lora"
    theirs = hf_config(architecture(case["size"]))
    # Only their eager attention knows the cap on scores; the image encoder has none.
    theirs._attn_implementation = {"text_config": "eager", "vision_config": "sdpa"}
    torch.set_default_dtype(torch.bfloat16 if lora else torch.float32)
    with no_init_weights():
        model: Any = PaliGemmaForConditionalGeneration(theirs)
    torch.set_default_dtype(torch.float32)
    model.tie_weights()  # part of the initialisation that was left out
    assert model.lm_head.weight is model.get_input_embeddings().weight
    if case["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if lora:
        where = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=where))
    draw(model)
    model.train()
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=LR, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    given = batch(case["size"])
    inputs = {
        "input_ids": given.tokens.masked_fill(given.tokens < 0, theirs.image_token_id),
        "pixel_values": given.pixels, "attention_mask": given.mask_input.long(), "token_type_ids": given.mask_ar,
        "labels": given.tokens.masked_fill(given.mask_loss == 0, -100), "use_cache": False,
    }  # fmt: skip
    losses, times = [], []
    with Peak() as peak:
        for _ in range(case["steps"]):
            began, processor_s = time.perf_counter(), time.process_time()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(moving, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            del loss
            times.append((time.perf_counter() - began, time.process_time() - processor_s))
    return told(peak, before, sum(parameter.numel() for parameter in moving), losses, times)


def told(
    peak: Peak, before: int, trained: int, losses: list[float], times: list[tuple[float, float]]
) -> dict[str, Any]:
    """What a process hands back; the first step is warm-up."""
    later = times[1:] or times
    return {
        "losses": losses, "trained": trained, "memory_bytes": peak.most - before, "model_bytes": peak.before - before,
        "seconds": statistics.median(wall for wall, _ in later),
        "processor_s": statistics.median(processor for _, processor in later),
    }  # fmt: skip


def compare(size: str, method: str, checkpointing: bool, rounds: int, steps: int) -> dict[str, Any]:
    """Both sides of one case, by turns; the smallest time and the median memory of the rounds."""
    case = {"size": size, "method": method, "checkpointing": checkpointing, "steps": steps}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            runs[side].append(alone(__file__, {**case, "side": side}))
    found = {
        side: {
            **runs[side][0],
            "processor_s": min(run["processor_s"] for run in runs[side]),
            "seconds": min(run["seconds"] for run in runs[side]),
            "memory_bytes": statistics.median(run["memory_bytes"] for run in runs[side]),
        }
        for side in SIDES
    }
    pairs = zip(found["ours"]["losses"], found["theirs"]["losses"], strict=True)
    apart = max(abs(a - b) / b for a, b in pairs)
    if apart > TOLERANCE or found["ours"]["trained"] != found["theirs"]["trained"]:
        sys.exit(f"{case}: this is not the same training: {found}")
    return {**case, **found, "losses_apart": apart, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(CASES), default="tiny")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        return give({"ours": ours, "theirs": theirs}[arguments.case["side"]](arguments.case))
    results = []
    print("| what | checkpointing | side | peak, MiB | ratio | processor, s | ratio | clock, s | losses apart |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method, checkpointing in CASES[arguments.size]:
        found = compare(arguments.size, method, checkpointing, arguments.rounds, arguments.steps)
        results.append(found)
        for side in SIDES:
            one, other = found[side], found["theirs"]
            print(
                f"| {method} | {'yes' if checkpointing else 'no'} | {side} | "
                f"{one['memory_bytes'] / MIB:,.0f} | {one['memory_bytes'] / other['memory_bytes']:.2f} | "
                f"{one['processor_s']:.2f} | {one['processor_s'] / other['processor_s']:.2f} | "
                f"{one['seconds']:.2f} | {found['losses_apart']:.0e} |",
                flush=True,
            )
    if arguments.json:
        report = {**machine(), "size": arguments.size, "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
