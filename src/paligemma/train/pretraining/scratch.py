"""Weights to begin from where there are none: random, and such that training starts well."""

import math

import torch

from paligemma.config import NUM_LOC_TOKENS
from paligemma.model import PaliGemmaModel

EMBEDDING_STD = 0.05
WAVES = 32  # frequencies in a location token's first embedding
WAVE_SIZE = 0.07
_INTO_THE_STREAM = ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")


def initialise(model: PaliGemmaModel, *, seed: int, first_location: int) -> None:
    """Normal weights of size 1/sqrt(fan in), those that write into the residual stream smaller by sqrt(depth).

    Location rows start as smooth waves of their bin, so that neighbouring bins begin alike. Biases are zero, norms at
    their neutral start.

    Args:
        first_location: id of `<loc0000>`.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = model.config.text.depth + model.config.vision.depth
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
            if parameter.ndim == 1:
                continue
            std = EMBEDDING_STD if "embed_tokens" in name or "position" in name else parameter[0].numel() ** -0.5
            if name.endswith(_INTO_THE_STREAM):
                std /= depth**0.5
            parameter.normal_(0, std, generator=generator)
        rows = model.language_model.embed_tokens.weight
        rows[first_location : first_location + NUM_LOC_TOKENS] = _waves(rows.shape[1], generator)


def _waves(width: int, generator: torch.Generator) -> torch.Tensor:
    """float32[1024, width]: sines and cosines of the bin, mixed at random."""
    where = torch.linspace(0, 1, NUM_LOC_TOKENS)[:, None]
    frequency = math.pi * 2 ** torch.linspace(-1, 6, WAVES)[None]
    waves = torch.cat(((frequency * where).sin(), (frequency * where).cos()), dim=1)
    mix = torch.randn(2 * WAVES, width, generator=generator) / (2 * WAVES) ** 0.5
    return WAVE_SIZE * waves @ mix
