"""Tiny random models for the tests, and the oracle: the same weights as a Hugging Face model of transformers.

`draw_hf(config, seed)` makes a PaliGemma 1 or 2 of transformers, `copy_weights` our model of the same numbers,
`draw_pair(generation, seed)` both. `hf_inputs` turns our rows (image slots, mask_ar) into Hugging Face's keywords.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from paligemma.config import IMAGE_SLOT, Config, TextConfig, VisionConfig
from paligemma.model import PaliGemmaModel
from paligemma.processor import Encoded

VISION = VisionConfig(width=16, depth=2, mlp_dim=24, num_heads=2, image_size_px=8, patch_size_px=4)  # 4 tokens an image
TEXT_1 = TextConfig(
    width=32, depth=2, mlp_dim=48, num_heads=4, num_kv_heads=1, head_dim=8, vocab_size=40, padding_rows=8
)
TEXT_2 = replace(
    TEXT_1, depth=3, num_kv_heads=2, head_dim=12, post_norms=True, attn_logit_softcap=50.0, final_logit_softcap=30.0,
    sliding_window=6, query_scale_dim=10.0,
)  # fmt: skip
TINY = {1: Config(vision=VISION, text=TEXT_1), 2: Config(vision=VISION, text=TEXT_2)}
IMAGE_ID = TEXT_1.vocab_size  # Hugging Face's <image>: the first padding row
BOS, EOS = 2, 1


def randomize(model: torch.nn.Module, seed: int) -> Any:
    """Draws every parameter anew, matrices so that activations keep their size and logits spread widely."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim > 1 and "position" not in name
            fan_in = parameter[0].numel() if matrix else 1
            size = fan_in**-0.5 * 1.5 if matrix else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
            if name.endswith(("norm1.weight", "norm2.weight", "post_layernorm.weight")) and "vision" in name:
                parameter.add_(1.0)
    return model.eval()


def draw_model(config: Config, seed: int = 0) -> PaliGemmaModel:
    """Our model with random weights, ready to run."""
    return randomize(PaliGemmaModel(config), seed)


