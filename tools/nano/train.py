"""Plain training loop of the first nano: see first (dense truth per patch), then speak (suffix loss).

Schedules run on the clock, not on steps, so that a run ends when its minutes are spent, however busy the machine.
Weights and progress are saved every few minutes as safetensors; starting again with the same folder goes on from there
(with fresh optimizer moments).
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tools.nano.data import CHARACTERS, NO_CHARACTER, NO_CLASS, DenseTruth, Stream, TrainingBatch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS, Config
from paligemma.model import AttentionMask, PaliGemmaModel
from paligemma.processor import Batch
from paligemma.scenes.first import COLORS

SAVE_EVERY_S = 180
LENGTH_GROUPS = 3
MASK_TOKEN_WEIGHT = 0.25  # sixteen of them in each object would drown the rest
LOC_SPREAD_BINS = 5.0  # a location answer a few bins off is nearly right: targets are a narrow bell, not a spike


@dataclass(frozen=True, kw_only=True)
class Stage:
    minutes: float
    lr: float
    tower_lr_scale: float
    images: int
    prompts: int
    dense_weight: float
    speak: bool


class DenseHeads(nn.Module):
    """Training-only read-outs of the vision tower: what is at each patch, in which colour, where are its edges."""

    def __init__(self, width: int):
        super().__init__()
        self.label = nn.Linear(width, NO_CLASS + 1)
        self.color = nn.Linear(width, len(COLORS))
        self.character = nn.Linear(width, len(CHARACTERS) + 1)
        self.box = nn.Linear(width, 4)

    def loss(self, features: Tensor, truth: DenseTruth) -> Tensor:
        on_object = (truth.label != NO_CLASS).float()[..., None]
        label = F.cross_entropy(self.label(features).flatten(0, 1).float(), truth.label.flatten())
        color = F.cross_entropy(self.color(features).flatten(0, 1).float(), truth.color.flatten())
        weight = torch.ones(len(CHARACTERS) + 1)
        weight[NO_CHARACTER] = 0.1
        character = F.cross_entropy(
            self.character(features).flatten(0, 1).float(), truth.character.flatten(), weight=weight
        )
        miss = F.smooth_l1_loss(self.box(features).float(), truth.box, beta=0.05, reduction="none")
        box = (miss * on_object).sum() / on_object.sum().clamp(min=1) / 4
        return label + 0.5 * color + character + 10.0 * box


def initialise(model: PaliGemmaModel, seed: int) -> None:
    """Normal weights; location rows start as smooth waves of their bin, so that neighbours begin alike."""
    generator = torch.Generator().manual_seed(seed)
    depth = model.config.text.depth + model.config.vision.depth
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            continue  # biases zero, norms at their neutral start
        std = parameter[0].numel() ** -0.5
        if "embed" in name:
            std = 0.05
        elif name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
            std /= depth**0.5
        with torch.no_grad():
            parameter.normal_(0, std, generator=generator)
    text = model.config.text
    first = text.vocab_size - NUM_LOC_TOKENS - NUM_SEG_TOKENS
    where = torch.linspace(0, 1, NUM_LOC_TOKENS)[:, None]
    frequency = 2 ** torch.linspace(-1, 6, 32)[None]
    waves = torch.cat(((math.pi * frequency * where).sin(), (math.pi * frequency * where).cos()), dim=1)
    mix = torch.randn(64, text.width, generator=generator) / 64**0.5
    with torch.no_grad():
        model.language_model.embed_tokens.weight[first : first + NUM_LOC_TOKENS] = 0.07 * waves @ mix


def speak_loss(model: PaliGemmaModel, features: Tensor, batch: TrainingBatch, prompts: int) -> Tensor:
    """Weighted mean over all suffix tokens. Rows of like length go together: short ones are not padded to long ones."""
    lengths = batch.rows.mask_input.sum(1)
    total, weights = torch.zeros(()), torch.zeros(())
    for rows in lengths.argsort().chunk(LENGTH_GROUPS):
        part = shortened(batch.rows, rows, int(lengths[rows].max()))
        loss, weight = _group_loss(model, features[rows // prompts], part)
        total, weights = total + loss, weights + weight
    return total / weights


def shortened(batch: Batch, rows: Tensor, length: int) -> Batch:
    """These rows alone, cut to `length` tokens; pictures stay behind."""
    kept = {name: tensor[rows, :length] for name, tensor in vars(batch).items() if name != "pixels"}
    return replace(batch, **kept)


def _group_loss(model: PaliGemmaModel, features: Tensor, rows: Batch) -> tuple[Tensor, Tensor]:
    """Sum and weight of the suffix tokens; location tokens have a bell of `LOC_SPREAD_BINS` as their target."""
    mask = AttentionMask.prefix_lm(rows.mask_ar, rows.mask_input)
    hidden = model.decode(model.embed(rows.tokens, features), mask)
    wanted = rows.mask_loss[:, 1:] != 0
    target = rows.tokens[:, 1:][wanted]
    log_p = F.log_softmax(model.language_model.logits(hidden[:, :-1][wanted]).float(), dim=-1)
    first = model.config.text.vocab_size - NUM_LOC_TOKENS - NUM_SEG_TOKENS
    is_loc = (target >= first) & (target < first + NUM_LOC_TOKENS)
    weight = torch.where(target >= first + NUM_LOC_TOKENS, MASK_TOKEN_WEIGHT, 1.0)
    plain = -(weight[~is_loc] * log_p[~is_loc].gather(-1, target[~is_loc][:, None])[:, 0]).sum()
    bins = torch.arange(NUM_LOC_TOKENS)
    bell = torch.softmax(-0.5 * ((bins - (target[is_loc] - first)[:, None]) / LOC_SPREAD_BINS) ** 2, dim=-1)
    located = -(bell * log_p[is_loc][:, first : first + NUM_LOC_TOKENS]).sum()
    return plain + located, weight.sum()


def parameter_groups(model: PaliGemmaModel, heads: DenseHeads, tower_scale: float) -> list[dict]:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for module, tower in (
        (model.vision_tower, True),
        (heads, True),
        (model.projector, False),
        (model.language_model, False),
    ):
        for parameter in module.parameters():
            groups.setdefault((tower, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "scale": tower_scale if tower else 1.0, "weight_decay": 0.02 if matrix else 0.0}
        for (tower, matrix), params in groups.items()
    ]


def lr_at(share: float, peak: float) -> float:
    """Warm-up over the first 3 % of the time, then a cosine to a fiftieth."""
    if share < 0.03:
        return peak * share / 0.03
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (share - 0.03) / 0.97)))


class Run:
    """One folder holding weights, progress and a log; `go` spends a stage's minutes."""

    def __init__(self, folder: Path, config: Config, tokenizer: Path, *, threads: int):
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(threads)
        self.folder, self.config, self.tokenizer = folder, config, tokenizer
        self.model, self.heads = PaliGemmaModel(config), DenseHeads(config.vision.width)
        self.progress = {"seed": 0, "steps": 0, "spent_s": {}}
        initialise(self.model, seed=0)
        if (folder / "progress.json").exists():
            self.model.load_state_dict(load_file(folder / "model.safetensors"))
            self.heads.load_state_dict(load_file(folder / "heads.safetensors"))
            self.progress = json.loads((folder / "progress.json").read_text())

    def save(self) -> None:
        for name, module in (("model", self.model), ("heads", self.heads)):
            save_file(module.state_dict(), self.folder / f"{name}.tmp")
            (self.folder / f"{name}.tmp").rename(self.folder / f"{name}.safetensors")
        (self.folder / "progress.json").write_text(json.dumps(self.progress))

    def batches(self, stage: Stage) -> Iterator[TrainingBatch]:
        codec = self.folder / "mask_codec.npz"
        stream = Stream(self.config, self.tokenizer, codec, stage.images, stage.prompts, self.progress["seed"])
        return iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=6))

    def go(self, name: str, stage: Stage) -> None:
        optimizer = torch.optim.AdamW(parameter_groups(self.model, self.heads, stage.tower_lr_scale), betas=(0.9, 0.98))
        spent = self.progress["spent_s"].get(name, 0.0)
        last = saved = time.monotonic()
        shown: list[tuple[float, float]] = []
        for batch in self.batches(stage):
            share = spent / (stage.minutes * 60)
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = lr_at(share, stage.lr) * group["scale"]
            shown.append(self._step(batch, stage, optimizer))
            now = time.monotonic()
            spent, last = spent + min(now - last, 30), now  # a paused process loses no training time
            self.progress["spent_s"][name] = spent
            self.progress["steps"] += 1
            self.progress["seed"] += stage.images
            if self.progress["steps"] % 50 == 0:
                dense, speak = (sum(column) / len(shown) for column in zip(*shown, strict=True))
                line = {"stage": name, "step": self.progress["steps"], "pictures": self.progress["seed"]}
                line |= {"share": round(share, 4), "dense": round(dense, 4), "speak": round(speak, 4)}
                print(json.dumps(line), flush=True)
                shown.clear()
            if now - saved > SAVE_EVERY_S:
                self.save()
                saved = now
        self.save()

    def _step(self, batch: TrainingBatch, stage: Stage, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
        zero = torch.zeros(())
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.model.vision_tower(batch.pixels)
            dense = self.heads.loss(seen, batch.truth) if stage.dense_weight else zero
            speak = speak_loss(self.model, self.model.projector(seen), batch, stage.prompts) if stage.speak else zero
        (stage.dense_weight * dense + speak).backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return dense.item(), speak.item()
