"""Hugging Face's config.json and preprocessor_config.json <-> `Config` and `ImageSettings`.

Keys a file leaves out mean the class defaults of transformers, which are not the values of the released models.
Whatever changes the computation and is not supported here is an error, never ignored; anything that could run code is
refused.
Source: transformers 5.23 `configuration_{paligemma,gemma,gemma2,siglip}.py`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from paligemma.checkpoints.safetensors_io import read_json
from paligemma.checkpoints.tensors import dtype_name, split_vocabulary
from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.errors import CheckpointError, UsageError

log = logging.getLogger(__name__)

# What transformers assumes where a sub-config is given but says nothing, and where the whole sub-config is absent.
_SIGLIP: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
_SIGLIP_ABSENT = {
    "hidden_size": 1152, "intermediate_size": 4096, "num_hidden_layers": 27, "num_attention_heads": 16,
    "patch_size": 14,
}  # fmt: skip
_GEMMA: dict[str, Any] = {
    "vocab_size": 256_000, "hidden_size": 3072, "intermediate_size": 24_576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6, "attention_bias": False, "tie_word_embeddings": True,
}  # fmt: skip
_GEMMA2 = {
    **_GEMMA, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096, "layer_types": None,
    "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
}  # fmt: skip
_GEMMA_ABSENT = {
    "hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 16_384, "num_attention_heads": 8,
    "num_key_value_heads": 1, "vocab_size": 257_152,
}  # fmt: skip
_IMAGE_TOKEN = 256_000

# Read, or known not to change the computation.
_KNOWN = {
    *_SIGLIP, *_GEMMA2, "architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act",
    "ignore_index", "image_token_index", "image_token_id", "projection_dim", "text_config", "vision_config", "dtype",
    "torch_dtype", "transformers_version", "_vocab_size", "_name_or_path", "num_image_tokens", "attention_dropout",
    "initializer_range", "use_cache", "cache_implementation", "hidden_activation", "rope_theta", "rope_parameters",
    "rope_scaling", "num_positions", "projector_hidden_act", "vision_use_head", "use_bidirectional_attention",
    "is_encoder_decoder", "_attn_implementation_autoset", "unsloth_fixed", "unsloth_version", "return_dict",
    "output_attentions", "output_hidden_states", "num_labels", "id2label", "label2id", "chunk_size_feed_forward",
    "problem_type",
}  # fmt: skip
_TANH_GELU = "gelu_pytorch_tanh"
_MAX_SIZE = 10_000_000  # of any dimension: a damaged number must not become a loop or an allocation
_MAX_DEPTH = 1000

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers


@dataclass(frozen=True)
class ImageSettings:
    """How pictures become pixels: squashed to a square of `size_px` by the filter `resize`, values in [-1, 1]."""

    size_px: int
    resize: str = "bicubic"

    @property
    def resample(self) -> int:
        """Pillow's number of the filter."""
        return {name: number for number, name in RESAMPLE.items()}[self.resize]


class Keys:
    """One JSON object with defaults, read by type; `where` names it in messages."""

    def __init__(self, data: dict[str, Any], defaults: dict[str, Any], where: str):
        self.data, self.defaults, self.where = data, defaults, where

    def get(self, key: str) -> Any:
        return self.data.get(key, self.defaults.get(key))

    def fail(self, key: str, expected: str) -> NoReturn:
        raise CheckpointError(
            f"{self.where} says {key} = {str(self.get(key))[:80]!r}, expected {expected}; this model cannot be loaded"
        )

    def count(self, key: str, most: int = _MAX_SIZE, least: int = 1) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.fail(key, f"a whole number from {least} to {most:,}")
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            self.fail(key, "a positive number")
        return float(value)

    def number_or_none(self, key: str) -> float | None:
        return None if self.get(key) is None else self.number(key)

    def only(self, key: str, *allowed: Any) -> None:
        if not any(self.get(key) is value or self.get(key) == value for value in allowed):
            self.fail(key, " or ".join(map(repr, allowed)))


def read_config(path: Path) -> tuple[Config, int]:
    """Architecture and `<image>` token id of one config.json.

    Raises:
        CheckpointError: not readable, no PaliGemma, or an architecture this package does not compute.
    """
    return parse_config(read_json(path), str(path))


