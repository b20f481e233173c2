"""Images and tokens -> logits. Tensors only: one device, no files, no text, no sampling."""

from paligemma.model.gemma import Cache, LanguageModel
from paligemma.model.layers import AttentionMask, attend, positions
from paligemma.model.loss import Targets, suffix_loss, suffix_sum
from paligemma.model.mask_codec import MaskCodec, MaskCodecConfig
from paligemma.model.paligemma import PaliGemmaModel
from paligemma.model.siglip import VisionTower, resample_positions

__all__ = [
    "AttentionMask",
    "Cache",
    "LanguageModel",
    "MaskCodec",
    "MaskCodecConfig",
    "PaliGemmaModel",
    "Targets",
    "VisionTower",
    "attend",
    "positions",
    "resample_positions",
    "suffix_loss",
    "suffix_sum",
]
