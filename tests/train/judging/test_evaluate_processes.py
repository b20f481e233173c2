"""Processes share an evaluation and come to the figures of one; training goes on as if nothing had been."""

import json

import pytest
import torch
from tests.train.judging.test_evaluate import BOXES, TEXTS, evaluation
from tests.train.test_distributed import together

from paligemma.train.config import TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.start import begin


def judged(kind, folder, rank):
    """The figures before and after a step of training, and the losses of two steps."""
    with Parallel.start(kind, timeout_s=120) as parallel:
        start = begin(TrainConfig(model="nano-pt-112"), frozen_float32=True)
        judge = evaluation(start, folder, TEXTS, BOXES)
        judge.parallel = parallel
        wrapped = parallel.wrap(judge.objective)
        row = start.processor.encode(list(TEXTS[rank].images), TEXTS[rank].prefix, TEXTS[rank].suffix)
        batch = start.processor.collate([row], side="right")
        losses, figures = [], []
        optimizer = torch.optim.SGD(judge.objective.parameters(), 1e-5)
        for _ in range(2):
            judge.objective.train()
            loss = wrapped(batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(parallel.all_reduce_sum({"loss": float(loss.detach())})["loss"])
            figures.append(judge(1))
        if parallel.main:
            (folder / f"{kind}.json").write_text(json.dumps([losses, figures]))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    for kind in ("ddp", "fsdp2"):
        together(lambda rank, kind=kind: judged(kind, folder, rank), folder)
    return {kind: json.loads((folder / f"{kind}.json").read_text()) for kind in ("ddp", "fsdp2")}


def test_both_kinds_of_sharing_say_the_same(told):
    (losses, figures), (others, other_figures) = told["ddp"], told["fsdp2"]
    assert others == pytest.approx(losses, rel=1e-4)  # the evaluation between them changed nothing
    for one, other in zip(figures, other_figures, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    assert figures[0]["loss"] != figures[1]["loss"]


def test_every_example_is_judged_once(told, tmp_path):
    _, figures = told["ddp"]
    alone = evaluation(begin(TrainConfig(model="nano-pt-112")), tmp_path, TEXTS, BOXES)(1)
    assert figures[0].keys() == alone.keys()
    assert figures[0]["loss"] == pytest.approx(alone["loss"], rel=0.01)  # a tiny step away
