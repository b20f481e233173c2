import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.oracle import TINY, copy_weights, draw_hf, draw_model, draw_prompt, hf_inputs

from paligemma.checkpoints.conversion import save
from paligemma.checkpoints.hf import LAYOUTS, TOKENIZER_FILES, hf_key, pad_rows, padded_for_image_token
from paligemma.checkpoints.load import load_checkpoint
from paligemma.config import Config
from paligemma.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
GENERATIONS = (1, 2)
ANCHORS = {  # (ours, generation 1 on the hub, generation 2 on the hub)
    "vision_tower.position_embedding": ("vision_tower.vision_model.embeddings.position_embedding.weight",) * 2,
    "vision_tower.patch_embedding.bias": ("vision_tower.vision_model.embeddings.patch_embedding.bias",) * 2,
    "vision_tower.layers.26.mlp.fc2.bias": ("vision_tower.vision_model.encoder.layers.26.mlp.fc2.bias",) * 2,
    "vision_tower.post_layernorm.weight": ("vision_tower.vision_model.post_layernorm.weight",) * 2,
    "projector.weight": ("multi_modal_projector.linear.weight",) * 2,
    "language_model.embed_tokens.weight": ("language_model.model.embed_tokens.weight",) * 2,
    "language_model.norm.weight": ("language_model.model.norm.weight",) * 2,
    "language_model.layers.3.self_attn.o_proj.weight": ("language_model.model.layers.3.self_attn.o_proj.weight",) * 2,
    "language_model.layers.3.pre_attention_norm.weight": ("language_model.model.layers.3.input_layernorm.weight",) * 2,
    "language_model.layers.3.pre_ffw_norm.weight": (
        "language_model.model.layers.3.post_attention_layernorm.weight",
        "language_model.model.layers.3.pre_feedforward_layernorm.weight",
    ),
    "language_model.layers.3.post_attention_norm.weight": (
        None, "language_model.model.layers.3.post_attention_layernorm.weight",
    ),
    "language_model.layers.3.post_ffw_norm.weight": (
        None, "language_model.model.layers.3.post_feedforward_layernorm.weight",
    ),
}  # fmt: skip


def weights(model):
    return model.state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rename(directory, change):
    """Renames keys of the single weight file; None drops one."""
    path = directory / "model.safetensors"
    tensors = {new: t.clone() for key, t in load_file(path).items() if (new := change(key))}
    save_file(tensors, path)


@pytest.fixture(params=GENERATIONS)
def saved(request, tmp_path):
    """(directory, model) of a small random model as the hub would have it."""
    model = draw_model(TINY[request.param], seed=request.param)
    save(model, tmp_path / "m")
    return tmp_path / "m", model


@pytest.mark.parametrize("name", ANCHORS)
def test_names_on_the_hub(name):
    for post_norms, key in zip((False, True), ANCHORS[name], strict=True):
        if key is not None:
            assert hf_key(name, post_norms) == key


def test_layouts_differ_in_prefixes_only():
    name = "vision_tower.layers.0.layer_norm1.bias"
    found = {layout: hf_key(name, True, layout).removesuffix("encoder.layers.0.layer_norm1.bias") for layout in LAYOUTS}
    assert found == {
        "hub": "vision_tower.vision_model.",
        "4.5x": "model.vision_tower.vision_model.",
        "5.23": "model.vision_tower.",
    }


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shard_bytes", [10_000, 10**9])
def test_transformers_loads_what_is_saved(tmp_path, generation, layout, shard_bytes):
    """No missing and no unexpected key, every weight equal, the same configuration and logits."""
    from transformers import PaliGemmaForConditionalGeneration

    config = TINY[generation]
    model = draw_model(config)
    files = save(model, tmp_path, layout=layout, shard_bytes=shard_bytes)
    assert (len(files) > 4) == (shard_bytes < 10**9)
    theirs, info = PaliGemmaForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    assert equal(weights(copy_weights(theirs, config)), weights(model))
    prompt = draw_prompt(config, 1, 6, suffix=[5, 7])
    row = {"tokens": prompt.tokens[None], "pixels": prompt.pixels, "mask_ar": prompt.mask_ar[None]}
    with torch.no_grad():
        ours = model(**row)
        logits = theirs(**hf_inputs(**row, mask_input=torch.ones_like(row["tokens"]))).logits
    assert (ours - logits).abs().max() < 1e-4


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_what_transformers_saves_is_loaded(tmp_path, generation, dtype, shards):
    theirs = draw_hf(TINY[generation]).to(dtype)
    theirs.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards == "20KB")
    found = load_checkpoint(tmp_path)
    expected = copy_weights(theirs, TINY[generation]).to(dtype)
    assert found.dtype == dtype
    assert equal(weights(found.model), weights(expected))
    assert found.image_token_id == theirs.config.image_token_index


