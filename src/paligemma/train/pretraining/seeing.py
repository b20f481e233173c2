"""Stage 0: how a vision tower learns to see before a language model listens to it.

Two ways, compared in docs/nano.md by what stage 1 reaches after each: the truth about every patch (what, which colour,
where are its edges, which characters), which drawn pictures have; and SigLIP's sigmoid loss on picture-text pairs,
which any captioned picture has. Heads and text side are thrown away. Source of the second: Zhai et al., Sigmoid Loss
for Language Image Pre-Training, 2023.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.config import Config
from paligemma.model import AttentionMask, PaliGemmaModel
from paligemma.processor import Batch
from paligemma.scenes.catalog import COLORS
from paligemma.scenes.mentions import MANY, SLOTS, Mentions
from paligemma.scenes.patches import BLANK, NOTHING, READ_AT, UNKNOWN, Patches
from paligemma.train.config import LossConfig
from paligemma.train.objective import Objective
from paligemma.train.pretraining.packing import PackedBatch, PackedObjective, Questions

EMPTY_WEIGHT = 0.1  # most patches show no object and no character
COLOR_WEIGHT = 0.5
CHARACTER_WEIGHT = 2.0  # reading is what takes longest to learn
EDGE_WEIGHT = 10.0
LOST_SIDES = 0.05  # beyond this error of an edge, in sides, the loss grows linearly


@dataclass(frozen=True, kw_only=True)
class PatchBatch:
    """`Patches` of B pictures: label, color int64[B, N]; box float32[B, N, 4]; characters int64[B, N, 2]."""

    label: Tensor
    color: Tensor
    box: Tensor
    characters: Tensor

    @classmethod
    def of(cls, patches: Sequence[Patches]) -> "PatchBatch":
        """Stacks the patches of several pictures."""
        return cls(**_stacked(patches))

    def to(self, device: torch.device | str) -> "PatchBatch":
        """The same on `device`."""
        return PatchBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class SeenBatch:
    """Pictures float32[B, 3, S, S] and the truth about their patches."""

    pixels: Tensor
    patches: PatchBatch

    def to(self, device: torch.device | str) -> "SeenBatch":
        """The same on `device`."""
        return SeenBatch(pixels=self.pixels.to(device), patches=self.patches.to(device))


@dataclass(frozen=True, kw_only=True)
class MentionBatch:
    """`Mentions` of Q questions: number, color int64[Q, SLOTS]; box float32[Q, SLOTS, 4]. `place` int64[Q, SLOTS] is
    the token of the question's row at which a name ends, 0 where there is none."""

    number: Tensor
    color: Tensor
    box: Tensor
    place: Tensor

    @classmethod
    def of(cls, mentions: Sequence[Mentions], places: Sequence[Sequence[int]]) -> "MentionBatch":
        """Stacks those of several questions."""
        padded = [[*places_of, *[0] * SLOTS][:SLOTS] for places_of in places]
        return cls(**_stacked(mentions), place=torch.tensor(padded))

    def rows(self, number: Tensor) -> "MentionBatch":
        """Those of some questions."""
        return MentionBatch(**{name: tensor[number] for name, tensor in vars(self).items()})

    def to(self, device: torch.device | str) -> "MentionBatch":
        """The same on `device`."""
        return MentionBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def _stacked(truths: "Sequence[Patches] | Sequence[Mentions]") -> dict[str, Tensor]:
    names = [field.name for field in fields(truths[0])]
    return {name: torch.from_numpy(np.stack([getattr(one, name) for one in truths])) for name in names}


@dataclass(frozen=True, kw_only=True)
class SeenAndPacked(PackedBatch):
    """Packed questions with the truth about the patches of their pictures and about what each question names."""

    patches: PatchBatch
    mentions: MentionBatch

    def to(self, device: torch.device | str) -> "SeenAndPacked":
        """The same on `device`."""
        moved = super().to(device)
        assert isinstance(moved, SeenAndPacked)
        return replace(moved, patches=self.patches.to(device), mentions=self.mentions.to(device))


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
        + 0.5 * losses["color"]
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


