import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.errors import PaliGemmaError, UsageError
from paligemma.train.config import DataConfig, LoraConfig, OptimConfig, SourceConfig, TrainConfig
from paligemma.train.config_file import (
    FREE,
    differences,
    from_dict,
    read_config,
    to_dict,
    with_overrides,
    write_config,
)

FULL = TrainConfig(
    out=Path("runs/ä b"), lora=LoraConfig(rank=4, where=("lm-attention", "projector")), quantize="nf4", steps=7,
    data=DataConfig(
        train=(SourceConfig(path="a.jsonl", weight=0.25, prefix="caption en"), SourceConfig(path="scenes")),
        validation=(SourceConfig(path="b.jsonl", name="no"),),
    ),
    optim=OptimConfig(lr=3e-5, betas=(0.9, 0.95), ema=0.999), threads=2, track=("tensorboard",),
)  # fmt: skip


def written(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("config", [TrainConfig(), FULL])
def test_what_is_written_is_read_back(tmp_path, config):
    write_config(tmp_path / "config.yaml", config)
    assert read_config(tmp_path / "config.yaml") == config
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert read_config(tmp_path / "config.json") == config


def test_a_file_says_only_what_differs(tmp_path):
    yaml = written(tmp_path, "a.yaml", "optim: {lr: 1e-5}\ndata:\n  train: [rows.jsonl]\nsteps: 1e3\ntrain: lm\n")
    toml = written(
        tmp_path, "a.toml", 'steps = 1000\ntrain = "lm"\n[optim]\nlr = 1e-5\n[data]\ntrain = ["rows.jsonl"]\n'
    )
    wanted = TrainConfig(steps=1000, train=("lm",), data=DataConfig(train=(SourceConfig(path="rows.jsonl"),)))
    assert read_config(yaml) == wanted
    assert read_config(toml) == wanted
    assert read_config(yaml, base=replace(FULL, epochs=None)).lora == FULL.lora
    assert read_config(written(tmp_path, "empty.yml", "")) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optm: {lr: 1}", "unknown key 'optm'; did you mean 'optim'"),
        ("optim: {lerning_rate: 1}", r"unknown key 'optim\.lerning_rate'"),
        ("lr: 1e-5", r"unknown key 'lr'; did you mean 'optim\.lr'"),
        ("lora: {wher: [lm]}", r"unknown key 'lora\.wher'; did you mean 'where'"),
        ("data: {train: [{path: a, wieght: 2}]}", r"unknown key 'data\.train\[0\]\.wieght'; did you mean 'weight'"),
        ("data: {train: [{weight: 2}]}", r"data\.train\[0\] lacks a key .*'path'"),
        ("optim: {lr: fast}", r"optim\.lr is 'fast', expected a number"),
        ("steps: 1.5", "steps is 1.5, expected a whole number"),
        ("steps: yes", "steps is True, expected a whole number"),
        ("model: no", "model is False, expected text"),
        ("out: 2024-01-01", "out is .*, expected a path"),
        ("optim: {betas: [0.9]}", r"optim\.betas is \[0.9\], expected 2 values"),
        ("optim: 3", "optim is 3, expected keys with values"),
        ("- 1", r"the configuration is \[1\], expected keys"),
        ("optim: {schedule: cosin}", r"optim\.schedule is 'cosin', .* did you mean 'cosine'"),
        ("lora: {rank: 0}", "lora: rank is 0, expected at least 1"),
        ("steps: 1\nsteps: 2", "the key 'steps' is given twice"),
        ("a: &x 1\nb: *x", "it has an alias"),
        ("x: !!python/object/apply:os.system [ls]", "cannot be read as a configuration"),
        ("x: [", "cannot be read as a configuration"),
        ("[" * 2000, "cannot be read as a configuration"),
    ],
)
def test_every_slip_is_an_error_that_says_where(tmp_path, text, told):
    with pytest.raises(UsageError, match=told) as caught:
        read_config(written(tmp_path, "c.yaml", text))
    assert str(tmp_path / "c.yaml") in str(caught.value)


def test_other_files(tmp_path):
    with pytest.raises(UsageError, match="'steps' is given twice"):
        read_config(written(tmp_path, "c.json", '{"steps": 1, "steps": 2}'))
    with pytest.raises(UsageError, match="NaN is no number"):
        read_config(written(tmp_path, "c.json", '{"optim": {"lr": NaN}}'))
    with pytest.raises(UsageError, match=r"expected a name that ends in \.yaml"):
        read_config(written(tmp_path, "c.ini", "steps=1"))
    with pytest.raises(UsageError, match="No such file"):
        read_config(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="more than 1,048,576 bytes"):
        read_config(written(tmp_path, "c.yaml", "#" * 2**21))


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_configuration_or_one_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        told = str(read_config(path))
    except PaliGemmaError as error:
        told = str(error)
    assert "\n" not in told


def test_single_values_replace_those_of_a_file():
    changed = with_overrides(FULL, {"optim.lr": "1e-4", "lora.rank": 16, "train": "[lm, projector]", "threads": "null"})
    assert (changed.optim.lr, changed.lora.rank, changed.train, changed.threads) == (
        1e-4,
        16,
        ("lm", "projector"),
        None,
    )
    assert changed.optim.betas == FULL.optim.betas
    assert with_overrides(TrainConfig(), {"lora.rank": "4"}).lora == LoraConfig(rank=4)
    assert with_overrides(FULL, {"lora": "null", "quantize": "null"}).lora is None
    assert with_overrides(TrainConfig(), {"model": "a: b"}).model == "a: b"
    assert with_overrides(TrainConfig(), {"out": "2024-01-01"}).out == Path("2024-01-01")
    with pytest.raises(UsageError, match=r"unknown key 'optim\.lrr'; did you mean 'lr'"):
        with_overrides(FULL, {"optim.lrr": "1"})
    with pytest.raises(UsageError, match="give one of them"):
        with_overrides(FULL, {"optim": 1.0, "optim.lr": "2"})


def test_differences_name_the_keys():
    changed = with_overrides(FULL, {"optim.lr": 1e-4, "out": "elsewhere"})
    assert differences(FULL, changed) == {"optim.lr": (3e-5, 1e-4), "out": ("runs/ä b", "elsewhere")}
    assert differences(FULL, FULL) == {}
    everything = set(differences(FULL, TrainConfig())) | {"keep", "save_every", "save_minutes", "parallel"}
    assert everything > {"lora.rank", "data.train", "optim.ema"}


def test_what_may_change_on_resuming_are_keys():
    for key in FREE:
        place = to_dict(TrainConfig())
        for part in key.split("."):
            assert part in place, key
            place = place[part]


def test_plain_data_goes_there_and_back():
    assert from_dict(to_dict(FULL)) == FULL
    assert json.loads(json.dumps(to_dict(FULL))) == to_dict(FULL)
