"""Adapters of PEFT read and written: equal logits with transformers + peft as the oracle, strictness, and the base."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.oracle import TINY, collate, draw_model, draw_pair, draw_prompt, hf_inputs

from paligemma.checkpoints.adapters import find_adapter, is_adapter, load_adapter, open_adapter, save_adapter
from paligemma.checkpoints.fingerprint import fingerprint
from paligemma.errors import CheckpointError, UnavailableError, UsageError
from paligemma.linear.lora import LoraLinear
from paligemma.linear.quantized import Nf4Linear
from paligemma.linear.swap import linears, matching, swap_linears
from paligemma.train.config import LoraConfig, TrainConfig
from paligemma.train.parts import prepare

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rows(config, seed=1):
    return collate([draw_prompt(config, 1, 5, seed, suffix=(7, 8)), draw_prompt(config, 1, 3, seed + 1)], "left")


@torch.no_grad()
def ours_logits(model):
    r = rows(model.config)
    return model(r.tokens, r.pixels, r.mask_ar, r.mask_input)[r.mask_input]


@torch.no_grad()
def peft_logits(model, config):
    r = rows(config)
    return model(**hf_inputs(r.tokens, r.pixels, r.mask_ar, r.mask_input)).logits[r.mask_input]


def train_with_peft(hf, config, steps=3, seed=0, **options):
    """A PEFT model after some steps, so that no factor is zero."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    model = peft.get_peft_model(hf, peft.LoraConfig(**{"r": 4, "target_modules": TARGETS, **options}))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    r = rows(config)
    inputs = hf_inputs(r.tokens, r.pixels, r.mask_ar, r.mask_input)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(**inputs).logits[r.mask_input] ** 2).mean().backward()
        optimizer.step()
    return model.eval()


def trained(model, lora=None, train=("all",), seed=0):
    """Our model with an adapter whose numbers are as after training; the second value is what `prepare` did."""
    parts = prepare(model, TrainConfig(lora=LoraConfig(**(lora or {"rank": 3})), train=train))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parts.model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return parts


PEFT_OPTIONS = {
    "lora": {},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 1}, "alpha_pattern": {"down_proj": 20}},
    "one layer": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "regex": {"target_modules": r".*language_model.*\.(q_proj|up_proj)"},
    "excluded": {"exclude_modules": r".*vision_tower.*"},
    "all linears": {"target_modules": "all-linear"},
    "projector in full": {"modules_to_save": ["multi_modal_projector"]},
    "norm in full": {"modules_to_save": ["language_model.norm", "post_layernorm"], "target_modules": ["fc1"]},
}


@pytest.mark.parametrize("options", PEFT_OPTIONS.values(), ids=PEFT_OPTIONS)
def test_an_adapter_trained_with_peft_computes_the_same_here(options, tmp_path):
    config = TINY[2]
    hf, ours = draw_pair(2)
    before = ours_logits(ours)
    theirs = train_with_peft(hf, config, **options)
    theirs.save_pretrained(tmp_path)
    load_adapter(ours, tmp_path)
    expected = peft_logits(theirs, config)
    assert (expected - before).abs().max() > 0.05  # it does something
    assert (ours_logits(ours) - expected).abs().max() < 2e-4


def test_gemma_1_too(tmp_path):
    hf, ours = draw_pair(1)
    theirs = train_with_peft(hf, TINY[1])
    theirs.save_pretrained(tmp_path)
    load_adapter(ours, tmp_path)
    assert (ours_logits(ours) - peft_logits(theirs, TINY[1])).abs().max() < 2e-4


OUR_OPTIONS = {
    "lm": ({"rank": 3, "alpha": 5.0}, ("all",)),
    "rslora": ({"rank": 3, "where": ("lm-mlp",), "rslora": True}, ("all",)),
    "dora everywhere": ({"rank": 2, "where": ("all-linear",), "dora": True}, ("all",)),
    "projector in full": ({"rank": 2, "where": ("vision-attention",)}, ("projector",)),
    "lm in full": ({"rank": 2, "where": ("vision",)}, ("lm", "projector")),
}


@pytest.mark.parametrize(("lora", "train"), OUR_OPTIONS.values(), ids=OUR_OPTIONS)
def test_ours_computes_the_same_in_peft_and_here_again(lora, train, tmp_path):
    peft = pytest.importorskip("peft")
    hf, ours = draw_pair(2)
    parts = trained(ours, lora, train)
    expected = ours_logits(ours)
    save_adapter(ours, tmp_path, base=None, base_sha256=parts.base_sha256, in_full=parts.in_full)
    again = load_into(draw_pair(2)[1], tmp_path)
    assert torch.equal(ours_logits(again), expected)
    theirs = peft.PeftModel.from_pretrained(hf, str(tmp_path)).eval()
    assert (peft_logits(theirs, TINY[2]) - expected).abs().max() < 2e-4