@pytest.mark.parametrize("head", ["language_model.lm_head.weight", "lm_head.weight"])
def test_a_stored_head_must_equal_the_embedding(saved, head):
    directory, model = saved
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors[head] = tensors["language_model.model.embed_tokens.weight"].clone()
    save_file(tensors, path)
    assert equal(weights(load_checkpoint(directory).model), weights(model))
    tensors[head][0, 0] += 1
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="expected one tied table"):
        load_checkpoint(directory)


def test_a_head_may_stand_for_the_embedding(saved):
    directory, model = saved
    rename(directory, lambda key: "lm_head.weight" if "embed_tokens" in key else key)
    assert equal(weights(load_checkpoint(directory).model), weights(model))


def test_constants_of_old_files_are_no_weights(saved):
    directory, model = saved
    path = directory / "model.safetensors"
    extra = {
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(4)[None],
    }
    save_file(load_file(path) | extra, path)
    assert equal(weights(load_checkpoint(directory).model), weights(model))


def test_missing_unknown_and_misshapen_tensors_are_named(saved):
    directory, _ = saved
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["language_model.model.norm.bias"] = tensors.pop("language_model.model.norm.weight")
    tensors["multi_modal_projector.linear.bias"] = torch.ones(3)
    save_file(tensors, path)
    expected = (
        r"1 missing \(language_model.model.norm.weight\); 1 unknown \(language_model.model.norm.bias\); "
        r"1 of another shape \(multi_modal_projector.linear.bias \[3\] instead of \[32\]\)"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(directory)


def test_missing_names_follow_the_layout_of_the_file(saved):
    directory, model = saved
    save(model, directory, layout="5.23", overwrite=True)
    rename(directory, lambda key: None if key.endswith("post_layernorm.bias") else key)
    with pytest.raises(CheckpointError, match=r"1 missing \(model.vision_tower.post_layernorm.bias\)"):
        load_checkpoint(directory)


def test_the_same_tensor_in_two_layouts(saved):
    directory, _ = saved
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.language_model.norm.weight"] = tensors["language_model.model.norm.weight"].clone()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="the same tensor; keep one"):
        load_checkpoint(directory)


def test_the_other_generations_weights_are_refused(tmp_path):
    for generation in GENERATIONS:
        save(draw_model(TINY[generation]), tmp_path / str(generation))
    configs = {generation: (tmp_path / str(generation) / "config.json").read_text() for generation in GENERATIONS}
    for generation, said in ((1, "missing"), (2, "unknown")):
        (tmp_path / str(generation) / "config.json").write_text(configs[3 - generation])
        with pytest.raises(CheckpointError, match=said):
            load_checkpoint(tmp_path / str(generation))


def test_a_published_shape_is_recognised(tmp_path):
    """Only the four telling shapes and the number of layers count; the tensors themselves are a byte each."""
    from paligemma.checkpoints.hf import resemblance

    config = Config.of("paligemma2-10b-mix-448")
    for layout in LAYOUTS:
        shapes = {
            hf_key("language_model.embed_tokens.weight", True, layout): (257216, config.text.width),
            hf_key("vision_tower.position_embedding", True, layout): (1024, 1152),
            hf_key("vision_tower.patch_embedding.weight", True, layout): (1152, 3, 14, 14),
        }
        shapes |= {hf_key(f"language_model.layers.{i}.norm.weight", True, layout): (1,) for i in range(42)}
        assert resemblance(shapes) == "paligemma2-10b at 448 px"


@pytest.mark.parametrize("stored", [torch.int8, torch.float8_e4m3fn, torch.uint8])
def test_quantised_weights_are_refused(saved, stored):
    directory, _ = saved
    path = directory / "model.safetensors"
    tensors = load_file(path)
    key = "language_model.model.layers.0.mlp.up_proj.weight"
    tensors[key] = tensors[key].to(stored)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=re.escape(f"stores {key} as")):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    ("vocab", "rows", "token", "expected"),
    [
        (257152, 0, None, (257216, 257152)),
        (257152, 64, 257152, (257216, 257152)),
        (320, 0, None, (384, 320)),
        (2368, 0, 2352, (2368, 2352)),
        (2560, 0, 2560, (2624, 2560)),
    ],
)
def test_the_image_token_gets_a_row(vocab, rows, token, expected):
    config = Config.from_dict(TINY[1].to_dict() | {"text": TINY[1].to_dict()["text"] | {"vocab_size": vocab}})
    padded, found = padded_for_image_token(config.with_padding_rows(rows), token)
    assert (padded.text.embedding_rows, found) == expected
    assert padded.text.vocab_size == vocab


