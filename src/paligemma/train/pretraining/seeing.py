"""Stage 0: how a vision tower learns to see before a language model listens to it.

Two ways, compared in docs/nano.md by what stage 1 reaches after each: the truth about every patch (what, which colour,
where are its edges, which characters), which drawn pictures have; and SigLIP's sigmoid loss on picture-text pairs,
which any captioned picture has. Heads and text side are thrown away. Source of the second: Zhai et al., Sigmoid Loss
for Language Image Pre-Training, 2023.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.config import Config
from paligemma.model import AttentionMask, PaliGemmaModel
from paligemma.processor import Batch
from paligemma.scenes.catalog import COLORS
from paligemma.scenes.patches import BLANK, NOTHING, READ_AT, UNKNOWN, Patches
from paligemma.train.objective import Objective

EMPTY_WEIGHT = 0.1  # most patches show no object and no character
COLOR_WEIGHT = 0.5
CHARACTER_WEIGHT = 2.0  # reading is what takes longest to learn
EDGE_WEIGHT = 10.0
LOST_SIDES = 0.05  # beyond this error of an edge, in sides, the loss grows linearly


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What drawn pictures are known to show, stacked: every field is a tensor."""

    def to(self, device: torch.device | str) -> Self:
        """The same on `device`."""
        return type(self)(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class PatchBatch(Truth):
    """`Patches` of B pictures: label, color int64[B, N]; box float32[B, N, 4]; characters int64[B, N, 2]."""

    label: Tensor
    color: Tensor
    box: Tensor
    characters: Tensor

    @classmethod
    def of(cls, patches: Sequence[Patches]) -> "PatchBatch":
        """Stacks the patches of several pictures."""
        return cls(**stacked(patches))


@dataclass(frozen=True, kw_only=True)
class SeenBatch:
    """Pictures float32[B, 3, S, S] and the truth about their patches."""

    pixels: Tensor
    patches: PatchBatch

    def to(self, device: torch.device | str) -> "SeenBatch":
        """The same on `device`."""
        return SeenBatch(pixels=self.pixels.to(device), patches=self.patches.to(device))


def stacked(truths: Sequence[Any]) -> dict[str, Tensor]:
    """The arrays of several truths of one dataclass, by field."""
    names = [field.name for field in fields(truths[0])]
    return {name: torch.from_numpy(np.stack([getattr(one, name) for one in truths])) for name in names}


class PatchHeads(nn.Module):
    """Linear read-outs of a tower's patches."""

    def __init__(self, width: int):
        super().__init__()
        self.label = nn.Linear(width, NOTHING + 1)
        self.color = nn.Linear(width, len(COLORS))
        self.characters = nn.Linear(width, len(READ_AT) * (BLANK + 1))
        self.box = nn.Linear(width, 4)

    def forward(self, seen: Tensor, truth: PatchBatch) -> dict[str, Tensor]:
        """Mean losses over the patches of `seen`, float[B, N, D]."""
        on_object = (truth.label != NOTHING).float()[..., None]
        objects = on_object.sum().clamp(min=1)
        label = _mostly(self.label(seen).flatten(0, 1), truth.label.flatten(), NOTHING)
        color = F.cross_entropy(
            self.color(seen).flatten(0, 1).float(), truth.color.flatten(), ignore_index=UNKNOWN, reduction="sum"
        )
        read = self.characters(seen).unflatten(-1, (len(READ_AT), -1)).flatten(0, 2)
        characters = _mostly(read, truth.characters.flatten(), BLANK)
        miss = F.smooth_l1_loss(self.box(seen).float(), truth.box, beta=LOST_SIDES, reduction="none")
        edges = (miss * on_object).sum() / objects / 4
        return {"label": label, "color": color / objects, "characters": characters, "edges": edges}


def _mostly(scores: Tensor, truth: Tensor, empty: int) -> Tensor:
    """Mean cross-entropy in which `empty`, the class of most patches, has little weight."""
    weight = torch.ones(empty + 1, device=scores.device)
    weight[empty] = EMPTY_WEIGHT
    return F.cross_entropy(scores.float(), truth, weight=weight)


def total(losses: dict[str, Tensor]) -> Tensor:
    """One number of the four."""
    return (
        losses["label"]
        + COLOR_WEIGHT * losses["color"]
        + CHARACTER_WEIGHT * losses["characters"]
        + EDGE_WEIGHT * losses["edges"]
    )


class PatchObjective(Objective):
    """Stage 0 with the truth about every patch: trains the vision tower alone."""

    def __init__(self, model: PaliGemmaModel):
        super().__init__()
        self.model = model
        self.heads = PatchHeads(model.config.vision.width)

    def weight(self, batch: SeenBatch) -> float:
        """Pictures."""
        return float(len(batch.pixels))

    def forward(self, batch: SeenBatch) -> dict[str, Tensor]:
        """Sums over the pictures."""
        losses = self.heads(self.model.vision_tower(batch.pixels), batch.patches)
        sums = {name: loss * len(batch.pixels) for name, loss in losses.items()}
        return {"loss": total(sums), **sums}


class ContrastiveObjective(Objective):
    """SigLIP's loss: of all pairs of a picture and a text in the micro-batch, which belong together?

        -mean over i of sum over j of log sigmoid(z_ij (t x_i . y_j + b)),  z = 1 on the diagonal, -1 elsewhere

    Pictures by one attention head over the patches, texts by the mean over the hidden states of a small decoder that
    reads the whole text both ways; both are thrown away. The texts are the suffixes. Larger micro-batches learn more.
    """

    def __init__(self, model: PaliGemmaModel, config: Config | None = None):
        super().__init__()
        self.model = model
        config = config or model.config
        width = config.vision.width
        self.probe = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.pool = nn.MultiheadAttention(width, config.vision.num_heads, batch_first=True)
        self.text_out = nn.Linear(config.text.width, width)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))  # both starts are the paper's
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def weight(self, batch: Batch) -> float:
        """Pictures."""
        return float(len(batch.tokens))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum over the pictures; `matched` counts those whose own text is the best of all."""
        assert batch.pixels is not None
        seen = self.model.vision_tower(batch.pixels)
        pooled = self.pool(self.probe.expand(len(seen), -1, -1).to(seen.dtype), seen, seen, need_weights=False)[0]
        pictures = F.normalize(pooled[:, 0].float(), dim=-1)
        texts = F.normalize(self._read(batch).float(), dim=-1)
        scores = self.log_temperature.exp() * pictures @ texts.T + self.bias
        sign = 2 * torch.eye(len(scores), device=scores.device) - 1
        matched = (scores.argmax(1) == torch.arange(len(scores), device=scores.device)).float().sum()
        return {"loss": -F.logsigmoid(sign * scores).sum(), "matched": matched}

    def _read(self, batch: Batch) -> Tensor:
        """float[B, D]: each row's suffix, read by the language model without the picture."""
        wanted = batch.mask_loss != 0
        tokens = torch.where(wanted, batch.tokens, 0)
        language = self.model.language_model
        mask = AttentionMask.prefix_lm(torch.zeros_like(tokens), wanted)
        hidden = language(language.embed(tokens), mask.query_position, mask)
        share = wanted / wanted.sum(-1, keepdim=True).clamp(min=1)
        return self.text_out((hidden * share[..., None].to(hidden.dtype)).sum(1))
