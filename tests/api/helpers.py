"""Noise as pictures, and an engine that says what it is told to."""

import numpy as np
from PIL import Image

from paligemma.config import IMAGE_SLOT
from paligemma.engine import Generation, Token

CAT = "<loc0102><loc0051><loc0920><loc0819> cat"


def picture(seed=0, size=(60, 40)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


class Speaker:
    """An engine that says a given text and remembers what it was asked."""

    def __init__(self, model, text, finish_reason="stop"):
        self.ids = model.tokenizer.encode(text, allow=frozenset({"locations"}))
        self.eos_id, self.finish_reason = model.tokenizer.eos_id, finish_reason
        self.prompts, self.samplings, self.constraints, self.calls = [], [], [], 0
        self.runner = model.engine.runner

    def generate(self, prompts, samplings, *, batch_size, constraints, watch):
        self.calls += 1
        self.prompts += prompts
        self.samplings += samplings
        self.constraints += constraints
        answer = Generation(
            tokens=self.ids, logprobs=[-1.0] * len(self.ids), finish_reason=self.finish_reason, score=0.0
        )
        return [answer] * len(prompts)

    def stream(self, prompt, sampling, constraint):
        for i in self.ids:
            yield Token(id=i, logprob=-1.0)
        yield Token(id=self.eos_id, logprob=-0.5, finish_reason="stop")

    def sent(self, model, i=-1):
        """The text of a prompt, without image slots."""
        tokens = self.prompts[i].tokens
        return model.tokenizer.decode(tokens[tokens != IMAGE_SLOT].tolist(), skip_controls=False)