def test_new_rows_never_win():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(40, 16, generator=generator)
    padded = pad_rows(table, 64)
    logits = torch.randn(1000, 16, generator=generator) @ padded.T
    assert (logits.argmax(-1) < 40).all()
    assert torch.equal(padded[:40], table)


def test_side_files_are_those_of_the_hub(tmp_path):
    from transformers import AutoConfig, AutoImageProcessor, GenerationConfig

    source = tmp_path / "tokenizer"
    source.mkdir()
    for name in TOKENIZER_FILES:
        (source / name).write_text(name)
    (source / "secret.txt").write_text("not copied")
    save(draw_model(TINY[2]), tmp_path / "m", tokenizer_path=source)
    assert {p.name for p in (tmp_path / "m").iterdir()} == {
        "model.safetensors", "config.json", "generation_config.json", "preprocessor_config.json", *TOKENIZER_FILES,
    }  # fmt: skip
    found = load_checkpoint(tmp_path / "m")
    assert found.tokenizer_path == tmp_path / "m"
    assert (found.image.size_px, found.image.resize) == (8, "bicubic")
    for name in TOKENIZER_FILES:  # transformers would try to read them
        (tmp_path / "m" / name).unlink()
    assert AutoConfig.from_pretrained(tmp_path / "m").vision_config.image_size == 8
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == 1
    processor = AutoImageProcessor.from_pretrained(tmp_path / "m", backend="pil")
    assert (processor.size["height"], int(processor.resample)) == (8, 3)


def test_golden_directories_are_written_as_they_were(tmp_path):
    """Weights, `<image>` id and shapes of a golden model survive; so does every key its configuration had."""
    golden = GOLDEN / "hf-pg2-tiny"
    found = load_checkpoint(golden)
    save(found.model, tmp_path, image_token_id=found.image_token_id)
    before, after = (json.loads((p / "config.json").read_text()) for p in (golden, tmp_path))
    assert after["image_token_index"] == before["image_token_index"]
    for part in ("text_config", "vision_config"):
        shared = before[part].keys() & after[part].keys()
        assert {k: after[part][k] for k in shared} == {k: before[part][k] for k in shared}
    assert equal(load_file(golden / "model.safetensors"), load_file_renamed(tmp_path))


def load_file_renamed(directory):
    return {key.replace(".vision_model", ""): t for key, t in load_file(directory / "model.safetensors").items()}
