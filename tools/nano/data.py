"""Endless training batches from `scenes`: pictures, per-patch truth for seeing, token rows for speaking."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paligemma.checkpoints.mask_codec import load_codec
from paligemma.config import IMAGE_SLOT, Config
from paligemma.model import MaskCodec
from paligemma.processor import Batch, Encoded, Processor
from paligemma.scenes.first import COLORS, LABELS, Scene, Thing, draw_scene, examples
from paligemma.tasks.masks import crop_region, squeezed
from paligemma.tokenizer import LOCATIONS, Tokenizer

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
NO_CLASS, NO_CHARACTER, NO_COLOR = len(LABELS), len(CHARACTERS), -100


@dataclass
class DenseTruth:
    """Per patch: class, colour and character ids int64[I, N]; box float32[I, N, 4] relative to the patch's centre."""

    label: Tensor
    color: Tensor
    character: Tensor
    box: Tensor


@dataclass
class TrainingBatch:
    """`pixels` [I, 3, S, S]; token rows [I * prompts, T], the prompts of one picture being neighbours."""

    pixels: Tensor
    truth: DenseTruth
    rows: Batch


def dense_truth(scenes: list[Scene], grid: int) -> DenseTruth:
    count = len(scenes)
    label = np.full((count, grid * grid), NO_CLASS)
    color = np.full((count, grid * grid), NO_COLOR)
    character = np.full((count, grid * grid), NO_CHARACTER)
    box = np.zeros((count, grid * grid, 4), np.float32)
    centers = [(k + 0.5) / grid for k in range(grid)]
    colors = list(COLORS)
    for i, scene in enumerate(scenes):
        for row, y in enumerate(centers):
            for column, x in enumerate(centers):
                patch = row * grid + column
                for thing in scene.things:
                    y0, x0, y1, x1 = thing.box
                    if y0 <= y <= y1 and x0 <= x <= x1:
                        label[i, patch], color[i, patch] = LABELS.index(thing.label), colors.index(thing.color)
                        box[i, patch] = (y0 - y, x0 - x, y1 - y, x1 - x)
                if scene.text:
                    margin = 0.5 / grid
                    for char, (y0, x0, y1, x1) in zip(scene.text.word, scene.text.char_boxes, strict=True):
                        if y0 - margin <= y <= y1 + margin and x0 <= x <= x1:
                            character[i, patch] = CHARACTERS.index(char)
    return DenseTruth(*(torch.from_numpy(a) for a in (label, color, character, box)))


def token_rows(pairs: list[tuple[str, str]], processor: Processor) -> Batch:
    """Right-padded rows of (prefix, suffix) pairs, each with the slots of one picture; the pictures come apart."""
    slots = [IMAGE_SLOT] * processor.num_image_tokens
    rows = []
    for prefix, suffix in pairs:
        text = processor.encode([], prefix, suffix, allow=frozenset({LOCATIONS}), text_only=True)
        before = torch.zeros(len(slots), dtype=torch.int64)
        rows.append(
            Encoded(
                tokens=torch.cat([torch.tensor(slots), text.tokens]),
                pixels=None,
                mask_ar=torch.cat([before, text.mask_ar]),
                mask_loss=torch.cat([before, text.mask_loss]),
            )
        )
    return processor.collate(rows, side="right")


@torch.inference_mode()
def mask_tokens(codec: MaskCodec, thing: Thing) -> str:
    """The sixteen `<seg>` tokens of a thing, as a user's own mask would get them."""
    y0, x0, y1, x1 = crop_region(thing.box, (len(thing.mask), len(thing.mask)))
    codes = codec.encode(squeezed(thing.mask[y0:y1, x0:x1])[None])[0]
    return "".join(f"<seg{code:03d}>" for code in codes.tolist())


class Stream(torch.utils.data.IterableDataset):
    """Batches from seed `start` on; each seed is used once."""

    def __init__(self, config: Config, tokenizer: Path, codec: Path, images: int, prompts: int, start: int):
        self.config, self.tokenizer, self.codec = config, tokenizer, codec
        self.images, self.prompts, self.start = images, prompts, start

    def __iter__(self) -> Iterator[TrainingBatch]:
        torch.set_num_threads(1)
        vision = self.config.vision
        processor = Processor(
            Tokenizer.load(self.tokenizer), image_size_px=vision.image_size_px, num_image_tokens=vision.num_image_tokens
        )
        codec = load_codec(self.codec)
        worker = torch.utils.data.get_worker_info()
        workers, mine = (worker.num_workers, worker.id) if worker else (1, 0)
        block = mine
        while True:
            first = self.start + block * self.images
            scenes = [draw_scene(seed, vision.image_size_px) for seed in range(first, first + self.images)]
            pixels = torch.stack([processor.pixels(scene.image) for scene in scenes])
            truth = dense_truth(scenes, vision.grid_size)
            pairs = []
            for seed, scene in enumerate(scenes, first):
                pairs += examples(scene, random.Random(~seed), self.prompts, partial(mask_tokens, codec))
            yield TrainingBatch(pixels, truth, token_rows(pairs, processor))
            block += workers
