"""Endless training batches from `scenes`: pictures, per-patch truth for seeing, token rows for speaking."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from paligemma.config import IMAGE_SLOT, Config
from paligemma.scenes import COLORS, LABELS, Scene, draw_scene, examples

CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
NO_CLASS, NO_CHARACTER, NO_COLOR = len(LABELS), len(CHARACTERS), -100
EOS, BOS = 1, 2


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
    tokens: Tensor
    mask_ar: Tensor
    mask_input: Tensor
    mask_loss: Tensor


def to_pixels(scene: Scene) -> np.ndarray:
    return np.asarray(scene.image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0


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


def token_rows(pairs: list[tuple[str, str]], tokenizer: Tokenizer, image_tokens: int, multiple: int = 8):
    """Right-padded (tokens, mask_ar, mask_input, mask_loss) of (prefix, suffix) pairs."""
    rows = []
    newline = tokenizer.token_to_id("\n")
    for prefix, suffix in pairs:
        head = [IMAGE_SLOT] * image_tokens + [BOS, *tokenizer.encode(prefix).ids, newline]
        tail = [*tokenizer.encode(suffix).ids, EOS]
        rows.append((head, tail))
    longest = max(len(head) + len(tail) for head, tail in rows)
    length = -(-longest // multiple) * multiple
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    mask_ar, mask_loss = torch.ones_like(tokens), torch.zeros_like(tokens)
    mask_input = torch.zeros_like(tokens, dtype=torch.bool)
    for i, (head, tail) in enumerate(rows):
        used = len(head) + len(tail)
        tokens[i, :used] = torch.tensor(head + tail)
        mask_ar[i, : len(head)] = 0
        mask_loss[i, len(head) : used] = 1
        mask_input[i, :used] = True
    return tokens, mask_ar, mask_input, mask_loss


class Stream(torch.utils.data.IterableDataset):
    """Batches from seed `start` on; each seed is used once."""

    def __init__(self, config: Config, tokenizer_json: str, images: int, prompts: int, start: int):
        self.config, self.tokenizer_json = config, tokenizer_json
        self.images, self.prompts, self.start = images, prompts, start

    def __iter__(self) -> Iterator[TrainingBatch]:
        torch.set_num_threads(1)
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        vision = self.config.vision
        worker = torch.utils.data.get_worker_info()
        workers, mine = (worker.num_workers, worker.id) if worker else (1, 0)
        block = mine
        while True:
            first = self.start + block * self.images
            scenes = [draw_scene(seed, vision.image_size_px) for seed in range(first, first + self.images)]
            pixels = torch.from_numpy(np.stack([to_pixels(scene) for scene in scenes]))
            truth = dense_truth(scenes, vision.grid_size)
            pairs = []
            for seed, scene in enumerate(scenes, first):
                pairs += examples(scene, random.Random(~seed), self.prompts)
            yield TrainingBatch(pixels, truth, *token_rows(pairs, tokenizer, vision.num_image_tokens))
            block += workers
