"""Trains the mask codec of the bundled model on drawn objects and random shapes: a VQ-VAE with a running codebook.

`python -m tools.nano masks --steps 4000` writes `mask_codec.npz` and prints how well held-out masks come back.
Source of the recipe: Ning et al., All in Tokens (arXiv 2301.02229): squared error, commitment 0.25, decay 0.99.
"""

import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from paligemma.checkpoints.mask_codec import save_codec
from paligemma.model import MaskCodec, MaskCodecConfig
from paligemma.model.mask_codec import MASK_SIDE
from paligemma.scenes import draw_scene
from paligemma.tasks.masks import crop_region

CONFIG = MaskCodecConfig(embedding_dim=64, encoder_widths=(12, 24, 48, 48), decoder_widths=(48, 48, 32, 16, 12))
COMMITMENT, DECAY = 0.25, 0.99
SHARE_OF_DRAWINGS = 0.8
HELD_OUT = 1_000_000_000


def mask_of(seed: int) -> NDArray[np.uint8]:
    """uint8[64, 64] in 0..255: one object cut at its box, as the codec sees it."""
    rng = random.Random(seed)
    if rng.random() < SHARE_OF_DRAWINGS:
        thing = rng.choice(draw_scene(seed, rng.choice((112, 224, 224, 448)), "objects").things)
        side = len(thing.mask)
        top, left, bottom, right = crop_region(thing.box, (side, side))
        mask = Image.fromarray(thing.mask[top:bottom, left:right].astype(np.uint8) * 255)
    else:
        mask = _shapes(rng)
    return np.asarray(mask.resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BILINEAR))


def _shapes(rng: random.Random) -> Image.Image:
    """A union of ellipses and polygons, perhaps with a bite taken out, cut tightly."""
    side = 128
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    for k in range(rng.randint(1, 4)):
        ink = 0 if k > 1 and rng.random() < 0.5 else 255
        x, y, w, h = (rng.uniform(a, b) * side for a, b in ((0.1, 0.5), (0.1, 0.5), (0.15, 0.5), (0.15, 0.5)))
        if rng.random() < 0.5:
            pen.ellipse((x, y, x + w, y + h), fill=ink)
        else:
            turns = sorted(rng.uniform(0, 2 * math.pi) for _ in range(rng.randint(3, 8)))
            corners = [(x + w * (0.5 + 0.5 * math.cos(t)), y + h * (0.5 + 0.5 * math.sin(t))) for t in turns]
            pen.polygon(corners, fill=ink)
    box = mask.getbbox()
    return mask.crop(box) if box else _shapes(rng)


def quantised(codec: MaskCodec, features: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codebook vectors with the gradient of `features`, and their codes."""
    codes = codec.distances(features).argmin(-1)
    vectors = codec.embedding[codes]
    return features + (vectors - features).detach(), codes


class Codebook:
    """Running means of the features that chose each code; codes nobody chooses move to where features are."""

    def __init__(self, codec: MaskCodec):
        self.codec = codec
        self.count = torch.ones(codec.config.num_codes)
        self.total = codec.embedding.detach().clone()

    @torch.no_grad()
    def update(self, features: Tensor, codes: Tensor) -> None:
        chosen = F.one_hot(codes.flatten(), len(self.count)).float()
        flat = features.flatten(0, 1)
        self.count.mul_(DECAY).add_(chosen.sum(0), alpha=1 - DECAY)
        self.total.mul_(DECAY).add_(chosen.T @ flat, alpha=1 - DECAY)
        unused = self.count < 0.03
        if unused.any():
            picked = flat[torch.randint(len(flat), (int(unused.sum()),))]
            self.total[unused], self.count[unused] = picked, 1.0
        self.codec.embedding.copy_(self.total / self.count[:, None])


def train(folder: Path, steps: int, pool: int = 20_000, batch: int = 64) -> dict[str, float]:
    """Writes `folder/mask_codec.npz` and returns how well 1,000 held-out masks of drawings and shapes come back."""
    torch.manual_seed(0)
    codec = MaskCodec(CONFIG)
    masks = torch.from_numpy(np.stack([mask_of(seed) for seed in range(pool)]))
    with torch.no_grad():
        start = codec.features(masks[:128].float() / 255).flatten(0, 1)
        codec.embedding.copy_(start[torch.randperm(len(start))[: CONFIG.num_codes]])
    codebook = Codebook(codec)
    weights = [p for name, p in codec.named_parameters() if name != "embedding"]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    began = time.monotonic()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, step / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
        wanted = masks[torch.randint(pool, (batch,))].float() / 255
        with torch.autocast("cpu", torch.bfloat16):
            features = codec.features(wanted)
        features = features.float()
        passed, codes = quantised(codec, features)
        with torch.autocast("cpu", torch.bfloat16):
            back = codec.decode_features(passed)
        miss = F.mse_loss(back.float(), 2 * wanted - 1)
        commitment = F.mse_loss(features, codec.embedding[codes].detach())
        (miss + COMMITMENT * commitment).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        codebook.update(features.detach(), codes)
        if step % 500 == 0:
            used = len(codes.unique())
            print(json.dumps({"step": step, "miss": round(miss.item(), 4), "codes": used}), flush=True)
    save_codec(codec, folder / "mask_codec.npz", dtype="float16")
    figures = score(codec)
    return {**figures, "steps": steps, "seconds": round(time.monotonic() - began)}


@torch.inference_mode()
def score(codec: MaskCodec, count: int = 1000) -> dict[str, float]:
    """Mean and worst intersection over union of held-out masks after encoding and decoding."""
    masks = torch.from_numpy(np.stack([mask_of(HELD_OUT + k) for k in range(count)])).float() / 255
    back = codec.decode(codec.encode(masks)) > 0
    true = masks > 0.5
    overlap = (back & true).sum((1, 2)) / (back | true).sum((1, 2)).clamp(min=1)
    return {"round_trip_iou": round(overlap.mean().item(), 4), "round_trip_worst": round(overlap.min().item(), 4)}
