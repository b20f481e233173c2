"""The model as the engine sees it: images to features, hidden states to scores; and prompts that fit it.

In: prompts, pixels, hidden states. Out: features, scores float[P, V]. Device, number type, threads and what the cache
rounds to are decided here and nowhere else. Not done here: passes (`prefill.py`, `ragged.py`), choosing tokens.
Letters: P tokens, V vocabulary, D width, n images of N tokens.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from paligemma.config import IMAGE_SLOT
from paligemma.engine.sampling import Ranges
from paligemma.engine.threads import READING, threads_for
from paligemma.errors import InputError
from paligemma.model import PaliGemmaModel

IMAGES_AT_ONCE = 16  # bounds the vision tower's memory: 16 pictures of 224 px are 4,096 patches


class Prompt(Protocol):
    """What the engine reads of a request; `processor.Encoded` is one."""

    @property
    def tokens(self) -> Tensor: ...  # int64[T], IMAGE_SLOT where image features go
    @property
    def pixels(self) -> Tensor | None: ...  # float32[n, 3, S, S]
    @property
    def mask_ar(self) -> Tensor: ...  # int64[T], 0 image and prefix, 1 given start of the suffix
    @property
    def features(self) -> Tensor | None: ...  # float[n, N, D] from `Runner.encode_images`, instead of pixels


class Runner:
    """
    Args:
        cache_dtype: number type of the cache; None is the model's own.
        big_vision_softcap: the prefill's scores without the final soft-cap, as big_vision leaves them; later steps
            are capped either way. Greedy tokens are the same, log-probabilities are not.
        fine: ranges of ids (start, stop) whose scores are computed in float32 whatever the model's type. In bfloat16
            neighbouring location tokens tie, and boxes come out coarser than the model knows.
        alone: each picture goes through the image tower by itself, so that no other changes its last bits.
    """

    def __init__(
        self,
        model: PaliGemmaModel,
        *,
        cache_dtype: torch.dtype | None = None,
        big_vision_softcap: bool = False,
        fine: Ranges = (),
        alone: bool = False,
    ):
        self.model = model
        self.cache_dtype = cache_dtype
        self.big_vision_softcap = big_vision_softcap
        self.fine = tuple(fine)
        self.images_at_once = 1 if alone else IMAGES_AT_ONCE

    @property
    def device(self) -> torch.device:
        return self.model.projector.weight.device

    @cached_property
    def decoder_numbers(self) -> int:
        """Of all layers, without the vocabulary's matrix."""
        text = self.model.config.text
        return text.num_parameters - text.embedding_rows * text.width

    def threads(self, tokens: float) -> AbstractContextManager[None]:
        """As many threads as a pass of so many tokens through the decoder is worth."""
        return threads_for((tokens + READING) * self.decoder_numbers, self.device)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """float[n, N, D]: features of `pixels`, float32[n, 3, S, S], that many prompts can share."""
        vision = self.model.config.vision
        work = min(len(pixels), self.images_at_once) * vision.num_image_tokens * vision.num_parameters
        with threads_for(work, self.device):
            chunks = pixels.split(self.images_at_once)
            return torch.cat([self.model.encode_images(chunk.to(self.device)) for chunk in chunks])

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of what follows hidden states, float[P, D] -> float[P, V]."""
        with self.threads(len(hidden)):
            return self.scores(hidden)

    def scores(self, hidden: Tensor, *, softcap: bool = True) -> Tensor:
        """`logits`, those of the fine ids in float32."""
        head = self.model.language_model
        scores = head.logits(hidden, softcap=softcap)
        if self.fine and scores.dtype != torch.float32:
            scores = scores.float()
            for rows in (slice(*ids) for ids in self.fine):
                scores[:, rows] = head.logits(hidden.float(), softcap=softcap, rows=rows)
        return scores

    def features(self, prompts: Sequence[Prompt], seen: Sequence[Tensor]) -> Tensor | None:
        """All image features of some prompts in the order of their slots, float[n, N, D].

        Args:
            seen: features of the pictures that came as pixels, in their order.
        """
        encoded = iter(seen)
        features: list[Tensor] = []
        for prompt in prompts:
            if prompt.features is not None:
                features.extend(prompt.features.to(self.device))
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
        ready, per_image = prompt.features, config.vision.num_image_tokens
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
