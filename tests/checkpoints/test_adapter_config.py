"""PEFT's configuration: which layers it means, compared with PEFT's own answer, and what is refused."""

import json

import pytest

from paligemma.checkpoints.adapter_config import adapter_config_json, read_adapter_config
from paligemma.errors import CheckpointError
from paligemma.linear.lora import Lora

NAMES = [
    f"model.{tower}.layers.{layer}.{leaf}"
    for tower, leaves in (
        ("language_model", ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")),
        ("vision_tower.encoder", ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")),
    )
    for layer in (0, 1, 11)
    for leaf in leaves
] + ["model.multi_modal_projector.linear"]

CHOICES = [
    {"target_modules": ["q_proj", "up_proj"]},
    {"target_modules": ["proj"]},
    {"target_modules": ["language_model.layers.1.self_attn.q_proj"]},
    {"target_modules": r".*language_model.*_proj"},
    {"target_modules": ["q_proj", "fc1"], "layers_to_transform": 1},
    {"target_modules": ["q_proj", "fc1"], "layers_to_transform": [0, 11], "layers_pattern": "layers"},
    {"target_modules": ["q_proj", "fc1"], "layers_to_transform": [0], "layers_pattern": ["blocks"]},
    {"target_modules": ["linear", "q_proj"], "exclude_modules": ["vision_tower.encoder.layers.0.self_attn.q_proj"]},
    {"target_modules": ["linear", "q_proj"], "exclude_modules": r".*vision.*"},
    {"target_modules": ["linear", "q_proj"], "modules_to_save": ["multi_modal_projector"]},
]


def written(path, **values):
    file = path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"], **values}))
    return read_adapter_config(file)


@pytest.mark.parametrize("choice", CHOICES)
def test_it_means_the_layers_that_peft_means(choice, tmp_path):
    peft = pytest.importorskip("peft")
    tuners = pytest.importorskip("peft.tuners.tuners_utils")
    theirs = peft.LoraConfig(**choice)
    expected = [
        name
        for name in NAMES
        if (found := tuners.check_target_module_exists(theirs, name)) and not isinstance(found, tuners._ExcludedModule)
    ]
    config = written(tmp_path, **choice)
    assert [name for name in NAMES if config.adapts(name)] == expected


def test_all_linear_means_all(tmp_path):
    assert all(written(tmp_path, target_modules="all-linear").adapts(name) for name in NAMES)


def test_patterns_change_rank_and_strength(tmp_path):
    config = written(
        tmp_path, r=8, lora_alpha=4, lora_dropout=0.1, use_rslora=True,
        rank_pattern={"vision.*q_proj": 2, "q_proj": 3}, alpha_pattern={"up_proj": 32},
    )  # fmt: skip
    assert config.lora_of("model.vision_tower.layers.0.q_proj").rank == 2
    assert config.lora_of("model.language_model.layers.0.q_proj").rank == 3
    up = config.lora_of("x.up_proj")
    assert (up.rank, up.alpha, up.dropout, up.rslora, up.dora) == (8, 32.0, 0.1, True, False)
    assert up.scale == 32 / 8**0.5


def test_there_and_back(tmp_path):
    loras = {name: Lora(rank=4, alpha=2.5, dora=True) for name in NAMES[:4]}
    loras[NAMES[1]] = Lora(rank=1, alpha=2.5, dora=True)
    loras[NAMES[2]] = Lora(rank=4, alpha=3.0, dora=True)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(adapter_config_json(loras, ["model.norm"], "google/paligemma-3b-pt-224")))
    config = read_adapter_config(file)
    assert {name: config.lora_of(name) for name in NAMES if config.adapts(name)} == loras
    assert (config.saved, config.base) == (("model.norm",), "google/paligemma-3b-pt-224")


@pytest.mark.parametrize(
    "values",
    [
        {"peft_type": "IA3"},
        {"bias": "all"},
        {"fan_in_fan_out": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "loftq"},
        {"use_qalora": True},
        {"alora_invocation_tokens": [1, 2]},
        {"trainable_token_indices": [5]},
        {"something_new": 3},
        {"r": 0},
        {"r": 2.5},
        {"r": "eight"},
        {"r": True},
        {"lora_alpha": float("1e300")},
        {"lora_dropout": 1.5},
        {"target_modules": 3},
        {"target_modules": "(["},
        {"rank_pattern": {"(": 2}},
        {"rank_pattern": [1]},
        {"rank_pattern": {"q_proj": -1}},
        {"layers_to_transform": ["one"]},
        {"base_model_name_or_path": 7},
    ],
)
def test_what_is_not_computed_here_is_refused(values, tmp_path):
    with pytest.raises(CheckpointError, match=r"adapter_config\.json (says|describes)"):
        written(tmp_path, **values)


def test_switched_off_novelties_are_allowed(tmp_path):
    written(tmp_path, use_qalora=False, something_new=None, other={}, init_lora_weights="gaussian")


def test_a_broken_file(tmp_path):
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        read_adapter_config(tmp_path / "adapter_config.json")
