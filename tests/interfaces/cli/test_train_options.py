from dataclasses import fields
from pathlib import Path

import pytest

from paligemma.errors import UsageError
from paligemma.interfaces.cli.train_options import (
    KEYS,
    LISTS,
    DataOptions,
    LearningOptions,
    ModelChoices,
    WatchingOptions,
    configuration,
    values_of,
)
from paligemma.train.config import LoraConfig, TrainConfig
from paligemma.train.config_file import to_dict, write_config
from paligemma.train.stages import stage_config

GROUPS = (DataOptions, ModelChoices, LearningOptions, WatchingOptions)


def made(*, sets=None, config=None, stage=None, out=None, resume=False, **given):
    return configuration(given, config=config, stage=stage, out=out, resume=resume, sets=sets)


def flat(data, head=""):
    found = {}
    for key, value in data.items():
        found |= flat(value, f"{head}{key}.") if isinstance(value, dict) else {head + key: value}
    return found


def test_every_option_is_a_key_of_the_configuration():
    known = flat(to_dict(TrainConfig(lora=LoraConfig())))
    assert set(KEYS.values()) <= set(known)
    names = {field.name for group in GROUPS for field in fields(group)}
    assert names == {*KEYS, "data", "val", "prefix", "lora"}
    assert all(name in names for name in LISTS)


def test_what_was_not_given_changes_nothing():
    assert configuration(values_of(*(group() for group in GROUPS))) == TrainConfig()


def test_options_become_settings():
    config = made(
        data=["a.jsonl", "b"], val=["c"], prefix="caption en", model="nano", train="lm, projector", lr=1e-4, steps=7,
        optimizer="sgd", eval_every=3, track="tensorboard,wandb", checkpointing=True, out=Path("here"),
        skip_bad=True,
    )  # fmt: skip
    assert [(one.path, one.split, one.prefix) for one in config.data.train] == [
        ("a.jsonl", None, "caption en"), ("b", None, "caption en"),
    ]  # fmt: skip
    assert config.data.validation[0].split is None
    assert config.data.skip_bad
    assert config.train == ("lm", "projector")
    assert (config.optim.lr, config.optim.name, config.steps, config.epochs) == (1e-4, "sgd", 7, None)
    assert config.evaluate.every == 3
    assert config.track == ("tensorboard", "wandb")
    assert config.checkpointing
    assert config.out == Path("here")
    assert config.lora is None


def test_adapters():
    assert made(lora=True).lora == LoraConfig()
    assert made(lora=True, rank=4, where="lm-attention,vision").lora == LoraConfig(
        rank=4, where=("lm-attention", "vision")
    )
    with pytest.raises(UsageError, match="--rank belongs to adapters; give --lora"):
        made(rank=4)


def test_a_file_and_what_changes_it(tmp_path):
    file = tmp_path / "run.yaml"
    write_config(file, TrainConfig(model="nano", epochs=2, batch_size=8, lora=LoraConfig(rank=32)))
    read = made(config=file)
    assert (read.epochs, read.batch_size, read.lora.rank) == (2, 8, 32)
    changed = made(config=file, rank=4, steps=10)
    assert (changed.lora.rank, changed.lora.alpha, changed.batch_size) == (4, 16, 8)
    assert (changed.steps, changed.epochs) == (10, None)  # one length replaces the other
    assert made(config=file, lora=True).lora.rank == 32
    with pytest.raises(UsageError, match="expected one of them"):
        made(config=file, steps=10, epochs=1.0)
    (tmp_path / "bad.yaml").write_text("optimm: {lr: 1}")
    with pytest.raises(UsageError, match="did you mean 'optim'"):
        made(config=tmp_path / "bad.yaml")


def test_a_stage_gives_its_published_settings():
    config = made(stage=1, model="paligemma2-3b-pt-224", steps=5, data=["x"])
    published = stage_config(1, "paligemma2-3b-pt-224")
    assert config.optim == published.optim
    assert (config.stage, config.steps, config.image_size_px) == (1, 5, published.image_size_px)
    assert made(stage=2, image_size=896).image_size_px == 896
    with pytest.raises(UsageError, match="stage 7"):
        made(stage=7)


def test_a_stage_takes_the_model_of_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("model: paligemma2-3b-pt-224\nbatch_size: 4\n")
    config = made(stage=1, config=tmp_path / "run.yaml")
    assert (config.model, config.batch_size) == ("paligemma2-3b-pt-224", 4)
    assert config.optim.lr == stage_config(1, "paligemma2-3b-pt-224").optim.lr


def test_any_setting_can_be_set():
    config = made(sets=["optim.clip_norm=0.5", "loss.per=token", "lora.rank=2", "data.max_tokens = 99"])
    assert (config.optim.clip_norm, config.loss.per, config.lora.rank, config.data.max_tokens) == (0.5, "token", 2, 99)
    with pytest.raises(UsageError, match="write KEY=VALUE"):
        made(sets=["optim.lr"])
    with pytest.raises(UsageError, match="did you mean"):
        made(sets=["optim.clipnorm=1"])


def test_resuming_reads_what_the_run_was_told(tmp_path):
    told = TrainConfig(out=tmp_path, steps=5, batch_size=3)
    write_config(tmp_path / "config.yaml", told)
    assert made(resume=True, out=tmp_path) == told
    with pytest.raises(UsageError, match="give its folder as --out"):
        made(resume=True)


def test_a_prompt_needs_examples():
    with pytest.raises(UsageError, match="give --data"):
        made(prefix="caption en")
