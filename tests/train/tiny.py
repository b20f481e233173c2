"""A run small enough for tests: a model of two blocks, steps of eight drawn rows, sets kept in memory."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from tests.oracle import TINY, draw_model, draw_prompt
from torch import Tensor

from paligemma.processor import Processor
from paligemma.train.config import DataConfig, OptimConfig, TrainConfig
from paligemma.train.loop import Trainer
from paligemma.train.objective import SuffixObjective
from paligemma.train.records import Observer, StepRecord
from paligemma.train.saving.sets import Restored
from paligemma.train.streams import TrainingBatch

ROWS = 8  # of a step
PAD: Any = SimpleNamespace(pad_id=0)
PROCESSOR = Processor(PAD, image_size_px=8, num_image_tokens=4)


class Stream:
    """Eight rows a step, `micro` at a time: the `same` for ever, or others each step; NaN pixels in steps of `bad`."""

    fingerprint = "tiny"

    def __init__(self, micro: int = ROWS, *, same: bool = False, bad: tuple[int, ...] = ()):
        self.micro, self.same, self.bad = micro, same, bad

    def micro_batches(self, step: int, rank: int = 0, world: int = 1) -> list[TrainingBatch]:
        first = 0 if self.same else step * ROWS
        rows = []
        for seed in range(first + rank, first + ROWS, world):
            suffix = [4 + (seed * 7 + i) % 30 for i in range(1 + seed % 4)]
            rows.append(draw_prompt(TINY[2], 1, 2 + seed % 3, seed=seed, suffix=[*suffix, 1]))
        if step in self.bad:
            rows = [replace(row, pixels=row.pixels * float("nan")) for row in rows]
        return [
            TrainingBatch(
                **vars(PROCESSOR.collate(rows[start : start + self.micro], side="right")),
                ids=tuple(f"row:{first + start + i}" for i in range(len(rows[start : start + self.micro]))),
            )
            for start in range(0, len(rows), self.micro)
        ]


class Sets:
    """The last set of a run."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[dict[str, Tensor], dict[str, Any]]] = {}

    def save(self, step: int, tensors: Any, facts: Any) -> None:
        self.kept[step] = ({name: tensor.clone() for name, tensor in tensors.items()}, copy.deepcopy(facts))

    def load_last(self) -> Restored | None:
        if not self.kept:
            return None
        step = max(self.kept)
        tensors, facts = self.kept[step]
        return Restored(step=step, tensors=tensors, facts=facts, environment={}, logs={}, folder=Path())


class Seen(Observer):
    """Remembers everything it is told."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []
        self.summary: Any = None

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)

    def on_evaluation(self, step: int, figures: Any) -> None:
        self.evaluations.append((step, dict(figures)))

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_end(self, summary: Any) -> None:
        self.summary = summary


def tiny_config(**changes: Any) -> TrainConfig:
    """Ten steps in float32, in this process alone."""
    base = TrainConfig(
        steps=10, batch_size=ROWS, precision="fp32", save_every=0, save_minutes=0.0,
        data=DataConfig(workers=0), optim=OptimConfig(lr=1e-2),
    )  # fmt: skip
    return replace(base, **changes)


def tiny_trainer(config: TrainConfig | None = None, stream: Any = None, **more: Any) -> Trainer:
    """A trainer of a tiny model of the second generation, always the same at first."""
    config = config or tiny_config()
    model = draw_model(TINY[2])
    return Trainer(SuffixObjective(model, config.loss), stream or Stream(), config, **more)


def save_tiny_model(folder: Path, dtype: str = "float32") -> Path:
    """A tiny random model with nano's tokenizer, in Hugging Face's format."""
    from paligemma.checkpoints import find_tokenizer, save
    from paligemma.tokenizer import Tokenizer

    tokenizer = find_tokenizer("nano")
    text = replace(TINY[2].text, vocab_size=Tokenizer.load(tokenizer).vocab_size, padding_rows=0)
    model = draw_model(replace(TINY[2], text=text))
    with torch.no_grad():
        model.language_model.embed_tokens.weight.mul_(0.1)
    save(model, folder, dtype=dtype, tokenizer_path=tokenizer)
    return folder


def write_rows(folder: Path, count: int = 8, *, shade: int = 255) -> Path:
    """`rows.jsonl` of so many pictures in one of three colours, and which; another shade makes other pictures."""
    folder.mkdir(exist_ok=True)
    colors = {"red": (shade, 0, 0), "green": (0, shade, 0), "blue": (0, 0, shade)}
    lines = []
    for i in range(count):
        color = list(colors)[i % len(colors)]
        Image.new("RGB", (12 + i, 12), colors[color]).save(folder / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "prefix": "answer en what color?", "suffix": color}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
