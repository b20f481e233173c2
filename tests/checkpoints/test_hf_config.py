import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from tests.oracle import TINY

from paligemma.checkpoints.hf_config import (
    RESAMPLE,
    ImageSettings,
    config_json,
    parse_config,
    preprocessor_json,
    read_config,
    read_image_settings,
)
from paligemma.checkpoints.tensors import same_architecture
from paligemma.config import VARIANTS, Config
from paligemma.errors import CheckpointError, UsageError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
PG1 = {  # the sparse form of the published files
    "model_type": "paligemma", "image_token_index": 257152, "hidden_size": 2048, "projection_dim": 2048,
    "text_config": {
        "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_attention_heads": 8,
        "num_hidden_layers": 18, "num_key_value_heads": 1, "num_image_tokens": 256, "vocab_size": 257216,
        "torch_dtype": "float32",
    },
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16,
        "num_hidden_layers": 27, "patch_size": 14, "num_image_tokens": 256, "projector_hidden_act": "gelu_fast",
        "vision_use_head": False,
    },
}  # fmt: skip
PG2_10B = {
    **PG1, "_vocab_size": 257152, "hidden_size": 3584, "projection_dim": 3584,
    "text_config": {
        "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "num_attention_heads": 16,
        "num_hidden_layers": 42, "num_key_value_heads": 8, "attn_logit_softcapping": 50.0, "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0, "cache_implementation": "hybrid", "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256, "sliding_window": 4096, "vocab_size": 257216, "torch_dtype": "bfloat16",
    },
}  # fmt: skip


def changed(path, value, base=PG2_10B):
    """`base` with the value at a dotted path replaced."""
    data = json.loads(json.dumps(base))
    *parents, key = path.split(".")
    part = data
    for parent in parents:
        part = part[parent]
    part[key] = value
    return data


def test_published_files_become_published_architectures():
    assert parse_config(PG1, "x") == (Config.of("paligemma-3b-pt-224").with_padding_rows(), 257152)
    assert parse_config(PG2_10B, "x") == (Config.of("paligemma2-10b-pt-224").with_padding_rows(), 257152)


@pytest.mark.parametrize("name", ["hf-pg1-tiny", "hf-pg2-tiny"])
def test_golden_files_old_and_new_say_the_same(name):
    assert read_config(GOLDEN / name / "config.json") == read_config(GOLDEN / f"{name}-oldkeys.config.json")


OMITTABLE = [
    "vision_config", "text_config", "vision_config.hidden_size", "vision_config.intermediate_size",
    "vision_config.num_hidden_layers", "vision_config.num_attention_heads", "vision_config.patch_size",
    "vision_config.image_size", "text_config.hidden_size", "text_config.intermediate_size", "text_config.head_dim",
    "text_config.num_hidden_layers", "text_config.num_attention_heads", "text_config.num_key_value_heads",
    "text_config.sliding_window", "text_config.query_pre_attn_scalar", "text_config.attn_logit_softcapping",
    "text_config.final_logit_softcapping", "text_config.vocab_size", "image_token_index", "text_config.model_type",
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([PG1, PG2_10B]), st.sets(st.sampled_from(OMITTABLE), max_size=5))
def test_what_a_file_omits_means_what_transformers_assumes(base, omitted):
    from transformers import PaliGemmaConfig

    data = json.loads(json.dumps(base))
    for path in omitted:
        *parents, key = path.split(".")
        part = data
        for parent in parents:
            part = part.get(parent, {})
        part.pop(key, None)
    try:
        theirs = PaliGemmaConfig(**json.loads(json.dumps(data)))
    except ValueError:  # heads that do not divide the width
        reject()
    assume(theirs.vision_config.hidden_size % theirs.vision_config.num_attention_heads == 0)
    assume(theirs.text_config.num_attention_heads % theirs.text_config.num_key_value_heads == 0)
    assume(theirs.vision_config.image_size % theirs.vision_config.patch_size == 0)
    ours, image_token_id = parse_config(data, "x")
    text, vision = theirs.text_config, theirs.vision_config
    assert image_token_id == theirs.image_token_index
    assert ours.vision == replace(
        ours.vision, width=vision.hidden_size, depth=vision.num_hidden_layers, mlp_dim=vision.intermediate_size,
        num_heads=vision.num_attention_heads, image_size_px=vision.image_size, patch_size_px=vision.patch_size,
        norm_eps=vision.layer_norm_eps,
    )  # fmt: skip
    second = text.model_type == "gemma2"
    assert ours.text == replace(
        ours.text, width=text.hidden_size, depth=text.num_hidden_layers, mlp_dim=text.intermediate_size,
        num_heads=text.num_attention_heads, num_kv_heads=text.num_key_value_heads, head_dim=text.head_dim,
        norm_eps=text.rms_norm_eps, max_positions=text.max_position_embeddings, post_norms=second,
        rope_theta=text.rope_parameters["rope_theta"],
        attn_logit_softcap=text.attn_logit_softcapping if second else None,
        final_logit_softcap=text.final_logit_softcapping if second else None,
        sliding_window=text.sliding_window if second else None,
        query_scale_dim=text.query_pre_attn_scalar if second else None,
    )  # fmt: skip
    assert ours.text.embedding_rows == text.vocab_size


