"""Stages 1 and 2 of the drawn world: answers are learnt, and beside them what the tower sees and what names mean.

    vision tower               -> the patches' truth, so that sight is kept
    decoder, at names          -> how many, in which colour, where: so that it learns to look for them
             where prompts end -> the same, of all names together
             at answers        -> the suffix loss

The read-outs are linear and thrown away afterwards (docs/decisions/0019).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.model import PaliGemmaModel
from paligemma.scenes.catalog import COLORS
from paligemma.scenes.mentions import MANY, SLOTS, Mentions
from paligemma.scenes.patches import UNKNOWN
from paligemma.train.config import LossConfig
from paligemma.train.pretraining.packing import PackedBatch, PackedObjective, Questions
from paligemma.train.pretraining.seeing import (
    COLOR_WEIGHT,
    EDGE_WEIGHT,
    LOST_SIDES,
    PatchBatch,
    PatchHeads,
    Truth,
    stacked,
    total,
)


@dataclass(frozen=True, kw_only=True)
class MentionBatch(Truth):
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
        return cls(**stacked(mentions), place=torch.tensor(padded))

    def rows(self, number: Tensor) -> "MentionBatch":
        """Those of some questions."""
        return MentionBatch(**{name: tensor[number] for name, tensor in vars(self).items()})


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


class MentionHead(nn.Module):
    """A linear read-out of what `names` names are in a picture."""

    def __init__(self, width: int, names: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sizes = (MANY + 1, len(COLORS), 4)
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
