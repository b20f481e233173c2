"""The model as the engine sees it: `prefill` some prompts, then `feed` a token, or several, to each row at a time.

In: prompts and token ids. Out: scores of the next token, float[B, V]. Device, number type and the cache are decided
here and nowhere else. Not done here: choosing tokens, stopping, batching.

A batch is padded on the left, so that every row's last prompt token is in the last column and all rows grow together.
Rows that are fed fewer tokens than others get pads on the left again. Pads take no position and are seen by no one;
when they fill the cache they are taken out. Source: big_vision `prefill_cache` and `extend_cache`.
Letters: B rows, S slots of the cache, V vocabulary, D width, P tokens fed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paligemma.config import IMAGE_SLOT
from paligemma.engine.cache import KVCache
from paligemma.engine.sampling import Ranges
from paligemma.errors import InputError
from paligemma.model import AttentionMask, PaliGemmaModel, positions

IMAGES_AT_ONCE = 16  # bounds the vision tower's memory: 16 pictures of 224 px are 4,096 patches

SPARE_SLOTS = 32  # beyond what is needed when a cache must grow, so that it seldom must


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

    def fork(self, rows: Sequence[int]) -> "Batch":
        """A batch of these rows to go on with; this one stays as it is."""
        forked = Batch(self.cache.fork(), self.step, self.position, self.valid.clone())
        forked.select(rows)
        return forked

    def skip(self, real: Tensor) -> None:
        """Says which of the next T columns hold tokens, bool[B, T]; the last one always does."""
        start = self.cache.length
        self.valid[:, start : start + real.shape[1]] = real
        self.position = positions(self.valid)

    def make_room(self, columns: int) -> None:
        """Where `columns` more do not fit: takes out the padding that no row needs, and grows by what still lacks.

        Afterwards the longest row has none. So however the rows' chains fall, with prompts of at most P tokens and
        answers of at most M no more than P + 2 * M + SPARE_SLOTS are ever taken.
        """
        length = self.cache.length
        if length + columns <= self.cache.slots:
            return
        valid = self.valid[:, :length]
        longest = int(valid.sum(-1).max())
        order = valid.long().argsort(stable=True, dim=-1)[:, length - longest :]  # padding first, tokens in their order
        self.cache.gather(order, max(self.cache.slots, longest + columns + SPARE_SLOTS))
        rest = self.cache.slots - longest
        step = self.step.gather(1, order)
        later = step[:, -1:] + torch.arange(1, rest + 1, device=step.device)
        self.step = torch.cat((step, later), dim=1)
        self.valid = torch.cat((valid.gather(1, order), torch.ones_like(later, dtype=torch.bool)), dim=1)
        self.position = positions(self.valid)


class Runner:
    """
    Args:
        cache_dtype: number type of the cache; None is the model's own.
        big_vision_softcap: the prefill's scores without the final soft-cap, as big_vision leaves them; later steps
            are capped either way. Greedy tokens are the same, log-probabilities are not.
        fine: ranges of ids (start, stop) whose scores are computed in float32 whatever the model's type. In bfloat16
            neighbouring location tokens tie, and boxes come out coarser than the model knows.
    """

    def __init__(
        self,
        model: PaliGemmaModel,
        *,
        cache_dtype: torch.dtype | None = None,
        big_vision_softcap: bool = False,
        fine: Ranges = (),
    ):
        self.model = model
        self.cache_dtype = cache_dtype
        self.big_vision_softcap = big_vision_softcap
        self.fine = tuple(fine)

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
        x = self.model.embed(tokens.to(self.device), self.features(prompts))
        cache = KVCache(
            self.model.config.text, rows, slots, dtype=self.cache_dtype or x.dtype, device=self.device
        )  # fmt: skip
        batch = Batch(cache, *(t.to(self.device) for t in (step, position, valid)))
        hidden = self._run(batch, x)[:, -1]
        return batch, self.scores(hidden, softcap=not self.big_vision_softcap)

    @torch.inference_mode()
    def feed(self, batch: Batch, chains: Sequence[Sequence[int]]) -> Tensor:
        """Appends to each row its tokens, at least one; returns their hidden states, float[P, D], row after row."""
        longest = max(map(len, chains))
        ids = torch.tensor([[0] * (longest - len(chain)) + list(chain) for chain in chains], device=self.device)
        batch.make_room(longest)
        if all(len(chain) == longest for chain in chains):
            return self._run(batch, self.model.language_model.embed(ids)).flatten(0, 1)
        real = torch.tensor([[i >= longest - len(chain) for i in range(longest)] for chain in chains])
        batch.skip(real.to(self.device))
        hidden = self._run(batch, self.model.language_model.embed(ids)).flatten(0, 1)
        return hidden[real.flatten().nonzero()[:, 0].to(self.device)]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of what follows hidden states, float[P, D] -> float[P, V]."""
        return self.scores(hidden)

    def decode(self, batch: Batch, tokens: Sequence[int]) -> Tensor:
        """Appends one token to each row; returns scores of the next, float[B, V]."""
        return self.logits(self.feed(batch, [[token] for token in tokens]))

    def _run(self, batch: Batch, x: Tensor) -> Tensor:
        """Hidden states [B, T, D] of the new embeddings `x` [B, T, D]."""
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
        return hidden

    def scores(self, hidden: Tensor, *, softcap: bool = True) -> Tensor:
        """`logits`, those of the fine ids in float32."""
        head = self.model.language_model
        scores = head.logits(hidden, softcap=softcap)
        if self.fine and scores.dtype != torch.float32:
            scores = scores.float()
            for rows in (slice(*ids) for ids in self.fine):
                scores[:, rows] = head.logits(hidden.float(), softcap=softcap, rows=rows)
        return scores

    def features(self, prompts: Sequence[Prompt]) -> Tensor | None:
        """All image features of the batch in the order of their slots; pixels are encoded together."""
        pixels = [p.pixels for p in prompts if p.pixels is not None and p.features is None]
        encoded = iter(self.encode_images(torch.cat(pixels))) if pixels else iter(())
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
