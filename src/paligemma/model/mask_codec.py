"""The 16-token mask codec: a 64 x 64 mask <-> 16 codes of a learnt codebook. A small VQ-VAE.

In: masks float32[B, 64, 64] in 0..1 -> codes int64[B, 16], raster order of a 4 x 4 grid. Back: codes -> masks about
[-1, 1], above 0 where the object is. Not done here: files, boxes, pasting a mask into a picture.
Submodules are named and numbered as in `vae-oid.npz`. Source: Ning et al., All in Tokens (arXiv 2301.02229); widths of
the decoder from big_vision `evaluators/proj/paligemma/transfers/segmentation.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MASK_SIDE = 64
GRID_SIDE = 4  # the mask after four halvings


@dataclass(frozen=True, kw_only=True)
class MaskCodecConfig:
    """Sizes of one codec; the defaults are those of the published one.

    Args:
        encoder_widths: channels after each of the four halvings, the last one also inside the encoder's blocks.
        decoder_widths: channels before the doublings, then after each of the four.
    """

    num_codes: int = 128
    embedding_dim: int = 512
    encoder_widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    decoder_widths: tuple[int, int, int, int, int] = (128, 128, 64, 32, 16)

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> "MaskCodecConfig":
        """The sizes behind a file's array shapes, by parameter name.

        Raises:
            KeyError: an array that tells a size is missing.
        """
        encoder = [shapes[f"encoder.{i}.weight"][0] for i in (0, 2, 4, 6)]
        decoder = [shapes["decoder.0.weight"][0], *(shapes[f"decoder.{i}.weight"][1] for i in (4, 6, 8, 10))]
        num_codes, embedding_dim = shapes["embedding"]
        return cls(
            num_codes=num_codes,
            embedding_dim=embedding_dim,
            encoder_widths=(encoder[0], encoder[1], encoder[2], encoder[3]),
            decoder_widths=(decoder[0], decoder[1], decoder[2], decoder[3], decoder[4]),
        )


class ResidualBlock(nn.Module):
    """Adds two 3 x 3 convolutions and a 1 x 1; nothing is rectified after the sum."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def _encoder(config: MaskCodecConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 1
    for width in config.encoder_widths:
        layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.ReLU()]
        before = width
    return nn.Sequential(
        *layers, ResidualBlock(before), ResidualBlock(before), nn.Conv2d(before, config.embedding_dim, 1)
    )


def _decoder(config: MaskCodecConfig) -> nn.Sequential:
    before, *doublings = config.decoder_widths
    layers: list[nn.Module] = [nn.Conv2d(config.embedding_dim, before, 1), nn.ReLU()]
    layers += [ResidualBlock(before), ResidualBlock(before)]
    for width in doublings:
        layers += [nn.ConvTranspose2d(before, width, 4, stride=2, padding=1), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Conv2d(before, 1, 1))


class MaskCodec(nn.Module):
    """The trained pair with its codebook, `embedding`, float32[num_codes, embedding_dim]."""

    def __init__(self, config: MaskCodecConfig | None = None):
        super().__init__()
        self.config = config or MaskCodecConfig()
        self.encoder = _encoder(self.config)
        self.decoder = _decoder(self.config)
        self.embedding = nn.Parameter(torch.zeros(self.config.num_codes, self.config.embedding_dim))

    def features(self, masks: Tensor) -> Tensor:
        """float32[B, 16, E] before the nearest code is taken; masks float32[B, 64, 64] in 0..1."""
        assert masks.shape[1:] == (MASK_SIDE, MASK_SIDE), f"masks are {list(masks.shape)}"
        encoded: Tensor = self.encoder(2 * masks[:, None] - 1)
        return encoded.flatten(2).transpose(1, 2)

    def distances(self, features: Tensor) -> Tensor:
        """float32[..., num_codes]: squared distances of features [..., E] to every code."""
        squares = features.square().sum(-1, keepdim=True) + self.embedding.square().sum(-1)
        return squares - 2 * features @ self.embedding.T

    def encode(self, masks: Tensor) -> Tensor:
        """int64[B, 16]: the nearest codes of masks float32[B, 64, 64] in 0..1."""
        return self.distances(self.features(masks)).argmin(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """float32[B, 64, 64], about [-1, 1] and not clipped, of codes int64[B, 16]."""
        return self.decode_features(self.embedding[codes])

    def decode_features(self, features: Tensor) -> Tensor:
        """float32[B, 64, 64] of codebook vectors [B, 16, E]."""
        grid = features.transpose(1, 2).unflatten(2, (GRID_SIDE, GRID_SIDE))
        decoded: Tensor = self.decoder(grid)
        return decoded[:, 0]