def parse_config(data: dict[str, Any], where: str) -> tuple[Config, int]:
    """As `read_config`, of the parsed object."""
    vision_data, text_data = (data.get(name) for name in ("vision_config", "text_config"))
    for name, part in (("vision_config", vision_data), ("text_config", text_data)):
        if part is not None and not isinstance(part, dict):
            raise CheckpointError(
                f"{where} has a {name} of type {type(part).__name__}, expected an object; use another file"
            )
    for name, part in (("", data), ("vision_config.", vision_data), ("text_config.", text_data)):
        _refuse_code(part or {}, where, name)
    top = Keys(data, {"image_token_index": _IMAGE_TOKEN}, where)
    top.only("model_type", "paligemma")
    top.only("tie_word_embeddings", None, True)
    vision = _vision(vision_data, f"{where}: vision_config")
    text = _text(text_data, f"{where}: text_config", data.get("_vocab_size"))
    image_key = "image_token_id" if "image_token_id" in data else "image_token_index"
    try:
        return Config(vision=VisionConfig(**vision), text=TextConfig(**text)), top.count(image_key, least=0)
    except UsageError as error:
        raise CheckpointError(f"{where} describes no possible architecture: {error}") from None


def _refuse_code(data: dict[str, Any], where: str, part: str) -> None:
    for key in data:
        if key == "auto_map" or "remote" in key or key == "custom_pipelines":
            raise CheckpointError(
                f"{where} asks for foreign code ({part}{key}), which is never run; use a plain PaliGemma"
            )
        if key == "quantization_config":
            raise CheckpointError(
                f"{where} belongs to a quantised checkpoint ({part}{key}), expected plain weights; "
                "take the unquantised ones and quantise while loading"
            )
    unknown = sorted(set(data) - _KNOWN)
    if unknown:
        log.info("%s: ignored %s", where, ", ".join(part + key[:60] for key in unknown[:20]))


def _vision(data: dict[str, Any] | None, where: str) -> dict[str, Any]:
    keys = Keys(data or {}, _SIGLIP if data is not None else {**_SIGLIP, **_SIGLIP_ABSENT}, where)
    keys.only("model_type", None, "siglip_vision_model")
    keys.only("hidden_act", _TANH_GELU)
    keys.only("num_channels", 3)
    return {
        "width": keys.count("hidden_size"),
        "depth": keys.count("num_hidden_layers", _MAX_DEPTH),
        "mlp_dim": keys.count("intermediate_size"),
        "num_heads": keys.count("num_attention_heads"),
        "image_size_px": keys.count("image_size", 100_000),
        "patch_size_px": keys.count("patch_size", 10_000),
        "norm_eps": keys.number("layer_norm_eps"),
    }


def _text(data: dict[str, Any] | None, where: str, meaningful_rows: Any) -> dict[str, Any]:
    generation2 = data is not None and data.get("model_type") == "gemma2"
    keys = Keys(
        data or {}, _GEMMA2 if generation2 else _GEMMA if data is not None else {**_GEMMA, **_GEMMA_ABSENT}, where
    )
    keys.only("model_type", *(("gemma2",) if generation2 else (None, "gemma")))
    keys.only("attention_bias", False)
    keys.only("tie_word_embeddings", True)
    keys.only("use_bidirectional_attention", None, True)
    # Gemma 1 files say "gelu" where they mean the tanh form; transformers corrects it too.
    for key in ("hidden_activation",) if generation2 else ("hidden_act", "hidden_activation"):
        keys.only(key, None, _TANH_GELU, *(() if generation2 else ("gelu",)))
    stated = meaningful_rows if isinstance(meaningful_rows, int) and meaningful_rows > 0 else None
    vocab_size, padding_rows = split_vocabulary(keys.count("vocab_size"), stated)
    fields: dict[str, Any] = {
        "width": keys.count("hidden_size"),
        "depth": keys.count("num_hidden_layers", _MAX_DEPTH),
        "mlp_dim": keys.count("intermediate_size"),
        "num_heads": keys.count("num_attention_heads"),
        "num_kv_heads": keys.count("num_key_value_heads"),
        "head_dim": keys.count("head_dim"),
        "vocab_size": vocab_size,
        "padding_rows": padding_rows,
        "rope_theta": _rope_theta(keys),
        "max_positions": keys.count("max_position_embeddings"),
        "norm_eps": keys.number("rms_norm_eps"),
    }
    if generation2:
        fields |= {
            "post_norms": True,
            "attn_logit_softcap": keys.number_or_none("attn_logit_softcapping"),
            "final_logit_softcap": keys.number_or_none("final_logit_softcapping"),
            "sliding_window": _window(keys, fields["depth"]),
            "query_scale_dim": keys.number("query_pre_attn_scalar"),
        }
    else:
        keys.only("layer_types", None, ["full_attention"] * fields["depth"])
    return fields


def _rope_theta(keys: Keys) -> float:
    keys.only("rope_scaling", None)
    parameters = keys.get("rope_parameters")
    if parameters is None:
        return keys.number("rope_theta") if "rope_theta" in keys.data else 10_000.0
    if not isinstance(parameters, dict):
        keys.fail("rope_parameters", "an object")
    inner = Keys(parameters, {"rope_theta": keys.data.get("rope_theta", 10_000.0)}, f"{keys.where}.rope_parameters")
    inner.only("rope_type", None, "default")
    inner.only("type", None, "default")
    inner.only("partial_rotary_factor", None, 1.0)
    return inner.number("rope_theta")


