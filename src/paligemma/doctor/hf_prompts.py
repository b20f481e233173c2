"""Prompts as Hugging Face's PaliGemmaProcessor tokenises them, to compare with it number by number.

Texts come in, the lists of its output go out: input_ids, token_type_ids, attention_mask, labels. What differs from
`processor`: `<image>`, `<eos>` and all other special tokens are taken from the text; bos goes behind the last
`<image>`; prompt and newline are tokenised together, so a prompt that ends in a newline gets the two-newline token;
rows may be cut at the right. Use it for parity only. Not done: pixels (`Processor.pixels`).

Source: transformers 5.23, `models/paligemma/processing_paligemma.py`.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from paligemma.config import IMAGE_SLOT
from paligemma.errors import InputError, UsageError
from paligemma.processor import Batch, Side
from paligemma.tokenizer import CLASSES, Tokenizer

IMAGE = "<image>"
NO_LABEL = -100

Rows = dict[str, list[list[int]]]


class HFProcessor:
    """Hugging Face's dialect; `num_image_tokens` is its `image_seq_length`.

    Raises:
        UsageError: the tokenizer has no `<image>` token (big_vision's files have none).
    """

    def __init__(self, tokenizer: Tokenizer, *, num_image_tokens: int):
        if tokenizer.image_id is None:
            raise UsageError(
                "the tokenizer has no <image> token, which this dialect needs; load Hugging Face's tokenizer.json"
            )
        self.tokenizer = tokenizer
        self.image_id = tokenizer.image_id
        self.num_image_tokens = num_image_tokens

    def encode(
        self,
        text: str | Sequence[str] | None,
        suffix: str | Sequence[str] | None = None,
        *,
        num_images: int | Sequence[int] = 1,
        padding: Literal[False, "longest", "max_length"] = False,
        padding_side: Side = "left",
        max_length: int | None = None,
        truncation: bool = False,
    ) -> Rows:
        """One row per text; int64 lists under input_ids, token_type_ids (1 suffix), attention_mask and labels.

        Args:
            text: prompts, with or without typed `<image>`; None gives no rows, as there.
            num_images: images of each prompt, in the order of the prompts.
            truncation: cuts rows to `max_length` at the right, eos and newline included.

        Raises:
            InputError: images and `<image>` tokens differ in number, cutting would remove image tokens, or rows
                stay of unequal length.
            UsageError: texts, suffixes and image counts differ in number.
        """
        if text is None:
            return {}
        prompts = [text] if isinstance(text, str) else list(text)
        suffixes = [suffix] if isinstance(suffix, str) else suffix
        counts = [num_images] * len(prompts) if isinstance(num_images, int) else list(num_images)
        if len(counts) != len(prompts) or (suffixes is not None and len(suffixes) != len(prompts)):
            raise UsageError(f"found {len(prompts)} texts with other numbers of suffixes or images; give one each")
        limit = max_length if truncation else None
        rows = []
        for i, prompt in enumerate(self._layout(prompts, counts)):
            first = self._encode(prompt)
            second = [] if suffixes is None else self._encode(suffixes[i] + "<eos>")
            first, second = _cut(first, second, limit)
            wanted = prompt.count(IMAGE) * self.num_image_tokens
            found = (first + second).count(self.image_id)
            if found != wanted:
                raise InputError(
                    f"the text asks for {wanted} image tokens but the row has {found}; "
                    "raise max_length or take <image> out of the suffix"
                )
            rows.append((first, second))
        return self._pad(rows, padding, padding_side, max_length)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of `ids`; special is what the tokenizer file calls so, `<mask>` and `<start_of_turn>` among them."""
        dropped = self.tokenizer.special_ids if skip_special_tokens else frozenset()
        return self.tokenizer.decode([i for i in ids if i not in dropped], skip_controls=False)

    def batch(self, rows: Rows, pixels: torch.Tensor | None = None) -> Batch:
        """The same rows as a `Batch` for the model; `pixels` float32[I, 3, S, S] are handed through."""
        tokens = torch.tensor(rows["input_ids"])
        return Batch(
            tokens=tokens.masked_fill(tokens == self.image_id, IMAGE_SLOT),
            pixels=pixels,
            mask_ar=torch.tensor(rows["token_type_ids"]),
            mask_input=torch.tensor(rows["attention_mask"]).bool(),
            mask_loss=(torch.tensor(rows["labels"]) != NO_LABEL).long(),
        )

    def _layout(self, prompts: list[str], counts: list[int]) -> list[str]:
        """Prompts with `<image>`, bos and newline in their places, one `<image>` per image."""
        typed = [prompt.count(IMAGE) for prompt in prompts]
        if not any(typed):
            return [f"{IMAGE * count}<bos>{prompt}\n" for prompt, count in zip(prompts, counts, strict=True)]
        if sum(typed) != sum(counts):
            raise InputError(
                f"found {sum(typed)} <image> in the texts but {sum(counts)} images; "
                "write one <image> per image, or none at all"
            )
        if not all(typed):
            raise InputError(
                "some texts have <image> and some have none; there <bos> would land inside the text, so write it in all"
            )
        behind = [prompt.rfind(IMAGE) + len(IMAGE) for prompt in prompts]
        return [f"{prompt[:end]}<bos>{prompt[end:]}\n" for prompt, end in zip(prompts, behind, strict=True)]

    def _encode(self, text: str) -> list[int]:
        """Ids with every special token taken from the text and each `<image>` repeated."""
        ids = self.tokenizer.encode(text, allow=CLASSES)
        repeat = {self.image_id: self.num_image_tokens}
        return [token for token in ids for _ in range(repeat.get(token, 1))]

    def _pad(
        self, rows: list[tuple[list[int], list[int]]], padding: str | bool, side: Side, max_length: int | None
    ) -> Rows:
        if padding not in (False, "longest", "max_length") or (padding == "max_length" and max_length is None):
            raise UsageError(f"found padding {padding!r}, expected False, 'longest' or 'max_length' with a max_length")
        longest = max((len(first) + len(second) for first, second in rows), default=0)
        length = {False: 0, "longest": longest, "max_length": max_length or 0}[padding]
        out: Rows = {"input_ids": [], "token_type_ids": [], "attention_mask": [], "labels": []}
        for first, second in rows:
            size = len(first) + len(second)
            columns = {
                "input_ids": (first + second, self.tokenizer.pad_id),
                "token_type_ids": ([0] * len(first) + [1] * len(second), 0),
                "attention_mask": ([1] * size, 0),
                "labels": ([NO_LABEL] * len(first) + second, NO_LABEL),
            }
            for name, (row, value) in columns.items():
                pads = [value] * (length - size)
                out[name].append(pads + row if side == "left" else row + pads)
        lengths = sorted({len(row) for row in out["input_ids"]})
        if len(lengths) > 1:
            raise InputError(
                f"rows of {lengths[0]} to {lengths[-1]} tokens make no array, which this dialect always builds; "
                "use padding='longest', or truncation"
            )
        return out


def _cut(first: list[int], second: list[int], limit: int | None) -> tuple[list[int], list[int]]:
    """Cuts the longer of two parts at the right first, then both to halves, until they fit."""
    if limit is None or len(first) + len(second) <= limit:
        return first, second
    if not second:
        return first[:limit], second
    short, long = sorted((len(first), len(second)))
    if limit - short >= short:
        long = limit - short
    else:
        short, long = limit // 2, limit - limit // 2
    keep_first, keep_second = (long, short) if len(first) > len(second) else (short, long)
    return first[:keep_first], second[:keep_second]