ROPE = {"rope_theta": 5000.0, "rope_type": "default"}


@pytest.mark.parametrize("changes", [{"rope_theta": 5000.0}, {"rope_parameters": ROPE}])
def test_rope_theta_is_read_in_both_places(changes):
    data = changed("text_config", PG2_10B["text_config"] | changes)
    assert parse_config(data, "x")[0].text.rope_theta == 5000.0


def test_layers_without_any_window():
    data = changed("text_config.layer_types", ["full_attention"] * 42)
    assert parse_config(data, "x")[0].text.sliding_window is None
    assert parse_config(changed("text_config.sliding_window", None), "x")[0].text.sliding_window is None


@pytest.mark.parametrize(
    ("rows", "stated", "expected"),
    [
        (257216, None, (257152, 64)),
        (257216, 257152, (257152, 64)),
        (257152, 257152, (257152, 0)),
        (320, 300, (300, 20)),
        (320, 257152, (320, 0)),  # an old class default, not this model's
        (257280, 257152, (257280, 0)),  # tokens added behind the padding
        (2368, None, (2368, 0)),
    ],
)
def test_padding_rows_are_told_from_vocabulary(rows, stated, expected):
    data = changed("text_config.vocab_size", rows) | ({} if stated is None else {"_vocab_size": stated})
    if stated is None:
        data.pop("_vocab_size")
    text = parse_config(data, "x")[0].text
    assert (text.vocab_size, text.padding_rows) == expected


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("model_type", "llava", "model_type"),
        ("auto_map", {"AutoModel": "evil.Model"}, "foreign code"),
        ("text_config.auto_map", {}, "foreign code"),
        ("trust_remote_code", True, "foreign code"),
        ("quantization_config", {"load_in_4bit": True}, "quantised"),
        ("text_config.model_type", "gemma3_text", "model_type"),
        ("vision_config.model_type", "clip_vision_model", "model_type"),
        ("text_config.attention_bias", True, "attention_bias"),
        ("text_config.hidden_activation", "relu", "hidden_activation"),
        ("text_config.hidden_activation", "gelu", "hidden_activation"),
        ("vision_config.hidden_act", "quick_gelu", "hidden_act"),
        ("vision_config.num_channels", 4, "num_channels"),
        ("text_config.layer_types", ["sliding_attention"] * 42, "layer_types"),
        ("text_config.layer_types", ["full_attention"], "layer_types"),
        ("text_config.use_bidirectional_attention", False, "use_bidirectional_attention"),
        ("text_config.rope_scaling", {"factor": 2.0}, "rope_scaling"),
        ("text_config.rope_parameters", {"rope_type": "yarn"}, "rope_type"),
        ("text_config.rope_parameters", 3, "rope_parameters"),
        ("text_config.tie_word_embeddings", False, "tie_word_embeddings"),
        ("tie_word_embeddings", False, "tie_word_embeddings"),
        ("text_config.hidden_size", "2304", "hidden_size"),
        ("text_config.hidden_size", True, "hidden_size"),
        ("text_config.hidden_size", 0, "hidden_size"),
        ("text_config.hidden_size", 10**30, "hidden_size"),
        ("text_config.num_hidden_layers", 10**9, "num_hidden_layers"),
        ("text_config.num_key_value_heads", 3, "evenly"),
        ("text_config.final_logit_softcapping", -1, "final_logit_softcapping"),
        ("vision_config.image_size", 225, "multiple"),
        ("vision_config.image_size", [224, 224], "image_size"),
        ("vision_config", 3, "vision_config"),
        ("image_token_index", -1, "image_token_index"),
    ],
)
def test_what_is_not_supported_is_refused(path, value, said):
    with pytest.raises(CheckpointError, match=re.escape(said)):
        parse_config(changed(path, value), "config.json")


