"""Greedy decoding in a dozen lines: no cache, no batch, no padding. The engine must give the same tokens, for ever.

Each new token runs the whole sequence again, so it is slow by design and hard to get wrong.
"""

from collections.abc import Sequence

import torch

from paligemma.engine.constraints import Constraint
from paligemma.engine.runner import Prompt
from paligemma.model import PaliGemmaModel


@torch.inference_mode()
def generate_slowly(
    model: PaliGemmaModel,
    prompt: Prompt,
    max_tokens: int,
    *,
    eos_ids: Sequence[int],
    forbidden_ids: Sequence[int] = (),
    constraint: Constraint | None = None,
) -> list[int]:
    """The greedy tokens that follow `prompt`, without eos; rows that pad the vocabulary are never chosen."""
    device, text = model.projector.weight.device, model.config.text
    tokens, mask_ar = prompt.tokens[None].to(device), prompt.mask_ar[None].to(device)
    pixels = None if prompt.pixels is None else prompt.pixels.to(device)
    forbidden = {*range(text.vocab_size, text.embedding_rows), *forbidden_ids}
    state = constraint.start() if constraint else None
    for _ in range(max_tokens):
        logits = model(tokens, pixels, mask_ar)[0, -1]
        allowed = constraint.allowed(state) if constraint else None
        choices = sorted({*(range(len(logits)) if allowed is None else allowed)} - forbidden)
        token = choices[int(logits[choices].argmax())]
        if constraint and token == constraint.lone(state):
            others = [one for one in choices if one != token]
            if others and logits[others].logsumexp(-1) > logits[token]:
                token = others[int(logits[others].argmax())]
        if token in eos_ids:
            break
        state = constraint.advance(state, token) if constraint else None
        tokens = torch.cat((tokens, tokens.new_tensor([[token]])), dim=1)
        mask_ar = torch.cat((mask_ar, mask_ar.new_ones(1, 1)), dim=1)
    return tokens[0, len(prompt.tokens) :].tolist()
