"""The memory that two steps of a middle-sized random model really take, as a program, so that nothing else is measured.

    python -m tests.train.measured_step '{"method": "lora", "precision": "bf16"}'

Prints a JSON object: measured and estimated bytes. Memory goes back to the system as soon as it is free.
"""

import json
import sys
from dataclasses import replace

import torch

from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.model import PaliGemmaModel
from paligemma.processor import Batch
from paligemma.train.checks.dry_run import dry_run
from paligemma.train.config import DataConfig, OptimConfig, TrainConfig
from paligemma.train.loop import Trainer
from paligemma.train.objective import SuffixObjective
from paligemma.train.parts import prepare
from paligemma.train.planning.activations import Shape
from paligemma.train.planning.plan import METHODS, training
from paligemma.train.pretraining.scratch import initialise

VISION = VisionConfig(width=256, depth=4, mlp_dim=1024, num_heads=4, image_size_px=112)  # 64 tokens an image
TEXT = TextConfig(width=512, depth=6, mlp_dim=2048, num_heads=8, num_kv_heads=2, head_dim=64, vocab_size=48_000)
GEMMA_2 = {"post_norms": True, "attn_logit_softcap": 50.0, "final_logit_softcap": 30.0, "sliding_window": 4096}
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Drawn:
    """Rows of a picture and so many text tokens, half of them learnt."""

    fingerprint = "drawn"

    def __init__(self, rows, text_tokens):
        self.rows, self.text_tokens = rows, text_tokens

    def micro_batches(self, step, rank=0, world=1):
        generator = torch.Generator().manual_seed(step)
        words = torch.randint(2000, 40_000, (self.rows, self.text_tokens), generator=generator)
        tokens = torch.cat([torch.full((self.rows, VISION.num_image_tokens), -1), words], dim=1)
        learnt = torch.zeros_like(tokens)
        learnt[:, -(self.text_tokens // 2) :] = 1
        return [
            Batch(
                tokens=tokens, pixels=torch.randn(self.rows, 3, 112, 112, generator=generator), mask_ar=learnt,
                mask_input=torch.ones_like(tokens, dtype=torch.bool), mask_loss=learnt,
            )
        ]  # fmt: skip


def measure(
    method="full", precision="bf16", checkpointing=False, generation=2, rows=4, text_tokens=96, optimizer="adamw"
):
    architecture = Config(vision=VISION, text=replace(TEXT, **(GEMMA_2 if generation == 2 else {})))
    config = TrainConfig(
        precision=precision, checkpointing=checkpointing, batch_size=rows, steps=2, threads=1,
        optim=OptimConfig(name=optimizer, lr=1e-4, warmup=0), data=DataConfig(workers=0), **METHODS[method],
    )  # fmt: skip
    model = PaliGemmaModel(architecture)
    initialise(model, seed=0, first_location=2000)
    if config.lora is not None and precision == "bf16":
        model.bfloat16()
    prepare(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer = Trainer(SuffixObjective(model, config.loss), Drawn(rows, text_tokens), config)
    measured = dry_run(trainer).memory_bytes
    tokens = VISION.num_image_tokens + text_tokens
    shape = Shape(rows=rows, tokens=tokens, learnt=rows * (text_tokens // 2), pictures=rows)
    estimate = training(architecture, config, shape, device="cpu")
    return {"measured": measured, "estimated": estimate.peak, "parts": estimate.parts(),
            "parameters": architecture.num_parameters}  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
