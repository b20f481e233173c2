"""Several questions about one picture, which goes through the model once.

    picture     [image tokens]                 once through tower and decoder; each layer's keys and values are kept
    questions   [bos prefix \\n suffix eos]     rows of their own, those of like length together, behind those keys

Eight questions cost about twice as much as one, not eight times. The price: the picture's tokens do not see the
questions, as they see the one question when the model answers. So some steps ask `alone`: the picture's tokens are put
before each question anew, and the decoder reads the ordinary prefix-LM row. The frames of a clip are one picture. For
pre-training of small models (docs/decisions/0013).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from paligemma.errors import UsageError
from paligemma.model import AttentionMask
from paligemma.model.layers import positions
from paligemma.processor import Processor
from paligemma.tokenizer import LOCATIONS
from paligemma.train.objective import SuffixObjective

if TYPE_CHECKING:
    from PIL import Image

LENGTH_STEP = 16  # rows whose lengths round up to the same multiple of it stand together


@dataclass(frozen=True, kw_only=True)
class Questions:
    """R questions of like length, without their pictures: `tokens`, `mask_loss` int64[R, T], padded on the right with
    `mask_input` bool[R, T] False; `picture` int64[R] says which is asked about."""

    tokens: Tensor
    mask_loss: Tensor
    mask_input: Tensor
    picture: Tensor
    number: Tensor

    def to(self, device: torch.device | str) -> "Questions":
        """The same on `device`."""
        return Questions(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """P pictures of F frames, float32[P * F, 3, S, S], and all that is asked about them."""

    pixels: Tensor
    pictures: int
    questions: tuple[Questions, ...]
    alone: bool = False

    @property
    def mask_input(self) -> Tensor:
        """bool[n]: True for each token of the questions."""
        return torch.cat([part.mask_input[part.mask_input] for part in self.questions])

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on `device`."""
        questions = tuple(part.to(device) for part in self.questions)
        return replace(self, pixels=self.pixels.to(device), questions=questions)


def pack(
    processor: Processor,
    pictures: "Sequence[Image.Image | Sequence[Image.Image]]",
    questions: Sequence[Sequence[tuple[str, str]]],
    *,
    alone: bool = False,
) -> PackedBatch:
    """Pictures with their (prefix, suffix) pairs.

    Args:
        pictures: single ones, or clips that all have the same number of frames.
        alone: let the picture's tokens see the question.

    Raises:
        UsageError: a picture without questions, or as many lists of questions as there are no pictures.
    """
    if len(pictures) != len(questions) or not all(questions):
        raise UsageError(
            f"found {len(pictures)} pictures and {len(questions)} lists of questions, expected one list that is not "
            "empty for each; leave out pictures nothing is asked about"
        )
    clips = [list(picture) if isinstance(picture, Sequence) else [picture] for picture in pictures]
    by_length: dict[int, list[tuple[int, int, list[int], int]]] = {}
    flat = [(picture, *question) for picture, asked in enumerate(questions) for question in asked]
    for number, (picture, prefix, suffix) in enumerate(flat):
        tokens, learnt = _tokens(processor, prefix, suffix)
        padded = len(tokens) + -len(tokens) % LENGTH_STEP
        by_length.setdefault(padded, []).append((number, picture, tokens, learnt))
    return PackedBatch(
        pixels=torch.stack([processor.pixels(frame) for clip in clips for frame in clip]),
        pictures=len(pictures),
        questions=tuple(_table(rows, length, processor.tokenizer.pad_id) for length, rows in sorted(by_length.items())),
        alone=alone,
    )


def _tokens(processor: Processor, prefix: str, suffix: str) -> tuple[list[int], int]:
    """The tokens of a question, and how many at their end are learnt."""
    allow = frozenset({LOCATIONS}) if "<loc" in prefix + suffix else frozenset[str]()
    answer = [*processor.tokenizer.encode(suffix, allow=allow), processor.tokenizer.eos_id]
    return [*processor.prompt_ids(prefix, allow=allow), *answer], len(answer)


