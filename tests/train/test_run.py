import hashlib
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.train.tiny import Seen, save_tiny_model, write_rows

import paligemma
from paligemma.errors import UsageError
from paligemma.train.config import DataConfig, EvalConfig, LoraConfig, OptimConfig, SourceConfig, TrainConfig
from paligemma.train.config_file import read_config
from paligemma.train.process import Stopped
from paligemma.train.run import prepare_run, train, with_steps


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_tiny_model(folder / "model")
    write_rows(folder, 8)
    write_rows(folder / "held", 3, shade=200)
    return folder


def config_of(place, out, **changes):
    data = DataConfig(train=(SourceConfig(path=str(place / "rows.jsonl")),), workers=0, max_tokens=64)
    base = TrainConfig(
        model=str(place / "model"), out=out, data=data, batch_size=4, steps=10, save_every=5, save_minutes=0.0,
        optim=OptimConfig(lr=1e-3),
    )  # fmt: skip
    return replace(base, **changes)


def digest(folder):
    """sha256 of the last set's tensors and of what the run told of each step."""
    last = sorted((folder / "sets").iterdir())[-1]
    files = [*sorted(last.glob("*.safetensors")), folder / "metrics.jsonl"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_run_leaves_everything_that_is_known_of_it(place, tmp_path):
    data = DataConfig(
        train=(SourceConfig(path=str(place / "rows.jsonl")),), workers=0,
        validation=(SourceConfig(path=str(place / "held" / "rows.jsonl"), name="held"),),
    )  # fmt: skip
    config = config_of(place, tmp_path / "run", data=data, evaluate=EvalConfig(every=5), epochs=5.0, steps=None)
    summary = train(config, quiet=True)
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found >= {
        "config.yaml", "trainable.txt", "data_report.txt", "metrics.jsonl", "timings.jsonl", "summary.json",
        "MODEL_CARD.md", "sets", "best", "last", "samples",
    }  # fmt: skip
    assert read_config(tmp_path / "run" / "config.yaml") == config
    assert summary.steps == 10
    assert "loss" in summary.best.figures
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 11))
    assert [row["step"] for row in rows if "evaluation" in row] == [5, 10]
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert told["best"]["step"] == summary.best.step
    for name in ("best", "last"):
        answer = paligemma.load(tmp_path / "run" / name).ask(place / "0.png", "what color?", max_tokens=2)
        assert isinstance(str(answer), str)


def test_the_same_bits_as_without_a_stop(place, tmp_path):
    class Stopping(Seen):
        def on_step(self, record):
            super().on_step(record)
            if record.step == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    optim = OptimConfig(lr=1e-3, ema=0.9)
    straight, stopped = (config_of(place, tmp_path / name, optim=optim, save_every=4) for name in ("a", "b"))
    train(straight, quiet=True)
    with pytest.raises(Stopped, match="terminated after step 7"):
        train(stopped, quiet=True, observers=[Stopping()])
    seen = Seen()
    summary = train(stopped, resume=True, quiet=True, observers=[seen])
    assert summary.resumed == 7
    assert [record.step for record in seen.records] == [8, 9, 10]
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    same = "last/model.safetensors"
    assert (tmp_path / "a" / same).read_bytes() == (tmp_path / "b" / same).read_bytes()


def test_a_folder_holds_one_run(place, tmp_path):
    config = config_of(place, tmp_path / "run", steps=2)
    train(config, quiet=True)
    with pytest.raises(UsageError, match="holds a run already; resume it, or give another folder"):
        train(config, quiet=True)
    with pytest.raises(UsageError, match=r"not the run in .*: optim\.lr was 0\.001 and is 0\.01; resume it as it was"):
        train(replace(config, optim=OptimConfig(lr=1e-2)), resume=True, quiet=True)
    assert train(replace(config, save_every=1, threads=1), resume=True, quiet=True).resumed == 2


def test_other_data_are_another_run(place, tmp_path):
    rows = write_rows(tmp_path, 4)
    config = config_of(place, tmp_path / "run", steps=2)
    config = replace(config, data=replace(config.data, train=(SourceConfig(path=str(rows), name="colors"),)))
    train(config, quiet=True)
    rows.write_text(rows.read_text().replace("green", "lime"))
    with pytest.raises(UsageError, match=r"the data are others \(colors\)"):
        train(config, resume=True, quiet=True)


def test_another_start_is_another_run(place, tmp_path):
    save_tiny_model(tmp_path / "model")
    config = config_of(place, tmp_path / "run", model=str(tmp_path / "model"), lora=LoraConfig(rank=2), steps=2)
    train(config, quiet=True)
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"the weights of .*model are others"):
        train(config, resume=True, quiet=True)


def test_lora_trains_adapters_and_leaves_the_base_alone(place, tmp_path):
    config = config_of(place, tmp_path / "run", lora=LoraConfig(rank=2), steps=3)
    base = paligemma.load(place / "model").model.state_dict()
    train(config, quiet=True)
    adapted = paligemma.load(place / "model", adapter=tmp_path / "run" / "last").model
    weights = dict(adapted.named_parameters())
    assert any(weight.any() for name, weight in weights.items() if name.endswith("lora_B"))
    for name, weight in base.items():
        now = weights.get(name, weights.get(name.replace(".weight", ".base.weight")))
        assert torch.equal(now, weight), name
    assert "lora 2" in (tmp_path / "run" / "trainable.txt").read_text()


def test_steps_and_evaluations_are_counted():
    config = TrainConfig(batch_size=4, epochs=2.5)
    assert with_steps(config, 10).steps == 7
    assert with_steps(config, 10).evaluate.every == 3
    assert with_steps(TrainConfig(steps=50), None).evaluate.every == 50
    assert with_steps(TrainConfig(steps=50, evaluate=EvalConfig(every=8)), 10).evaluate.every == 8
    with pytest.raises(UsageError, match="neither steps nor epochs"):
        with_steps(TrainConfig(), 10)
    with pytest.raises(UsageError, match=r"epochs is 2\.5, but these data never repeat"):
        with_steps(config, None)


def test_preparing_touches_no_folder(place, tmp_path):
    prepared = prepare_run(config_of(place, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert prepared.evaluate is None
    assert {parameter.dtype for parameter in prepared.objective.parameters()} == {torch.float32}
