import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from paligemma.data.example import ENDLESS, Example
from paligemma.train.config import EvalConfig, TrainConfig
from paligemma.train.judging.evaluate import Evaluation, aside, chosen
from paligemma.train.objective import SuffixObjective
from paligemma.train.start import begin


class Rows:
    """A source of given rows."""

    fingerprint = "rows"

    def __init__(self, name, rows):
        self.name, self.rows = name, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        prefix, suffix = self.rows[index]
        image = Image.new("RGB", (32, 32), (40 * index % 256, 80, 120))
        return Example(id=f"{self.name}:{index}", images=(image,), prefix=prefix, suffix=suffix)


TEXTS = Rows("texts", [("caption en", "a red cat"), ("answer en how many objects are there?", "2")] * 2)
BOXES = Rows("boxes", [("detect cat", "<loc0100><loc0100><loc0900><loc0900> cat"), ("detect dog", "")])


@pytest.fixture(scope="module")
def start():
    return begin(TrainConfig(model="nano-pt-112"))


def evaluation(start, tmp_path, *sources, **more):
    config = TrainConfig(out=tmp_path / "run", precision="fp32", evaluate=EvalConfig(pictures=3), **more)
    objective = SuffixObjective(start.model, config.loss, first_location=start.processor.tokenizer.loc_start)
    return Evaluation(objective, start.processor, sources, config, codec_path=start.codec_path)


def test_figures_of_all_and_of_each(start, tmp_path):
    found = evaluation(start, tmp_path, TEXTS, BOXES)(7)
    assert {"loss", "texts/loss", "boxes/loss", "caption_exact", "texts/caption_exact", "ap50", "boxes/ap50"} <= set(
        found
    )
    assert "boxes/caption_exact" not in found
    assert found["loss"] == pytest.approx((4 * found["texts/loss"] + 2 * found["boxes/loss"]) / 6)
    assert found["ap50"] == found["boxes/ap50"]
    json.dumps(found, allow_nan=False)
    single = evaluation(start, tmp_path, BOXES)(7)
    assert "boxes/loss" not in single
    assert single["loss"] == pytest.approx(found["boxes/loss"])


def test_the_loss_is_the_objectives(start, tmp_path):
    judge = evaluation(start, tmp_path, TEXTS)
    rows = [
        start.processor.encode([image], example.prefix, example.suffix)
        for example in map(TEXTS.__getitem__, range(4))
        for image in example.images
    ]
    batch = start.processor.collate(rows, side="right")
    with torch.no_grad():
        expected = float(judge.objective.eval()(batch)["loss"]) / judge.objective.weight(batch)
    assert judge(1)["loss"] == pytest.approx(expected, rel=1e-5)


def test_pictures_are_kept_by_step(start, tmp_path):
    evaluation(start, tmp_path, BOXES, TEXTS)(20)
    folder = tmp_path / "run" / "samples" / "step_00000020"
    assert sorted(file.name for file in folder.iterdir()) == [
        "00-detect.png", "01-detect.png", "02-caption.png", "answers.txt",
    ]  # fmt: skip


def test_training_notices_nothing(start, tmp_path):
    judge = evaluation(start, tmp_path, TEXTS)
    judge.objective.train()
    start.model.vision_tower.eval()  # a frozen part may be
    modes = [part.training for part in judge.objective.modules()]
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = (torch.rand(3), random.random(), np.random.rand())
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    weights = {name: value.clone() for name, value in start.model.state_dict().items()}
    judge(1)
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]
    assert [part.training for part in judge.objective.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in start.model.state_dict().items())
    assert all(parameter.grad is None for parameter in start.model.parameters())
    batch = start.processor.collate([start.processor.encode(TEXTS[0].images, "caption en", "a cat")], side="right")
    judge.objective(batch)["loss"].backward()  # the weights are no inference tensors
    start.model.zero_grad()


def test_the_same_again(start, tmp_path):
    judge = evaluation(start, tmp_path, BOXES)
    assert judge(1) == judge(2)


def test_bf16_is_trainings_precision(start, tmp_path):
    exact = evaluation(start, tmp_path, TEXTS)
    rounded = evaluation(start, tmp_path, TEXTS)
    rounded.config = replace(rounded.config, precision="bf16")
    assert 0 < abs(exact(1)["loss"] - rounded(1)["loss"]) < 0.1


def test_modes_come_back_after_an_error(start):
    start.model.train()
    with pytest.raises(ZeroDivisionError), aside(start.model):
        1 / (0 if not start.model.training else 1)
    assert start.model.training


@pytest.mark.parametrize(
    ("length", "limit", "numbers"),
    [(5, None, [0, 1, 2, 3, 4]), (10, 4, [0, 2, 5, 7]), (3, 9, [0, 1, 2]), (ENDLESS, 3, [0, 1, 2])],
)
def test_examples_are_spread_and_always_the_same(length, limit, numbers):
    class Long(Rows):
        def __len__(self):
            return length

    assert list(chosen(Long("a", []), limit)) == numbers


def test_a_limit_is_shared_by_the_sources(start, tmp_path):
    judge = evaluation(start, tmp_path, TEXTS, BOXES)
    judge.config = replace(judge.config, evaluate=EvalConfig(limit=3))
    assert [example.id for example in judge._examples()] == ["texts:0", "texts:2", "boxes:0", "boxes:1"]