def test_gemma_1_says_gelu_and_means_tanh():
    for key in ("hidden_act", "hidden_activation"):
        assert parse_config(changed(f"text_config.{key}", "gelu", PG1), "x") == parse_config(PG1, "x")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_type": NaN}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\udcff"]
)
def test_unreadable_json_is_one_sentence(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        read_config(path)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_survives_its_config_json(name):
    config = Config.of(name)
    for rows in (0, 64):
        padded = config.with_padding_rows(rows)
        back, token = parse_config(json.loads(json.dumps(config_json(padded, torch.bfloat16, 7))), "x")
        assert token == 7
        assert same_architecture(back, config)
        assert back.text.padding_rows == rows


@settings(max_examples=30)
@given(
    theta=st.floats(1.0, 1e6), eps=st.floats(1e-8, 1e-3), softcap=st.none() | st.floats(1.0, 100.0),
    window=st.none() | st.integers(1, 5000), scale=st.floats(1.0, 500.0), depth=st.integers(1, 5),
)  # fmt: skip
def test_config_json_is_invertible(theta, eps, softcap, window, scale, depth):
    text = replace(
        TINY[2].text, rope_theta=theta, norm_eps=eps, attn_logit_softcap=softcap, final_logit_softcap=softcap,
        sliding_window=window, query_scale_dim=scale, depth=depth,
    )  # fmt: skip
    config = replace(TINY[2], text=text)
    assert parse_config(json.loads(json.dumps(config_json(config, torch.float32, 3))), "x") == (config, 3)


def test_what_config_json_cannot_say_is_refused():
    strange = replace(TINY[1], text=replace(TINY[1].text, final_logit_softcap=30.0))
    with pytest.raises(UsageError, match="big_vision"):
        config_json(strange, torch.float32, 3)


@pytest.mark.parametrize("resize", RESAMPLE.values())
@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_image_settings_are_read_back(tmp_path, resize, name):
    config = TINY[1]
    content = preprocessor_json(config, ImageSettings(config.vision.image_size_px, resize))
    nested = {"image_processor": content, "processor_class": "PaliGemmaProcessor"}
    (tmp_path / name).write_text(json.dumps(nested if name.startswith("processor") else content))
    assert read_image_settings(tmp_path, config) == ImageSettings(config.vision.image_size_px, resize)


def test_without_a_file_pictures_are_resized_as_published(tmp_path):
    assert read_image_settings(tmp_path, TINY[1]) == ImageSettings(8, "bicubic")


@pytest.mark.parametrize(
    ("key", "value"), [("size", {"height": 16, "width": 16}), ("image_mean", [0.48, 0.45, 0.4]), ("do_rescale", False)]
)
def test_other_preprocessing_is_refused(tmp_path, key, value):
    content = preprocessor_json(TINY[1], ImageSettings(8)) | {key: value}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=key):
        read_image_settings(tmp_path, TINY[1])
