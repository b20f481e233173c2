"""A run of a tiny model on drawn rows, in this process or as a program under `torchrun`.

    python -m tests.train.tiny_run '{"out": "runs/a", "parallel": "fsdp2", "steps": 5}' '{"out": "runs/b", ...'

Each argument is a run: sets, both logs and `last/weights.safetensors`; it goes on where `out` ends.
"""

import contextlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.oracle import TINY, collate, draw_model, draw_prompt

from paligemma.processor import Batch
from paligemma.train.config import DataConfig, LoraConfig, LossConfig, OptimConfig, TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.loop import Trainer
from paligemma.train.objective import SuffixObjective
from paligemma.train.parts import prepare
from paligemma.train.reports.report import Journal
from paligemma.train.saving.state import RunState


class Rows:
    """Eight rows a step, every third without a picture."""

    fingerprint = "rows"

    def __init__(self, batch_size=8, micro_batch=2):
        self.batch_size, self.micro_batch = batch_size, micro_batch

    def micro_batches(self, step, rank=0, world=1):
        places = range(step * self.batch_size + rank, (step + 1) * self.batch_size, world)
        rows = [
            draw_prompt(TINY[2], int(place % 3 > 0), 2 + place % 4, seed=place, suffix=[5 + place % 7, 9, 1])
            for place in places
        ]
        parts = (rows[i : i + self.micro_batch] for i in range(0, len(rows), self.micro_batch))
        return [Batch(**vars(collate(part, "right"))) for part in parts]


def config_of(**more):
    """Settings of a tiny run; `optim` holds settings of the optimizer."""
    # Some gradients are zero but for rounding (biases of keys); with Adam's usual eps they would move by a whole lr.
    optim = {"lr": 3e-3, "eps": 1e-3, "warmup": 1, "weight_decay": 1e-3, "ema": 0.5, **more.pop("optim", {})}
    more["lora"] = LoraConfig(**more["lora"]) if "lora" in more else None
    given = {"steps": 5, "batch_size": 8, "precision": "fp32", "save_every": 4, "save_minutes": 0, **more}
    return TrainConfig(
        data=DataConfig(workers=0), loss=LossConfig(chunk=16), optim=OptimConfig(**optim), seed=3, **given
    )


def run(out, files=None, **more):
    """One run; what the loop says at its end."""
    out, config = Path(out), config_of(**more)
    parallel = Parallel.start(config.parallel)
    model = draw_model(TINY[2], seed=1)
    prepare(model, config)
    objective = SuffixObjective(model, config.loss)
    state = RunState(out, files=files, world=parallel.world)
    with parallel, state if parallel.main else contextlib.nullcontext():
        trainer = Trainer(
            objective, Rows(micro_batch=config.micro_batch or 2), config, state=state, observers=[Journal(out)],
            parallel=parallel, export=lambda name: export(state, parallel, objective, name),
        )  # fmt: skip
        return trainer.run()


def export(state, parallel, objective, name):
    whole = parallel.gather(dict(objective.model.named_parameters()))

    def write(folder):
        folder.mkdir()
        save_file(whole, folder / "weights.safetensors")

    parallel.on_main(lambda: str(state.export(name, write)))


def losses(out):
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with Parallel.start(timeout_s=60):
        for settings in map(json.loads, sys.argv[1:]):
            run(**settings)
