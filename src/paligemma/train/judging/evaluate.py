"""How good the weights of a run are at one moment: loss and task metrics over its validation data.

In: the model as it lies in memory, at a step. Out: figures by name, for the log, the best checkpoint and early
stopping, and pictures of answers in `samples/`. Training notices nothing: random numbers, modes and gradients are as
before. Several processes share the examples, under "fsdp2" too, whose weights are put together meanwhile.
"""

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from paligemma.api import PaliGemma
from paligemma.data.example import ENDLESS, Example, Source
from paligemma.metrics.detection import Match
from paligemma.processor import Processor
from paligemma.results import Answer
from paligemma.tasks.masks import decoder
from paligemma.train.config import TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.judging.asking import ahead, answered, question_of
from paligemma.train.judging.grading import Grade, Question, figures, grade
from paligemma.train.objective import Objective
from paligemma.train.reports.samples import save_samples
from paligemma.train.streams import encode

OF_ENDLESS = 256  # examples of a source without end, where no limit is given
BATCH = 16


class Evaluation:
    """Calling it with a step gives the figures; every process of a run must.

    `loss` is the objective's, in training's precision; the others are those of `grading`. With several sources each has
    its own beside those of all: `birds/loss`.

    Args:
        objective: what is trained. sources: what to evaluate on, of different names.
        codec_path: the mask codec's file, without which masks are not judged.
    """

    def __init__(
        self, objective: Objective, processor: Processor, sources: Sequence[Source], config: TrainConfig, *,
        codec_path: Path | None = None, parallel: Parallel | None = None,
    ):  # fmt: skip
        self.objective, self.processor, self.sources, self.config = objective, processor, sources, config
        self.codec_path, self.parallel = codec_path, parallel or Parallel()

    def __call__(self, step: int) -> dict[str, float]:
        config, device = self.config, self.parallel.device
        bf16 = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
        with aside(self.objective), torch.no_grad(), whole(self.objective, self.parallel), bf16:
            losses = self._losses()
            model: Any = self.objective.model
            judged = self._grades(
                PaliGemma(model, self.processor, name=config.out.name, codec_path=self.codec_path), step
            )
        found = losses | {name: figure.value for name, figure in figures(judged).items()}
        if len(self.sources) > 1:
            for source in self.sources:
                own = figures([one for one in judged if one.source == source.name])
                found |= {f"{source.name}/{name}": figure.value for name, figure in own.items()}
        return found

    def _examples(self) -> Iterator[Example]:
        """This process's share of every source, as many of each."""
        for source in self.sources:
            for index in islice(chosen(source, self._limit()), self.parallel.rank, None, self.parallel.world):
                yield replace(source[index], source=source.name)

    def _limit(self) -> int | None:
        limit = self.config.evaluate.limit
        return None if limit is None else math.ceil(limit / len(self.sources))

    def _losses(self) -> dict[str, float]:
        """The mean loss of all, and of each source where there are several."""
        sums = {f"{source.name} {what}": 0.0 for source in self.sources for what in ("loss", "weight")}
        examples = ahead(self._examples())
        while batch := list(islice(examples, BATCH)):
            for name in dict.fromkeys(example.source for example in batch):
                rows = [encode(e, self.processor, self.config.data.max_tokens) for e in batch if e.source == name]
                collated = self.processor.collate(rows, side="right").to(self.parallel.device)
                sums[f"{name} loss"] += float(self.objective(collated)["loss"])
                sums[f"{name} weight"] += self.objective.weight(collated)
        sums = self.parallel.all_reduce_sum(sums)
        weight = sum(sums[f"{source.name} weight"] for source in self.sources)
        found = {"loss": sum(sums[f"{source.name} loss"] for source in self.sources) / weight if weight else math.nan}
        if len(self.sources) > 1:
            for source in self.sources:
                own = sums[f"{source.name} weight"]
                found[f"{source.name}/loss"] = sums[f"{source.name} loss"] / own if own else math.nan
        return found

    def _grades(self, model: PaliGemma, step: int) -> list[Grade]:
        decode = None if model.mask_codec is None else decoder(model.mask_codec)
        shown: list[tuple[Question, Answer]] = []
        grades: list[Grade] = []
        for question, answer in answered(model, ahead(map(question_of, self._examples())), batch_size=BATCH):
            grades += grade(question, answer, decode)
            if len(shown) < self.config.evaluate.pictures:
                shown.append((question, answer))
        if self.parallel.main and shown:
            save_samples(shown, self.config.out / "samples" / f"step_{step:08d}", decode)
        return [one for part in gathered(self.parallel, grades) for one in part]


def chosen(source: Source, limit: int | None) -> Iterator[int]:
    """Numbers of the examples to evaluate on: all, or so many evenly spread, the same every time."""
    length = len(source)
    count = min(length, limit or (OF_ENDLESS if length >= ENDLESS else length))
    if length >= ENDLESS:
        return iter(range(count))
    return (i * length // count for i in range(count))


@contextmanager
def aside(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards modes and random numbers are as before."""
    modes = [(part, part.training) for part in module.modules()]
    words, numbers = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    module.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(words)
        np.random.set_state(numbers)
        for part, training in modes:
            part.training = training


@contextmanager
def whole(objective: nn.Module, parallel: Parallel) -> Iterator[None]:
    """Under "fsdp2" every process has all weights in here, so that they need not take the same steps."""
    if parallel.kind != "fsdp2":
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in objective.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        if part is not objective:
            part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            if part is not objective:  # the root never does
                part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def gathered(parallel: Parallel, grades: Sequence[Grade]) -> list[list[Grade]]:
    """The grades of every process, in every process; they travel as JSON."""
    if parallel.kind == "none":
        return [list(grades)]
    data = torch.frombuffer(bytearray(json.dumps([_row(one) for one in grades]).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64, device=parallel.device) for _ in range(parallel.world)]
    with parallel.peers():
        dist.all_gather(sizes, torch.tensor([len(data)], device=parallel.device))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8, device=parallel.device)
        padded[: len(data)] = data.to(parallel.device)
        texts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(texts, padded)
    return [
        [_grade(row) for row in json.loads(bytes(text[: int(size)].cpu().numpy()))]
        for text, size in zip(texts, sizes, strict=True)
    ]


def _row(one: Grade) -> dict[str, Any]:
    found = one.match
    told = None if found is None else [found.scores.tolist(), found.correct.tolist(), found.true]
    return {**vars(one), "match": told}


def _grade(row: dict[str, Any]) -> Grade:
    told = row["match"]
    found = None if told is None else Match(np.array(told[0], np.float64), np.array(told[1], bool), told[2])
    return Grade(**{**row, "match": found})
