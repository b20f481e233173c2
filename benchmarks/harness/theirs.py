"""The configuration of transformers for one of ours of the second generation."""

from typing import Any

from paligemma.config import Config


def hf_config(config: Config) -> Any:
    from transformers import Gemma2Config, PaliGemmaConfig, SiglipVisionConfig

    vision, text = config.vision, config.text
    text_config = Gemma2Config(
        hidden_size=text.width, num_hidden_layers=text.depth, intermediate_size=text.mlp_dim,
        num_attention_heads=text.num_heads, num_key_value_heads=text.num_kv_heads, head_dim=text.head_dim,
        vocab_size=text.embedding_rows, hidden_activation="gelu_pytorch_tanh", sliding_window=text.sliding_window,
        attn_logit_softcapping=text.attn_logit_softcap, final_logit_softcapping=text.final_logit_softcap,
        query_pre_attn_scalar=int(text.query_scale_dim or text.head_dim),
    )  # fmt: skip
    vision_config = SiglipVisionConfig(
        hidden_size=vision.width, num_hidden_layers=vision.depth, intermediate_size=vision.mlp_dim,
        num_attention_heads=vision.num_heads, image_size=vision.image_size_px, patch_size=vision.patch_size_px,
        vision_use_head=False,
    )  # fmt: skip
    return PaliGemmaConfig(
        vision_config=vision_config, text_config=text_config, image_token_index=text.vocab_size,
        projection_dim=text.width,
    )  # fmt: skip
