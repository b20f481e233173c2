"""Several questions about one picture in one row: they share its tokens and do not see one another.

    tokens    [image slots][bos prefix \\n suffix eos][bos prefix \\n suffix eos]...[padding]
    segment    0 ......... 1 ....................... 2 .......................

Eight questions cost about twice as much as one, not eight times. The price: the picture's tokens do not see the
questions, as they see the one question when the model answers. So some pictures are asked `alone`: each question in a
row of its own, the ordinary prefix-LM row, and the vision tower still runs once a picture. The frames of a clip are
one picture. For pre-training of small models (docs/decisions/0013).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paligemma.config import IMAGE_SLOT
from paligemma.errors import UsageError
from paligemma.model import AttentionMask
from paligemma.processor import Batch, Processor
from paligemma.tokenizer import LOCATIONS
from paligemma.train.objective import SuffixObjective, token_weight

if TYPE_CHECKING:
    from PIL import Image

LENGTH_STEP = 32  # rows are padded to a multiple of it


@dataclass(frozen=True, kw_only=True)
class PackedBatch(Batch):
    """P pictures with their questions in B rows; `position` and the causal `step` begin anew in each question.

    `segment`, `position`, `step` int64[B, T]; `rows` int64[P] says how many rows each picture has, one after the other.
    """

    segment: Tensor
    position: Tensor
    step: Tensor
    rows: Tensor

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on `device`."""
        moved = {name: tensor.to(device) for name, tensor in vars(self).items() if isinstance(tensor, Tensor)}
        return replace(self, **moved)


def pack(
    processor: Processor,
    pictures: "Sequence[Image.Image | Sequence[Image.Image]]",
    questions: Sequence[Sequence[tuple[str, str]]],
    *,
    alone: bool = False,
) -> PackedBatch:
    """One row per picture with all its (prefix, suffix) pairs; a picture with one pair sees it, as everywhere else.

    Args:
        pictures: single ones, or clips that all have the same number of frames.
        alone: give each pair a row of its own.

    Raises:
        UsageError: a picture without questions, or as many lists of questions as there are no pictures.
    """
    if len(pictures) != len(questions) or not all(questions):
        raise UsageError(
            f"found {len(pictures)} pictures and {len(questions)} lists of questions, expected one list that is not "
            "empty for each; leave out pictures nothing is asked about"
        )
    clips = [list(picture) if isinstance(picture, Sequence) else [picture] for picture in pictures]
    slots = processor.num_image_tokens * len(clips[0])
    rows_of = [[[pair] for pair in asked] if alone else [list(asked)] for asked in questions]
    tokens, step, mask_loss, segment, position, valid = _table(
        processor.tokenizer.pad_id, [_row(processor, row, slots) for rows in rows_of for row in rows]
    )
    return PackedBatch(
        tokens=tokens,
        pixels=torch.stack([processor.pixels(frame) for clip in clips for frame in clip]),
        mask_ar=mask_loss,
        mask_input=valid.bool(),
        mask_loss=mask_loss,
        segment=segment,
        position=position,
        step=step,
        rows=torch.tensor([len(rows) for rows in rows_of]),
    )


def _table(pad_id: int, rows: Sequence[Tensor]) -> Tensor:
    """int64[6, B, T] of the `_row`s, padded."""
    longest = max(row.shape[1] for row in rows)
    table = torch.zeros(6, len(rows), longest + -longest % LENGTH_STEP, dtype=torch.int64)
    table[0] = pad_id
    for line, row in enumerate(rows):
        table[:, line, : row.shape[1]] = row
    return table


def _row(processor: Processor, asked: Sequence[tuple[str, str]], slots: int) -> Tensor:
    """int64[6, T]: tokens, step, mask_loss, segment, position, valid."""
    tokenizer = processor.tokenizer
    place = torch.arange(slots)
    nothing = torch.zeros_like(place)
    shared = nothing if len(asked) > 1 else nothing + 1
    parts = [torch.stack((nothing + IMAGE_SLOT, nothing, nothing, shared, place, nothing + 1))]
    for number, (prefix, suffix) in enumerate(asked, 1):
        allow = frozenset({LOCATIONS}) if "<loc" in prefix + suffix else frozenset[str]()
        before = processor.prompt_ids(prefix, allow=allow)
        answer = [*tokenizer.encode(suffix, allow=allow), tokenizer.eos_id]
        tokens = torch.tensor(before + answer)
        learnt = torch.tensor([0] * len(before) + [1] * len(answer))
        position = slots + torch.arange(len(tokens))
        ones = torch.ones_like(tokens)
        parts.append(torch.stack((tokens, learnt.cumsum(0), learnt, ones * number, position, ones)))
    return torch.cat(parts, dim=1)


class PackedObjective(SuffixObjective):
    """The suffix loss on packed rows; each question is one example."""

    def weight(self, batch: Batch) -> float:
        """Questions, or suffix tokens."""
        assert isinstance(batch, PackedBatch)
        if self.config.per == "example":
            return float(batch.segment.amax(1).sum())
        return token_weight(batch, self.targets)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of the suffix losses of all questions."""
        assert isinstance(batch, PackedBatch)
        assert batch.pixels is not None
        return {"loss": self.packed_loss(batch, self.model.vision_tower(batch.pixels))}

    def packed_loss(self, batch: PackedBatch, seen: Tensor) -> Tensor:
        """The same from the vision tower's output, float[B, N, D]."""
        mask = AttentionMask.packed(batch.step, batch.position, batch.segment, batch.mask_input)
        by_picture = self.model.projector(seen).unflatten(0, (len(batch.rows), -1))
        by_row = by_picture.repeat_interleave(batch.rows, dim=0, output_size=len(batch.tokens))
        hidden = self.model.decode(self.model.embed(batch.tokens, by_row.flatten(0, 1)), mask)
        return self.suffix(hidden, batch.tokens, batch.mask_loss, batch.segment)