def _table(rows: list[tuple[int, int, list[int], int]], length: int, pad_id: int) -> Questions:
    tokens = torch.full((len(rows), length), pad_id, dtype=torch.int64)
    mask_loss = torch.zeros_like(tokens)
    for line, (_, _, row, learnt) in enumerate(rows):
        tokens[line, : len(row)] = torch.tensor(row)
        mask_loss[line, len(row) - learnt : len(row)] = 1
    lengths = torch.tensor([len(row) for _, _, row, _ in rows])
    return Questions(
        tokens=tokens,
        mask_loss=mask_loss,
        mask_input=torch.arange(length) < lengths[:, None],
        picture=torch.tensor([picture for _, picture, _, _ in rows]),
        number=torch.tensor([number for number, _, _, _ in rows]),
    )


class PackedObjective(SuffixObjective):
    """The suffix loss of packed questions; each is one example."""

    def weight(self, batch: PackedBatch) -> float:  # type: ignore[override]  # other rows than the parent's
        """Of all questions, each of which is an example."""
        return sum(self.weight_of(part.tokens, part.mask_loss) for part in batch.questions)

    def forward(self, batch: PackedBatch) -> dict[str, Tensor]:  # type: ignore[override]
        """The sum of the suffix losses of all questions."""
        return {"loss": self.packed_loss(batch, self.model.vision_tower(batch.pixels))}

    def packed_loss(self, batch: PackedBatch, seen: Tensor) -> Tensor:
        """The same from the vision tower's output, float[P * F, N, D]."""
        pictures = self.model.projector(seen).unflatten(0, (batch.pictures, -1)).flatten(1, 2)
        read = partial(self._alone, pictures) if batch.alone else self._together(pictures)
        losses = [self.suffix(read(part), part.tokens, part.mask_loss) for part in batch.questions]
        return torch.stack(losses).sum()

    def _alone(self, pictures: Tensor, part: Questions) -> Tensor:
        """Hidden states float[R, T, D] of questions that their pictures' tokens see."""
        slots = pictures.shape[1]
        x = torch.cat((pictures[part.picture], self.model.language_model.embed(part.tokens)), dim=1)
        before = part.tokens.new_zeros(len(part.tokens), slots)
        mask = AttentionMask.prefix_lm(
            torch.cat((before, part.mask_loss), dim=1), torch.cat((before == 0, part.mask_input), dim=1)
        )
        return self.model.decode(x, mask)[:, slots:]

    def _together(self, pictures: Tensor) -> Callable[[Questions], Tensor]:
        """The pictures are read once; what comes back reads questions behind them, as `_alone` does."""
        count, slots = pictures.shape[:2]
        place = torch.arange(slots, device=pictures.device).expand(count, -1)
        kept = _Kept()
        self.model.decode(pictures, AttentionMask.prefix_lm(torch.zeros_like(place), place >= 0), kept)

        def read(part: Questions) -> Tensor:
            before = place[part.picture]
            step, position = part.mask_loss.cumsum(1), slots + positions(part.mask_input)
            mask = AttentionMask(
                query_step=step,
                query_position=position,
                key_step=torch.cat((torch.zeros_like(before), step), dim=1),
                key_position=torch.cat((before, position), dim=1),
                key_valid=torch.cat((before >= 0, part.mask_input), dim=1),
            )
            return self.model.decode(
                self.model.language_model.embed(part.tokens), mask, _Behind(kept.layers, part.picture)
            )

        return read


class _Kept:
    """A cache that keeps every layer's keys and values, with their gradients."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        assert layer == len(self.layers)
        self.layers.append((k_BKTH, v_BKTH))
        return k_BKTH, v_BKTH


class _Behind:
    """A cache that puts each row behind the keys and values of its picture."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], picture: Tensor):
        self.layers, self.picture = layers, picture

    def update(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = (kept[self.picture] for kept in self.layers[layer])
        return torch.cat((keys, k_BKTH), dim=2), torch.cat((values, v_BKTH), dim=2)