def load_into(model, path, **options):
    load_adapter(model, path, **options)
    return model


def test_the_files_are_those_of_peft(tmp_path):
    config = TINY[2]
    hf, ours = draw_pair(2)
    train_with_peft(hf, config, use_dora=True, modules_to_save=["multi_modal_projector"]).save_pretrained(
        tmp_path / "peft"
    )
    load_adapter(ours, tmp_path / "peft")
    in_full = ["projector.weight", "projector.bias"]
    save_adapter(ours, tmp_path / "ours", base="paligemma-3b-pt-224", base_sha256=None, in_full=in_full)
    theirs, written = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("peft", "ours"))
    assert theirs.keys() == written.keys()
    assert all(torch.equal(theirs[key], written[key]) for key in theirs)
    told, wrote = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("peft", "ours"))
    assert wrote.keys() <= told.keys()
    differ = {key for key in wrote if wrote[key] != told[key]}
    assert differ <= {"target_modules", "modules_to_save", "base_model_name_or_path", "auto_mapping"}
    assert wrote["base_model_name_or_path"] == "google/paligemma-3b-pt-224"


@pytest.mark.parametrize("layout", ["hub", "4.5x", "5.23"])
def test_keys_of_every_release_are_read(layout, tmp_path):
    ours = draw_model(TINY[1])
    parts = trained(ours, {"rank": 2, "where": ("lm", "vision")}, ("projector",))
    expected = ours_logits(ours)
    save_adapter(ours, tmp_path, base="here", base_sha256=parts.base_sha256, layout=layout, in_full=parts.in_full)
    start = {"hub": "base_model.model.language_model.model.layers", "4.5x": "base_model.model.model.language_model.lay",
             "5.23": "base_model.model.model.language_model.layers"}[layout]  # fmt: skip
    assert any(key.startswith(start) for key in load_file(tmp_path / "adapter_model.safetensors"))
    assert torch.equal(ours_logits(load_into(draw_model(TINY[1]), tmp_path)), expected)


def test_embeddings_without_their_head_are_refused(tmp_path):
    hf, ours = draw_pair(2)
    train_with_peft(hf, TINY[2], modules_to_save=["embed_tokens"]).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="ensure_weight_tying"):
        load_adapter(ours, tmp_path)


def test_patterns_survive_the_way_back(tmp_path):
    hf, ours = draw_pair(2)
    train_with_peft(hf, TINY[2], **PEFT_OPTIONS["patterns"]).save_pretrained(tmp_path / "peft")
    first = load_adapter(ours, tmp_path / "peft")
    save_adapter(ours, tmp_path / "ours", base=None, base_sha256=None)
    assert open_adapter(tmp_path / "ours", TINY[2]).loras == first.loras
    assert len(set(first.loras.values())) == 4


@pytest.fixture
def saved(tmp_path):
    parts = trained(draw_model(TINY[2]))
    save_adapter(parts.model, tmp_path / "adapter", base="mine", base_sha256=parts.base_sha256)
    return tmp_path / "adapter"


def test_another_base_is_refused_unless_allowed(saved):
    other = draw_model(TINY[2], seed=5)
    here, there = fingerprint(other)[:12], fingerprint(draw_model(TINY[2]))[:12]
    with pytest.raises(CheckpointError, match=rf"trained on mine \(weights {there}\).* yours \(weights {here}\)"):
        load_adapter(other, saved, base="yours")
    load_adapter(other, saved, base="yours", any_base=True)
    load_adapter(draw_model(TINY[2]), saved, base="another name for the same weights")


@pytest.mark.parametrize("size", ["-8", "8.5", "99999999"])
def test_a_resolution_that_cannot_be(size, saved):
    tensors = load_file(saved / "adapter_model.safetensors")
    save_file(tensors, saved / "adapter_model.safetensors", {"image_size_px": size})
    with pytest.raises(CheckpointError, match="says it was trained on pictures of"):
        load_adapter(draw_model(TINY[2]), saved)


def test_without_a_fingerprint_published_names_are_compared(saved):
    tensors = load_file(saved / "adapter_model.safetensors")
    save_file(tensors, saved / "adapter_model.safetensors")
    edit(saved, base_model_name_or_path="google/paligemma2-3b-pt-224")
    with pytest.raises(CheckpointError, match="trained on google/paligemma2-3b-pt-224"):
        load_adapter(draw_model(TINY[2]), saved, base="paligemma2-3b-mix-224")
    load_adapter(draw_model(TINY[2]), saved, base="google/paligemma2-3b-pt-224")
    load_adapter(draw_model(TINY[2]), saved, base="./a/copy")


