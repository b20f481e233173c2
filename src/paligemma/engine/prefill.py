"""A pass over whole prompts that can pause, so that those who are being decoded wait a bounded time for it.

In: prompts, and rows of a cache to put them into. Out: the scores that follow each prompt. Image tokens and prefix see
one another, so a prompt cannot be fed in pieces; it stops between pictures and between layers instead, and nobody can
tell from the result. Not done here: who may come in (`continuous.py`).
Letters: B prompts, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from paligemma.engine.cache import Filling, RaggedCache, Row
from paligemma.engine.runner import Prompt, Runner
from paligemma.model import AttentionMask

PICTURES_AT_ONCE = {"cpu": 4}  # between two pauses; elsewhere as many as memory allows
WHOLE_ROWS = {"cpu": 8}  # oneDNN's products of 259 rows take as long as those of 350


class Prefill:
    """Prompts on their way into rows.

    Attributes:
        rows: those of the prompts, in their order. scores: float[B, V] of what follows them, once it is done.
    """

    def __init__(self, runner: Runner, cache: RaggedCache, prompts: Sequence[Prompt], rows: Sequence[Row]):
        self.runner, self.cache, self.prompts, self.rows = runner, cache, prompts, list(rows)
        self.scores: Tensor | None = None
        self._work = self._parts()

    def advance(self, most: float = math.inf) -> Tensor | None:
        """Works for about as long as `most` tokens take through all layers, at least one part; `scores` at the end."""
        for cost in self._work:
            most -= cost
            if most <= 0:
                break
        return self.scores

    @torch.inference_mode()
    def _parts(self) -> Iterator[float]:
        """Part after part, each with its cost in tokens through all layers."""
        runner, model = self.runner, self.runner.model
        seen: list[Tensor] = []
        for pixels in self._pictures():
            seen.extend(runner.encode_images(pixels))
            yield len(pixels) * tokens_of_a_picture(runner)
        tokens, mask_ar, valid = self._padded()
        x = model.embed(tokens, runner.features(self.prompts, seen))
        mask = AttentionMask.prefix_lm(mask_ar, valid)
        last = torch.tensor([row.length - 1 for row in self.rows], device=runner.device)
        layers = model.language_model.in_steps(x, mask.query_position, mask, Filling(self.cache, self.rows), last)
        while True:
            with runner.threads(tokens.numel()):
                hidden = next(layers, None)
            if hidden is None:
                break
            x = hidden
            yield tokens.numel() / model.config.text.depth
        self.scores = runner.scores(x[:, 0], softcap=not runner.big_vision_softcap)

    def _pictures(self) -> Sequence[Tensor]:
        """What is still to be seen, float32[n, 3, S, S], a few at a time."""
        pixels = [prompt.pixels for prompt in self.prompts if prompt.pixels is not None and prompt.features is None]
        few = PICTURES_AT_ONCE.get(self.runner.device.type)
        together = torch.cat(pixels) if pixels else None
        return () if together is None or not len(together) else together.split(few or len(together))

    def _padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and mask_ar, int64[B, T], and where they are no padding, bool[B, T]; padding is on the right."""
        step = WHOLE_ROWS.get(self.runner.device.type, 1)
        shape = len(self.prompts), -(-max(row.length for row in self.rows) // step) * step
        tokens, mask_ar = torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.int64)
        valid = torch.zeros(shape, dtype=torch.bool)
        for line, prompt in enumerate(self.prompts):
            length = len(prompt.tokens)
            tokens[line, :length], mask_ar[line, :length], valid[line, :length] = prompt.tokens, prompt.mask_ar, True
        device = self.runner.device
        return tokens.to(device), mask_ar.to(device), valid.to(device)


def tokens_of_a_picture(runner: Runner) -> float:
    """How many tokens through the decoder cost what one picture through the image tower does."""
    vision = runner.model.config.vision
    return vision.num_image_tokens * vision.num_parameters / runner.decoder_numbers
