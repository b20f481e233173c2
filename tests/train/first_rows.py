"""Rows of the bundled model's own processor, as a run's stream gives them, and ways to spoil them."""

from dataclasses import replace
from functools import cache

import torch
from PIL import Image

from paligemma.data.example import Example
from paligemma.train.config import TrainConfig
from paligemma.train.start import begin
from paligemma.train.streams import ExampleStream

BOX = "<loc0100><loc0200><loc0900><loc0800> cat"


@cache
def nano():
    """The bundled model with its processor; tests do not train it."""
    return begin(TrainConfig(model="nano-pt-112", precision="fp32"))


def example(prefix="caption en", suffix="a red cat", name="rows:0", images=1):
    number = int(name.split(":")[1])
    picture = Image.new("RGB", (30, 20), (40 * number % 256, 80, 200))
    picture.paste((250, 240, 10), (number, 3, number + 9, 15))
    return Example(id=name, images=(picture,) * images, prefix=prefix, suffix=suffix, source="rows")


class Listed:
    """An endless mixture of a few texts."""

    fingerprint = "listed"

    def __init__(self, *texts):
        self.texts = texts

    def __getitem__(self, position):
        prefix, suffix = self.texts[position % len(self.texts)]
        return example(prefix, suffix, f"rows:{position}")


def stream(*texts, batch_size=4, micro_batch=None, max_tokens=64):
    texts = texts or (("caption en", "a red cat"), ("detect cat", BOX), ("answer en how many cats?", "2"))
    return ExampleStream(
        Listed(*texts), nano().processor, batch_size=batch_size, micro_batch=micro_batch, max_tokens=max_tokens
    )


class Spoilt:
    """The batches of a stream after `change`, which takes and gives one batch."""

    fingerprint = "spoilt"

    def __init__(self, change, inner=None):
        self.change, self.inner = change, inner or stream()

    def micro_batches(self, step, rank=0, world=1):
        return [self.change(batch) for batch in self.inner.micro_batches(step, rank, world)]


def nothing_learnt(batch):
    return replace(batch, mask_loss=torch.zeros_like(batch.mask_loss))


def whole_row_learnt(batch):
    return replace(batch, mask_loss=batch.mask_input.long())


def labels_one_early(batch):
    return replace(batch, mask_loss=batch.mask_loss.roll(-1, dims=1))


def labels_one_late(batch):
    later = batch.mask_loss.roll(1, dims=1) * batch.mask_input
    later[:, 0] = 0
    return replace(batch, mask_loss=later)


def without_eos(batch):
    eos = batch.tokens == nano().processor.tokenizer.eos_id
    return replace(batch, mask_input=batch.mask_input & ~eos, mask_loss=batch.mask_loss * ~eos)


def padding_learnt(batch):
    return replace(batch, mask_loss=batch.mask_loss + (~batch.mask_input).long())