def test_a_second_adapter_is_refused(saved):
    model = load_into(draw_model(TINY[2]), saved)
    with pytest.raises(UsageError, match="has an adapter already"):
        load_adapter(model, saved)


def test_an_adapter_goes_onto_a_quantised_base_but_dora_does_not(saved, tmp_path):
    plain, quantised = (draw_model(TINY[2]) for _ in range(2))
    swap_linears(quantised, Nf4Linear.from_linear, matching(".*mlp.*"))
    load_adapter(quantised, saved, any_base=True)
    assert torch.isfinite(ours_logits(quantised)).all()
    parts = trained(plain, {"rank": 2, "dora": True})
    save_adapter(plain, tmp_path / "dora", base=None, base_sha256=parts.base_sha256)
    other = draw_model(TINY[2])
    swap_linears(other, Nf4Linear.from_linear, matching(".*mlp.*"))
    with pytest.raises(UsageError, match="DoRA"):
        load_adapter(other, tmp_path / "dora", any_base=True)


def edit(path, **changes):
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(path, change):
    tensors = load_file(path / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, path / "adapter_model.safetensors")


FIRST = "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight"
BROKEN = {
    "missing": lambda tensors: tensors.pop(FIRST),
    "unknown": lambda tensors: tensors.update({FIRST.replace("lora_A", "lora_C"): torch.ones(1)}),
    "of another shape": lambda tensors: tensors.update({FIRST: torch.ones(3, 5)}),
    "lm_head": lambda tensors: tensors.update({"base_model.model.lm_head.lora_A.weight": torch.ones(3, 5)}),
    "the same tensor": lambda tensors: tensors.update({FIRST.replace("model.language", "language", 1): torch.ones(1)}),
    "expected float32": lambda tensors: tensors.update({FIRST: tensors[FIRST].to(torch.int8)}),
    "layers.7": lambda tensors: tensors.update({FIRST.replace("layers.0", "layers.7"): torch.ones(1)}),
}


@pytest.mark.parametrize(("message", "change"), BROKEN.items(), ids=BROKEN)
def test_tensors_are_checked_strictly(message, change, saved):
    rewrite(saved, change)
    model = draw_model(TINY[2])
    with pytest.raises(CheckpointError, match=message):
        load_adapter(model, saved)
    assert not any(isinstance(layer, LoraLinear) for _, layer in linears(model))  # nothing half done


def test_an_adapter_of_another_architecture(saved):
    with pytest.raises(CheckpointError, match=r"does not fit this model.*use it with .*mine"):
        load_adapter(draw_model(TINY[1]), saved)
    edit(saved, target_modules=["qkv"])
    with pytest.raises(CheckpointError, match="adapts no layer"):
        load_adapter(draw_model(TINY[2]), saved)


def test_where_an_adapter_is_found(saved, tmp_path):
    assert is_adapter(saved)
    assert not is_adapter(tmp_path)
    assert find_adapter(str(saved)) == find_adapter(saved / "adapter_model.safetensors") == saved
    with pytest.raises(UnavailableError, match="there is no adapter 'nowhere'"):
        find_adapter("nowhere")
    with pytest.raises(UnavailableError, match="paligemma pull someone/adapter"):
        find_adapter("someone/adapter")
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        find_adapter(tmp_path)
    (saved / "adapter_model.safetensors").rename(saved / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="a pickle, which is never opened"):
        find_adapter(saved)
    (saved / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        find_adapter(saved)


def test_there_must_be_something_to_save(tmp_path):
    model = draw_model(TINY[1]).requires_grad_(False)
    with pytest.raises(UsageError, match="nothing to save"):
        save_adapter(model, tmp_path, base=None, base_sha256=None)


def test_averaged_weights_can_be_saved_instead(tmp_path):
    parts = trained(draw_model(TINY[2]))
    state = {name: p.detach() * 2 for name, p in parts.model.named_parameters()}
    save_adapter(parts.model, tmp_path, base=None, base_sha256=parts.base_sha256, state=state)
    once = load_into(draw_model(TINY[2]), tmp_path).language_model.layers[0].mlp.up_proj.lora_B
    assert torch.equal(once, parts.model.language_model.layers[0].mlp.up_proj.lora_B * 2)


def test_saving_leaves_no_traces_of_files_in_between(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    shutil.rmtree(saved)