class MentionHead(nn.Module):
    """A linear read-out of what `names` names are in a picture."""

    def __init__(self, width: int, names: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sizes = (MANY + 1, len(COLORS), 4)
        self.names = names
        self.out = nn.Linear(width, names * sum(self.sizes))

    def forward(self, heard: Tensor, truth: MentionBatch) -> Tensor:
        """Mean loss over the names of Q questions; `heard` is float[Q, D] or, for one name, float[Q, SLOTS, D]."""
        said = self.out(self.norm(heard.float())).reshape(-1, sum(self.sizes))
        number, color, box = said.float().split(self.sizes, dim=-1)
        missed = F.smooth_l1_loss(box, truth.box.flatten(0, 1), beta=LOST_SIDES, reduction="none").sum(-1) / 4
        losses = (
            F.cross_entropy(number, truth.number.flatten(), ignore_index=UNKNOWN, reduction="sum")
            + COLOR_WEIGHT * F.cross_entropy(color, truth.color.flatten(), ignore_index=UNKNOWN, reduction="sum")
            + EDGE_WEIGHT * (missed * (truth.number.flatten() == 1)).sum()
        )
        return losses / (truth.number != UNKNOWN).sum().clamp(min=1)


class SeeAndSpeakObjective(PackedObjective):
    """The suffix loss on packed rows; beside it what keeps sight and teaches to look.

    The patches' truth, at `patch_weight`, is read from the tower. What a question names, at `mention_weight`, is read
    in the decoder: at each name, half of the way through, and all of it where the prompt ends, two thirds of the way,
    so that the layers above have it to compare.
    """

    def __init__(
        self,
        model: PaliGemmaModel,
        config: LossConfig,
        *,
        first_location: int,
        patch_weight: float,
        mention_weight: float = 0.0,
    ):
        super().__init__(model, config, first_location=first_location)
        self.heads = PatchHeads(model.config.vision.width)
        width, layers = model.config.text.width, model.config.text.depth
        self.name_head, self.prompt_head = MentionHead(width, 1), MentionHead(width, SLOTS)
        self.listened = (round(layers / 2) - 1, round(2 * layers / 3) - 1)
        self.patch_weight, self.mention_weight = patch_weight, mention_weight

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """Sums over the questions; `patches`, `names` and `prompts`, where known, weigh as much as the questions."""
        seen = self.model.vision_tower(batch.pixels)
        with self._listening() as (at_names, at_ends):
            suffix = self.packed_loss(batch, seen)
        if not isinstance(batch, SeenAndPacked):
            return {"loss": suffix, "suffix": suffix}
        weight = self.weight(batch)
        truth = batch.mentions.rows(torch.cat([part.number for part in batch.questions]))
        names = _of_rows(batch, at_names, lambda part: batch.mentions.place[part.number])
        told = {
            "patches": total(self.heads(seen, batch.patches)) * weight,
            "names": self.name_head(names, truth) * weight,
            "prompts": self.prompt_head(_of_rows(batch, at_ends, _ends), truth) * weight,
        }
        beside = self.patch_weight * told["patches"] + self.mention_weight * (told["names"] + told["prompts"])
        return {"loss": suffix + beside, "suffix": suffix, **told}

    @contextmanager
    def _listening(self) -> Iterator[tuple[list[Tensor], ...]]:
        """What the decoder's layers at `listened` put out in here, call by call."""
        heard: tuple[list[Tensor], ...] = tuple([] for _ in self.listened)
        handles = [
            self.model.language_model.layers[layer].register_forward_hook(
                lambda _layer, _inputs, output, own=own: own.append(output)
            )
            for layer, own in zip(self.listened, heard, strict=True)
        ]
        try:
            yield heard
        finally:
            for handle in handles:
                handle.remove()


def _ends(part: Questions) -> Tensor:
    """int64[R]: the newline of each row."""
    return part.mask_loss.argmax(dim=1) - 1


def _of_rows(batch: PackedBatch, heard: list[Tensor], place: Callable[[Questions], Tensor]) -> Tensor:
    """float[Q, ..., D] at `place` of each question's row, table by table; the last of `heard` are the tables, perhaps
    behind their pictures."""
    found = []
    for part, hidden in zip(batch.questions, heard[-len(batch.questions) :], strict=True):
        at = place(part)
        row = torch.arange(len(at), device=at.device).reshape(-1, *[1] * (at.ndim - 1))
        found.append(hidden[:, -part.tokens.shape[1] :][row, at])
    return torch.cat(found)


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