def _window(keys: Keys, depth: int) -> int | None:
    """The sliding window of the even layers; the only pattern there is, besides none at all."""
    types = keys.get("layer_types")
    alternating = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(depth)]
    if types == ["full_attention"] * depth and types != alternating:
        return None
    if types is not None and types != alternating:
        keys.fail("layer_types", "sliding_attention and full_attention in turn")
    return None if keys.get("sliding_window") is None else keys.count("sliding_window")


# --- writing ---------------------------------------------------------------------------------------------------------


def config_json(config: Config, dtype: torch.dtype, image_token_id: int) -> dict[str, Any]:
    """The inverse of `parse_config`, complete enough for transformers since 4.41."""
    vision, text = config.vision, config.text
    name = dtype_name(dtype)
    _refuse_inexpressible(text)
    text_part: dict[str, Any] = {
        "model_type": "gemma2" if text.post_norms else "gemma",
        "hidden_size": text.width,
        "num_hidden_layers": text.depth,
        "intermediate_size": text.mlp_dim,
        "num_attention_heads": text.num_heads,
        "num_key_value_heads": text.num_kv_heads,
        "head_dim": text.head_dim,
        "vocab_size": text.embedding_rows,
        "max_position_embeddings": text.max_positions,
        "rms_norm_eps": text.norm_eps,
        "rope_theta": text.rope_theta,
        "hidden_act": _TANH_GELU,
        "hidden_activation": _TANH_GELU,
        "num_image_tokens": vision.num_image_tokens,
        "torch_dtype": name,
    }
    if text.post_norms:
        scale_dim = text.query_scale_dim or text.head_dim
        text_part |= {
            "attn_logit_softcapping": text.attn_logit_softcap,
            "final_logit_softcapping": text.final_logit_softcap,
            "sliding_window": text.sliding_window,
            "query_pre_attn_scalar": int(scale_dim) if float(scale_dim).is_integer() else scale_dim,
        }
        if text.sliding_window is None:
            text_part["layer_types"] = ["full_attention"] * text.depth
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "_vocab_size": text.vocab_size,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "hidden_size": text.width,
        "image_token_index": image_token_id,
        "projection_dim": text.width,
        "torch_dtype": name,
        "text_config": text_part,
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": vision.width,
            "num_hidden_layers": vision.depth,
            "intermediate_size": vision.mlp_dim,
            "num_attention_heads": vision.num_heads,
            "image_size": vision.image_size_px,
            "patch_size": vision.patch_size_px,
            "layer_norm_eps": vision.norm_eps,
            "hidden_act": _TANH_GELU,
            "num_image_tokens": vision.num_image_tokens,
            "projection_dim": text.width,
            "vision_use_head": False,
            "torch_dtype": name,
        },
    }


def _refuse_inexpressible(text: TextConfig) -> None:
    """Gemma 1 has no field for what only Gemma 2 has."""
    special = text.attn_logit_softcap or text.final_logit_softcap or text.sliding_window
    if not text.post_norms and (special or text.query_scale != text.head_dim**-0.5):
        raise UsageError(
            "this architecture has no post-norms but soft-caps, a window or a query scale of its own, which "
            "Hugging Face's config.json cannot say; save it as big_vision"
        )


def preprocessor_json(config: Config, image: ImageSettings) -> dict[str, Any]:
    return {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "PaliGemmaProcessor",
        "do_convert_rgb": None,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_seq_length": config.vision.num_image_tokens,
        "resample": image.resample,
        "rescale_factor": 1 / 255,
        "size": {"height": image.size_px, "width": image.size_px},
    }


def read_image_settings(directory: Path, config: Config) -> ImageSettings:
    """From preprocessor_config.json, or the processor_config.json of transformers 5; bicubic where there is neither.

    Raises:
        CheckpointError: another size than the model's, or a normalisation PaliGemma does not use.
    """
    side = config.vision.image_size_px
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = directory / name
        data = read_json(path) if path.is_file() else {}
        data = data.get("image_processor", data) if name.startswith("processor") else data
        if isinstance(data, dict) and "size" in data:
            break
    else:
        return ImageSettings(side)
    keys = Keys(data, {"resample": 3}, str(path))
    keys.only("size", {"height": side, "width": side})
    for key, allowed in (("image_mean", [0.5] * 3), ("image_std", [0.5] * 3)):
        keys.only(key, None, allowed)
    for key in ("do_resize", "do_rescale", "do_normalize"):
        keys.only(key, None, True)
    keys.only("resample", *RESAMPLE)
    return ImageSettings(side, RESAMPLE[keys.count("resample", least=0)])
