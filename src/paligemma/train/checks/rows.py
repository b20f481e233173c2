"""A batch as the model will get it, row by row: every token with its text, its part and whether it is trained.

In: `TrainingBatch`es as the loader gives them. Out: `Row`s, which people look at (`view`) and checks judge
(`token_checks`). Nothing is taken from the data behind the batch: what is shown is what is learnt.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from paligemma.config import IMAGE_SLOT
from paligemma.errors import PaliGemmaError
from paligemma.processor import Batch, Processor

Part = Literal["image", "prefix", "suffix", "pad"]


@dataclass(frozen=True, kw_only=True)
class Token:
    """One place of a row.

    Attributes:
        id: in the vocabulary, `IMAGE_SLOT` in an image.
        piece: its text, `<eos>` and `<loc0001>` spelled out.
        part: from the masks. trained: whether its prediction is part of the loss.
    """

    id: int
    piece: str
    part: Part
    trained: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One example in a batch; `pictures` as the model sees them, float32[3, S, S] in [-1, 1]."""

    id: str
    source: str
    tokens: tuple[Token, ...]
    pictures: tuple[Tensor, ...] = field(repr=False, compare=False)

    def of(self, part: Part) -> list[Token]:
        """The tokens of one part, in order."""
        return [token for token in self.tokens if token.part == part]

    def text(self, part: Part) -> str:
        """What a part says, without bos, eos and the newline that ends a prompt."""
        pieces = [token.piece for token in self.of(part) if token.piece not in ("<bos>", "<eos>")]
        if part == "prefix" and pieces and pieces[-1] == "\n":
            pieces.pop()
        return "".join(pieces)

    def runs(self) -> list[tuple[Part, bool, list[Token]]]:
        """Neighbouring tokens of one part, trained or not, together."""
        grouped = groupby(self.tokens, key=lambda token: (token.part, token.trained))
        return [(part, trained, list(tokens)) for (part, trained), tokens in grouped]


def rows_of(batches: Iterable[Batch], processor: Processor, limit: int | None = None) -> list[Row]:
    """The rows of some batches, at most `limit` of them."""
    found: list[Row] = []
    for number, batch in enumerate(batches):
        for row in _rows(batch, processor, number):
            if limit is not None and len(found) >= limit:
                return found
            found.append(row)
    return found


def picture(pixels: Tensor) -> Image.Image:
    """float32[3, S, S] in [-1, 1] -> RGB."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array.numpy()))


def _rows(batch: Batch, processor: Processor, number: int) -> Iterator[Row]:
    ids: Sequence[str] = getattr(batch, "ids", ()) or [f"batch {number} row {i}" for i in range(len(batch.tokens))]
    sources: Sequence[str] = getattr(batch, "sources", ()) or [""] * len(batch.tokens)
    first = 0
    for i, tokens in enumerate(batch.tokens.tolist()):
        images = tokens.count(IMAGE_SLOT) // processor.num_image_tokens
        pictures = () if batch.pixels is None else tuple(batch.pixels[first : first + images])
        first += images
        masks = zip(tokens, batch.mask_input[i].tolist(), batch.mask_ar[i].tolist(), batch.mask_loss[i].tolist(),
                    strict=True)  # fmt: skip
        yield Row(
            id=ids[i], source=sources[i], pictures=pictures,
            tokens=tuple(
                Token(id=token, piece=_piece(token, processor), part=_part(token, valid, causal), trained=bool(learnt))
                for token, valid, causal, learnt in masks
            ),
        )  # fmt: skip


def _part(token: int, valid: bool, causal: int) -> Part:
    if not valid:
        return "pad"
    if token == IMAGE_SLOT:
        return "image"
    return "suffix" if causal else "prefix"


def _piece(token: int, processor: Processor) -> str:
    try:
        return processor.tokenizer.bytes_of(token, skip_controls=False).decode("utf-8", "backslashreplace")
    except PaliGemmaError:  # an id outside the vocabulary is shown, not hidden
        return f"<id {token}>"
