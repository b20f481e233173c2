"""Which weights a model has, as one sha256: the same in any of its file formats, and in float32 as in bfloat16.

In: a model, before anything in it is quantised or adapted. Out: hexadecimal digits, which an adapter's file keeps. The
table of positions does not count, which another resolution resamples.
"""

import hashlib

import torch

from paligemma.checkpoints.load import POSITIONS
from paligemma.model import PaliGemmaModel

SAMPLE = 1024  # numbers of each end of a tensor: a fine-tune moves them all, and a 6 GB file is not read whole


@torch.no_grad()
def fingerprint(model: PaliGemmaModel) -> str:
    """sha256 over name, shape, first and last numbers of every parameter, rounded to bfloat16.

    Padding rows of the vocabulary, which one format has and the other has not, do not count.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name == POSITIONS:
            continue
        tensor = parameter[: model.config.text.vocab_size] if name.endswith("embed_tokens.weight") else parameter
        flat = tensor.reshape(-1)
        ends = torch.cat([flat[:SAMPLE], flat[-SAMPLE:]]).to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(ends.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
