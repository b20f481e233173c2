"""The model as the engine sees it: `prefill` some prompts, then `decode` one token per row at a time.

In: prompts and token ids. Out: scores of the next token, float[B, V]. Device, number type and the cache are decided
here and nowhere else. Not done here: choosing tokens, stopping, batching.

A batch is padded on the left, so that every row's last prompt token is in the last column and all rows grow together.
Source: big_vision `prefill_cache` and `extend_cache`; pads take no position and are seen by no one.
Letters: B rows, S slots of the cache, V vocabulary, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paligemma.config import IMAGE_SLOT
from paligemma.engine.cache import KVCache
from paligemma.errors import InputError
from paligemma.model import AttentionMask, PaliGemmaModel, positions

IMAGES_AT_ONCE = 16  # bounds the vision tower's memory: 16 pictures of 224 px are 4,096 patches


class Prompt(Protocol):
    """What the engine reads of a request; `processor.Encoded` is one.

    An optional attribute `features`, float[n, N, D] from `Runner.encode_images`, replaces `pixels`.
    """

    @property
    def tokens(self) -> Tensor: ...  # int64[T], IMAGE_SLOT where image features go
    @property
    def pixels(self) -> Tensor | None: ...  # float32[n, 3, S, S]
    @property
    def mask_ar(self) -> Tensor: ...  # int64[T], 0 image and prefix, 1 given start of the suffix


@dataclass
class Batch:
    """Rows being decoded together: their cache and who sees whom. Columns are slots of the cache."""

    cache: KVCache
    step: Tensor  # int64[B, S]
    position: Tensor  # int64[B, S]
    valid: Tensor  # bool[B, S], False where padding

    def __len__(self) -> int:
        return len(self.step)

    def select(self, rows: Sequence[int]) -> None:
        """Goes on with these rows, in this order; one may be named several times."""
        if list(rows) == list(range(len(self))):
            return
        index = torch.tensor(rows, device=self.step.device)
        self.cache.select(index)
        self.step, self.position, self.valid = self.step[index], self.position[index], self.valid[index]


class Runner:
    """
    Args:
        cache_dtype: number type of the cache; None is the model's own.
        big_vision_softcap: the prefill's scores without the final soft-cap, as big_vision leaves them; later steps
            are capped either way. Greedy tokens are the same, log-probabilities are not.
    """

    def __init__(
        self, model: PaliGemmaModel, *, cache_dtype: torch.dtype | None = None, big_vision_softcap: bool = False
    ):
        self.model = model
        self.cache_dtype = cache_dtype
        self.big_vision_softcap = big_vision_softcap

    @property
    def device(self) -> torch.device:
        return self.model.projector.weight.device

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """float[n, N, D]: features of `pixels`, float32[n, 3, S, S], that many prompts can share."""
        chunks = pixels.split(IMAGES_AT_ONCE)
        return torch.cat([self.model.encode_images(chunk.to(self.device)) for chunk in chunks])

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompt], new_tokens: int) -> tuple[Batch, Tensor]:
        """Runs whole prompts; returns the batch, with room for `new_tokens` more, and scores float[B, V]."""
        rows, longest = len(prompts), max(len(prompt.tokens) for prompt in prompts)
        slots = longest + new_tokens
        tokens = torch.zeros(rows, longest, dtype=torch.int64)
        step = torch.zeros(rows, slots, dtype=torch.int64)
        valid = torch.zeros(rows, slots, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            start = longest - len(prompt.tokens)
            tokens[row, start:] = prompt.tokens
            step[row, start:longest] = prompt.mask_ar
            valid[row, start:] = True
        step[:, longest:] = 1  # what is generated is causal
        step, position = step.cumsum(-1), positions(valid)
        x = self.model.embed(tokens.to(self.device), self._features(prompts))
        cache = KVCache(
            self.model.config.text, rows, slots, dtype=self.cache_dtype or x.dtype, device=self.device
        )  # fmt: skip
        batch = Batch(cache, *(t.to(self.device) for t in (step, position, valid)))
        hidden = self._run(batch, x)
        return batch, self.model.language_model.logits(hidden, softcap=not self.big_vision_softcap)

    @torch.inference_mode()
    def decode(self, batch: Batch, tokens: Sequence[int]) -> Tensor:
        """Appends one token to each row; returns scores of the next, float[B, V]."""
        column = torch.tensor(tokens, device=self.device)[:, None]
        hidden = self._run(batch, self.model.language_model.embed(column))
        return self.model.language_model.logits(hidden)

    def _run(self, batch: Batch, x: Tensor) -> Tensor:
        """Hidden states [B, D] of the last of the new embeddings `x` [B, T, D]."""
        start = batch.cache.length
        stop = start + x.shape[1]
        mask = AttentionMask(
            query_step=batch.step[:, start:stop],
            query_position=batch.position[:, start:stop],
            key_step=batch.step[:, :stop],
            key_position=batch.position[:, :stop],
            key_valid=batch.valid[:, :stop],
        )
        hidden = self.model.decode(x, mask, batch.cache)
        batch.cache.advance(x.shape[1])
        return hidden[:, -1]

    def _features(self, prompts: Sequence[Prompt]) -> Tensor | None:
        """All image features of the batch in the order of their slots; pixels are encoded together."""
        pixels = [p.pixels for p in prompts if p.pixels is not None and _ready_made(p) is None]
        encoded = iter(self.encode_images(torch.cat(pixels))) if pixels else iter(())
        features: list[Tensor] = []
        for prompt in prompts:
            ready = _ready_made(prompt)
            if ready is not None:
                features.extend(ready.to(self.device))
            elif prompt.pixels is not None:
                features.extend(next(encoded) for _ in prompt.pixels)
        return torch.stack(features) if features else None

    def check(self, prompt: Prompt, name: str) -> None:
        """Refuses a prompt that would break its neighbours in a batch, or the device.

        Raises:
            InputError: no tokens, ids outside the vocabulary, or image slots and images that differ in number.
        """
        tokens, config = prompt.tokens, self.model.config
        if len(tokens) == 0 or len(tokens) != len(prompt.mask_ar):
            raise InputError(
                f"{name} has {len(tokens)} tokens and {len(prompt.mask_ar)} mask_ar values; "
                "give at least one token and one value for each (the processor does)"
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < IMAGE_SLOT or high >= config.text.embedding_rows:
            raise InputError(
                f"{name} has token ids from {low} to {high}, but this model has {config.text.embedding_rows} "
                "(and -1 for an image slot); use the tokenizer that came with the model"
            )
        ready, per_image = _ready_made(prompt), config.vision.num_image_tokens
        images = prompt.pixels if ready is None else ready
        expected = (3, *[config.vision.image_size_px] * 2) if ready is None else (per_image, config.text.width)
        if images is not None and tuple(images.shape[1:]) != expected:
            raise InputError(
                f"{name} has {'pixels' if ready is None else 'features'} of shape {tuple(images.shape)}; "
                f"this model takes [images, {', '.join(map(str, expected))}]"
            )
        given = 0 if images is None else len(images)
        slots = int((tokens == IMAGE_SLOT).sum())
        if slots != given * per_image:
            raise InputError(
                f"{name} has {slots} image slots and {given} images; "
                f"this model takes {per_image} slots per image, so let the processor insert them"
            )


def _ready_made(prompt: Prompt) -> Tensor | None:
    return getattr(prompt, "features", None)
