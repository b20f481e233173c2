"""PaliGemma: pixels and tokens -> hidden states and logits.

    [image tokens][bos prefix \\n][suffix eos][padding]
     \\______ sees itself whole __/ \\_ causal __/

Image features enter unscaled, text embeddings times sqrt(width). `IMAGE_SLOT` marks the places of image tokens in a
token row: it is no vocabulary id, so nothing a user types can ever become one. Source: big_vision
`models/proj/paligemma/paligemma.py`.
"""

import torch
from torch import Tensor, nn

from paligemma.config import IMAGE_SLOT, Config
from paligemma.errors import InputError
from paligemma.model.gemma import Cache, LanguageModel
from paligemma.model.layers import AttentionMask, project
from paligemma.model.siglip import VisionTower


class PaliGemmaModel(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config.vision)
        self.projector = nn.Linear(config.vision.width, config.text.width)  # img/head
        self.language_model = LanguageModel(config.text)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """float[I, num_image_tokens, D]: soft tokens of `pixels`, float32[I, 3, S, S] in [-1, 1]."""
        side = self.config.vision.image_size_px
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, side, side):
            raise InputError(
                f"pixels of shape {tuple(pixels.shape)} do not fit this model; it takes [I, 3, {side}, {side}]"
            )
        return project(self.projector, self.vision_tower(pixels))

    def embed(self, tokens: Tensor, image_features: Tensor | None = None) -> Tensor:
        """[B, T, D]: text rows by embedding, `IMAGE_SLOT`s filled in order with `image_features` [I, N, D].

        Raises:
            InputError: the slots and the features differ in number; filling them anyway would shift every image.
        """
        is_image = tokens == IMAGE_SLOT
        x = self.language_model.embed(tokens.masked_fill(is_image, 0))
        given = 0 if image_features is None else image_features.shape[0] * image_features.shape[1]
        slots = int(is_image.sum())
        if slots != given:
            per_image = self.config.vision.num_image_tokens
            raise InputError(
                f"the tokens have {slots} image slots but {given} image features were given; "
                f"this model takes {per_image} per image, so let the processor insert them"
            )
        if image_features is None:
            return x
        return x.masked_scatter(is_image[..., None], image_features.to(x.dtype))

    def forward(
        self,
        tokens: Tensor,
        pixels: Tensor | None = None,
        mask_ar: Tensor | None = None,
        mask_input: Tensor | None = None,
    ) -> Tensor:
        """Logits float[B, T, V] of whole sequences, without cache.

        Args:
            tokens: int64[B, T], `IMAGE_SLOT` where image features go.
            pixels: float32[I, 3, S, S], all images of the batch in the order of their slots.
            mask_ar: int64[B, T], 0 image and prefix, 1 suffix; default all prefix.
            mask_input: bool[B, T], False where padding (either side); default none.
        """
        return self.language_model.logits(self.hidden(tokens, pixels, mask_ar, mask_input))

    def hidden(
        self,
        tokens: Tensor,
        pixels: Tensor | None = None,
        mask_ar: Tensor | None = None,
        mask_input: Tensor | None = None,
    ) -> Tensor:
        """Hidden states float[B, T, D] after the final norm; arguments as for `forward`."""
        mask_ar = torch.zeros_like(tokens) if mask_ar is None else mask_ar
        mask_input = torch.ones_like(tokens, dtype=torch.bool) if mask_input is None else mask_input.bool()
        features = None if pixels is None else self.encode_images(pixels)
        mask = AttentionMask.prefix_lm(mask_ar, mask_input)
        return self.decode(self.embed(tokens, features), mask)

    def decode(self, x: Tensor, mask: AttentionMask, cache: Cache | None = None) -> Tensor:
        """Hidden states of embeddings `x` [B, T, D] under `mask`, through `cache` if there is one."""
        return self.language_model(x, mask.query_position, mask, cache)
