import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import draw_model

from paligemma.checkpoints.big_vision import infer_config, places, read_stacks, write_npz
from paligemma.checkpoints.conversion import save
from paligemma.checkpoints.load import load_checkpoint
from paligemma.checkpoints.tensors import ModelTensors, parameter_shapes
from paligemma.config import IMAGE_SLOT, VARIANTS, Config, TextConfig, VisionConfig
from paligemma.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
GENERATIONS = ("v1", "v2")
VISION = VisionConfig(width=12, depth=2, mlp_dim=10, num_heads=3, image_size_px=6, patch_size_px=3)
TEXT = TextConfig(width=10, depth=3, mlp_dim=14, num_heads=4, num_kv_heads=2, head_dim=6, vocab_size=11)
GEMMA2 = {
    "post_norms": True, "attn_logit_softcap": 50.0, "final_logit_softcap": 30.0, "sliding_window": 4096,
    "query_scale_dim": 6.0,
}  # fmt: skip
SMALL = {"v1": Config(vision=VISION, text=TEXT), "v2": Config(vision=VISION, text=replace(TEXT, **GEMMA2))}


def golden_files():
    return sorted(path for v in GENERATIONS for path in (GOLDEN / f"bv-{v}-tiny").glob("ckpt.*.npz"))


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def write_plain(config, path):
    """A file without a sidecar: its shapes must do."""
    model = draw_model(config)
    write_npz(ModelTensors(model), config, path, dtype=torch.float32, params_prefix=True)
    return path, model


def rewrite(path, change):
    """The archive with `change(dict of arrays)` applied."""
    arrays = dict(np.load(path, allow_pickle=False))
    change(arrays)
    np.savez(path, **arrays)