def hf_config(config: Config) -> Any:
    """The transformers configuration of `config`."""
    from transformers import Gemma2Config, GemmaConfig, PaliGemmaConfig, SiglipVisionConfig

    vision, text = config.vision, config.text
    shared = {
        "hidden_size": text.width, "num_hidden_layers": text.depth, "intermediate_size": text.mlp_dim,
        "num_attention_heads": text.num_heads, "num_key_value_heads": text.num_kv_heads, "head_dim": text.head_dim,
        "vocab_size": text.embedding_rows, "max_position_embeddings": 512, "hidden_activation": "gelu_pytorch_tanh",
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 0,
    }  # fmt: skip
    if text.post_norms:
        text_config = Gemma2Config(
            **shared, attn_logit_softcapping=text.attn_logit_softcap, final_logit_softcapping=text.final_logit_softcap,
            sliding_window=text.sliding_window, query_pre_attn_scalar=int(text.query_scale_dim),
        )  # fmt: skip
    else:
        text_config = GemmaConfig(**shared)
    vision_config = SiglipVisionConfig(
        hidden_size=vision.width, num_hidden_layers=vision.depth, intermediate_size=vision.mlp_dim,
        num_attention_heads=vision.num_heads, image_size=vision.image_size_px, patch_size=vision.patch_size_px,
        vision_use_head=False,
    )  # fmt: skip
    return PaliGemmaConfig(
        vision_config=vision_config, text_config=text_config, image_token_index=text.vocab_size,
        vocab_size=text.embedding_rows, projection_dim=text.width, hidden_size=text.width,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip


def draw_hf(config: Config, seed: int = 0) -> Any:
    """A random transformers model of `config`, eager attention."""
    from transformers import PaliGemmaForConditionalGeneration

    theirs = hf_config(config)
    theirs._attn_implementation = "eager"
    return randomize(PaliGemmaForConditionalGeneration(theirs), seed)


def copy_weights(hf: Any, config: Config) -> PaliGemmaModel:
    """Our model of `config` with the weights of the transformers model `hf`."""
    theirs = dict(hf.model.named_parameters())
    ours = PaliGemmaModel(config)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.copy_(theirs.pop(hf_name(name, config.text.post_norms)))
    assert not theirs, f"weights without a place: {sorted(theirs)}"
    return ours.eval()


def hf_name(name: str, post_norms: bool) -> str:
    """The transformers 5.23 name, below `hf.model`, of one of our parameters."""
    if name.startswith("projector"):
        return name.replace("projector", "multi_modal_projector.linear")
    if name.startswith("vision_tower"):
        name = name.replace("vision_tower.layers", "vision_tower.encoder.layers")
        name = name.replace("tower.patch_embedding", "tower.embeddings.patch_embedding")
        return name.replace("tower.position_embedding", "tower.embeddings.position_embedding.weight")
    before_ffw = "pre_feedforward_layernorm" if post_norms else "post_attention_layernorm"
    name = name.replace("pre_attention_norm", "input_layernorm").replace("pre_ffw_norm", before_ffw)
    return name.replace("post_attention_norm", "post_attention_layernorm").replace(
        "post_ffw_norm", "post_feedforward_layernorm"
    )


def draw_pair(generation: int, seed: int = 0, config: Config | None = None) -> tuple[Any, PaliGemmaModel]:
    """The same random weights in transformers and here; `config` replaces `TINY[generation]`."""
    config = config or TINY[generation]
    hf = draw_hf(config, seed)
    return hf, copy_weights(hf, config)


def hf_inputs(tokens: Tensor, pixels: Tensor | None, mask_ar: Tensor, mask_input: Tensor) -> dict[str, Any]:
    """Keywords of Hugging Face's forward for our rows; padding gets token type 0."""
    ids = tokens.masked_fill(tokens == IMAGE_SLOT, IMAGE_ID)
    types = mask_ar * mask_input
    return {"input_ids": ids, "pixel_values": pixels, "attention_mask": mask_input.long(), "token_type_ids": types}


def draw_prompt(config: Config, num_images: int, length: int, seed: int = 0, suffix: Sequence[int] = ()) -> Encoded:
    """One request without text: images, bos, `length` random tokens, then given suffix tokens (causal)."""
    generator = torch.Generator().manual_seed(seed)
    side = config.vision.image_size_px
    words = torch.randint(4, config.text.vocab_size, (length,), generator=generator).tolist()
    slots = [IMAGE_SLOT] * (num_images * config.vision.num_image_tokens)
    prefix = [*slots, BOS, *words]
    pixels = torch.randn(num_images, 3, side, side, generator=generator).clamp(-1, 1) if num_images else None
    return Encoded(
        tokens=torch.tensor([*prefix, *suffix]),
        pixels=pixels,
        mask_ar=torch.tensor([0] * len(prefix) + [1] * len(suffix)),
        mask_loss=torch.tensor([0] * len(prefix) + [1] * len(suffix)),
    )


def collate(prompts: Sequence[Any], side: str) -> SimpleNamespace:
    """Padded rows of several requests: tokens, pixels, mask_ar, mask_input, mask_loss."""
    length = max(len(p.tokens) for p in prompts)

    def padded(rows: list[Tensor], fill: int) -> Tensor:
        out = torch.full((len(rows), length), fill, dtype=torch.int64)
        for row, values in zip(out, rows, strict=True):
            start = length - len(values) if side == "left" else 0
            row[start : start + len(values)] = values
        return out

    images = [p.pixels for p in prompts if p.pixels is not None]
    return SimpleNamespace(
        tokens=padded([p.tokens for p in prompts], 0),
        pixels=torch.cat(images) if images else None,
        mask_ar=padded([p.mask_ar for p in prompts], 0 if side == "left" else 1),
        mask_input=padded([torch.ones_like(p.tokens) for p in prompts], 0).bool(),
        mask_loss=padded([p.mask_loss for p in prompts], 0),
    )