@pytest.mark.parametrize("path", golden_files(), ids=lambda p: f"{p.parent.name}-{p.name}")
def test_golden_logits(path):
    """Every encoding gives big_vision's own logits; these are not soft-capped."""
    found = load_checkpoint(path, dtype="float32")
    expected = np.load(path.parent / "expected.npz")
    tokens = torch.from_numpy(expected["train.text"][:, :-1]).long()
    slots = torch.full((len(tokens), found.config.vision.num_image_tokens), IMAGE_SLOT)
    mask_ar = torch.from_numpy(expected["train.mask_ar"][:, :-1]).long()
    pixels = torch.from_numpy(expected["image"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        hidden = found.model.hidden(
            torch.cat([slots, tokens], 1), pixels, torch.cat([torch.zeros_like(slots), mask_ar], 1)
        )
        logits = found.model.language_model.logits(hidden[:, slots.shape[1] :], softcap=False)
        features = found.model.encode_images(pixels)
    assert np.abs(logits.numpy() - expected["train.text_logits"]).max() < 2e-4
    assert np.abs(features.numpy() - expected["zimg"]).max() < 5e-5


@pytest.mark.parametrize("generation", GENERATIONS)
def test_golden_encodings_hold_the_same_weights(generation):
    loaded = [load_checkpoint(p, dtype="float32") for p in golden_files() if generation in p.parent.name]
    assert all(equal(loaded[0].model, other.model) for other in loaded)
    stored = {p.name: load_checkpoint(p).dtype for p in golden_files() if generation in p.parent.name}
    names = {"ckpt.f32.npz": torch.float32, "ckpt.f16.npz": torch.float16, "ckpt.bf16.npz": torch.bfloat16}
    assert stored == {name: names[name] for name in stored}


@pytest.mark.parametrize("path", golden_files(), ids=lambda p: f"{p.parent.name}-{p.name}")
def test_golden_settings_are_big_visions(path):
    said = json.loads((path.parent / "config.json").read_text())["llm"]
    text = load_checkpoint(path).config.text
    for key in ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim"):
        assert getattr(text, key) == said[key]
    assert text.vocab_size == said["vocab_size"]
    assert text.final_logit_softcap == said.get("final_logits_softcap")
    assert text.attn_logit_softcap == said.get("attn_logits_softcap")
    assert text.post_norms == said.get("post_norms", False)


@pytest.mark.parametrize("name", {v.config: v.name for v in VARIANTS.values() if v.kind != "nano"}.values())
def test_every_published_array_has_its_place(name):
    """The arrays' shapes, stacked, hold exactly the architecture's parameters."""
    from paligemma.checkpoints.big_vision import axis_sizes

    config = Config.of(name)
    found = places(config)
    shapes = parameter_shapes(config)
    assert found.keys() == shapes.keys()
    sizes = axis_sizes(config)
    assert all(place.rule.our_shape(sizes) == shapes[key] for key, place in found.items())
    stacked = {p.key: p for p in found.values()}
    d, n, h, f, k = (sizes[axis] for axis in "DNHFK")
    assert stacked["llm/layers/attn/q_einsum/w"].rule.their_shape(sizes) == (n, d, h)
    assert stacked["llm/layers/attn/kv_einsum/w"].rule.their_shape(sizes) == (2, k, d, h)
    assert stacked["llm/layers/attn/attn_vec_einsum/w"].rule.their_shape(sizes) == (n, h, d)
    assert stacked["llm/layers/mlp/gating_einsum"].rule.their_shape(sizes) == (2, d, f)
    assert stacked["img/embedding/kernel"].rule.their_shape(sizes) == (14, 14, 3, 1152)


@settings(max_examples=12, deadline=None)
@given(
    generation=st.sampled_from(GENERATIONS), dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    prefix=st.booleans(), width=st.integers(1, 9), heads=st.sampled_from([(1, 1), (4, 2), (6, 1)]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_writing_is_invertible(tmp_path_factory, generation, dtype, prefix, width, heads, seed):
    base = SMALL[generation]
    text = replace(base.text, width=width, num_heads=heads[0], num_kv_heads=heads[1])
    model = draw_model(replace(base, text=text), seed).to(getattr(torch, dtype))
    path = tmp_path_factory.mktemp("bv") / "x.npz"
    save(model, path, format="big_vision", params_prefix=prefix)
    found = load_checkpoint(path)
    assert equal(found.model, model)
    assert found.config == model.config
    assert {key.startswith("params/") for key in np.load(path).files} == {prefix}
    assert not any(np.load(path)[key].dtype.hasobject for key in np.load(path).files)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_architecture_is_told_by_shapes(tmp_path, generation):
    path, model = write_plain(SMALL[generation], tmp_path / "x.npz")
    found = load_checkpoint(path)
    assert found.config == model.config
    assert equal(found.model, model)
    assert (found.image_token_id, found.tokenizer_path, found.name) == (None, None, None)


@pytest.mark.parametrize(
    "name", ["paligemma-3b-pt-224", "paligemma2-3b-pt-448", "paligemma2-10b-pt-224", "paligemma2-28b-pt-896"]
)
def test_published_shapes_give_published_architectures(name):
    """Query scale included: head_dim, except for the 28B decoder."""
    from paligemma.checkpoints.big_vision import Stack, axis_sizes

    config = Config.of(name)
    sizes = axis_sizes(config)
    stacks = {}
    for place in places(config).values():
        depth = config.vision.depth if place.key.startswith("img") else config.text.depth
        stacks[place.key] = Stack([], (() if place.layer is None else (depth,)) + place.rule.their_shape(sizes), False)
    assert infer_config(stacks, "x") == config


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("form", ["_{}", "/{}"])
def test_old_files_number_their_layers(tmp_path, generation, form):
    path, model = write_plain(SMALL[generation], tmp_path / "x.npz")

    def unstack(arrays):
        for key in list(arrays):
            for stack in ("img/Transformer/encoderblock", "llm/layers"):
                if f"{stack}/" in key:
                    for i, layer in enumerate(arrays.pop(key)):
                        arrays[key.replace(stack, stack + form.format(i))] = layer

    rewrite(path, unstack)
    assert equal(load_checkpoint(path).model, model)
    first = "params/llm/layers" + form.format(0) + "/mlp/linear"
    rewrite(path, lambda arrays: arrays.pop(first))
    with pytest.raises(CheckpointError, match="each layer once"):
        load_checkpoint(path)


def test_arrays_in_fortran_order(tmp_path):
    path, model = write_plain(SMALL["v2"], tmp_path / "x.npz")
    rewrite(path, lambda arrays: arrays.update({key: np.asfortranarray(a) for key, a in arrays.items()}))
    assert equal(load_checkpoint(path).model, model)


def test_one_model_in_several_files(tmp_path):
    path, model = write_plain(SMALL["v2"], tmp_path / "x.npz")
    arrays = dict(np.load(path))
    path.unlink()
    for part in ("img", "llm/layers", "llm/e", "llm/f"):
        chosen = {key: a for key, a in arrays.items() if key.startswith(f"params/{part}")}
        np.savez(tmp_path / f"{part.replace('/', '-')}.npz", **chosen)
    assert equal(load_checkpoint(tmp_path).model, model)
    np.savez(tmp_path / "z.npz", other=np.zeros(1, np.float32))
    with pytest.raises(CheckpointError, match=r"1 unknown \(other\)"):
        load_checkpoint(tmp_path)


def test_a_directory_of_alternatives_asks_for_one():
    with pytest.raises(CheckpointError, match="name the one to load"):
        load_checkpoint(GOLDEN / "bv-v1-tiny")


def drop(key):
    return lambda arrays: arrays.pop(key)


def cut(key):
    return lambda arrays: arrays.update({key: arrays[key][..., :-1]})


def deepen(key):
    return lambda arrays: arrays.update({key: np.concatenate([arrays[key]] * 2)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("params/img/head/bias"), "has no img/head/bias"),
        (drop("params/llm/layers/post_attention_norm/scale"), r"3 missing \(llm/layers/post_attention_norm/scale\[0\]"),
        (cut("params/img/head/bias"), r"img/head/bias \[9\] instead of \[10\]"),
        (cut("params/llm/layers/post_ffw_norm/scale"), r"post_ffw_norm/scale\[0\] \[9\] instead of \[10\]"),
        (deepen("params/llm/layers/post_ffw_norm/scale"), r"1 unknown \(llm/layers/post_ffw_norm/scale\[3:\]\)"),
        (deepen("params/llm/layers/attn/kv_einsum/w"), r"1 unknown \(llm/layers/attn/kv_einsum/w\[3:\]\)"),
        (lambda a: a.update({"params/img/x": np.zeros(1, "f4")}), r"1 unknown \(img/x\)"),
        (lambda a: a.update({"params/img/pos_embedding": np.zeros((1, 5, 12), "f4")}), "expected a square number"),
        (lambda a: a.update({"params/llm/final_norm/scale": np.zeros((), "f4")}), "expected axes D"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, said):
    path, _ = write_plain(SMALL["v2"], tmp_path / "x.npz")
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(path)


def test_a_wrong_configuration_beside_the_arrays(tmp_path):
    path, model = write_plain(SMALL["v2"], tmp_path / "x.npz")
    (tmp_path / "config.json").write_text('{"some": "thing"}')
    with pytest.raises(CheckpointError, match="expected one of the keys"):
        load_checkpoint(path)
    (tmp_path / "config.json").write_text('{"llm": {"final_logits_softcap": 0.0}}')
    assert load_checkpoint(path).config.text.final_logit_softcap is None
    for bad in ('{"llm": {"norm_eps": "x"}}', '{"llm": 3}', '{"paligemma": {"vision": {}}}', '{"paligemma": 3}'):
        (tmp_path / "config.json").write_text(bad)
        with pytest.raises(CheckpointError, match=r"config\.json is no usable"):
            load_checkpoint(path)
    other = model.config.to_dict()
    other["text"]["width"] = 8
    (tmp_path / "x.json").write_text(json.dumps({"paligemma": other}))  # of this very file: read first
    with pytest.raises(CheckpointError, match="says width = 8, the arrays have 10"):
        load_checkpoint(path)


def test_a_hugging_face_configuration_beside_the_arrays(tmp_path):
    found = load_checkpoint(GOLDEN / "hf-pg2-tiny")
    save(found.model, tmp_path / "x.npz", format="big_vision")
    (tmp_path / "x.json").unlink()
    shutil.copyfile(GOLDEN / "hf-pg2-tiny" / "config.json", tmp_path / "config.json")
    again = load_checkpoint(tmp_path / "x.npz")
    assert (again.config, again.image_token_id) == (found.config, found.image_token_id)


def test_files_are_read_front_to_back_once(tmp_path, monkeypatch):
    """Loading opens each array once for its header and once for its data: no seeking back in a compressed stream."""
    from paligemma.checkpoints.npz_io import Archives

    path, _ = write_plain(SMALL["v2"], tmp_path / "x.npz")
    opened = []
    original = Archives.open
    monkeypatch.setattr(Archives, "open", lambda self, member: opened.append(member.name) or original(self, member))
    load_checkpoint(path)
    assert sorted(opened) == sorted(set(opened)) == sorted(np.load(path).files)


def test_reading_in_any_order_is_right(tmp_path):
    from paligemma.checkpoints.big_vision import NpzTensors

    path, model = write_plain(SMALL["v2"], tmp_path / "x.npz")
    source = NpzTensors(read_stacks([path], "x"), model.config, "x")
    names = sorted(source.shapes, key=lambda name: hash(name) % 97)
    for name in [*names, *reversed(names)]:
        assert torch.equal(source.read(name, torch.float32), model.state_dict()[name])
