import math
import sys
from types import SimpleNamespace

import pytest
from tests.train.made import record

from paligemma.errors import UnavailableError, UsageError
from paligemma.train.reports.tracking import TRACKERS, Tracking


def scalars(folder):
    """{tag: [(step, value), ...]} of the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(one.step, round(one.value, 4)) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_the_figures(tmp_path):
    tracking = Tracking(["tensorboard"], tmp_path, {})
    tracking.on_step(record(1, loss=2.0))
    tracking.on_step(record(2, loss=math.nan))
    tracking.on_evaluation(2, {"ap50": 0.5})
    tracking.on_note("a word")
    tracking.close()
    found = scalars(tmp_path)
    assert found["train/loss"] == [(1, 2.0)]
    assert found["train/examples_per_second"] == [(1, 16.0), (2, 16.0)]
    assert found["evaluation/ap50"] == [(2, 0.5)]


def test_a_resumed_run_hides_what_a_crash_left_behind(tmp_path):
    for first, steps in ((0, (1, 2, 3)), (2, (2, 3))):
        tracking = Tracking(["tensorboard"], tmp_path, {})
        for step in steps:
            tracking.on_step(record(step, loss=float(step + 10 * first)))
        tracking.close()
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0), (2, 22.0), (3, 23.0)]


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for wandb and trackio, which are not installed."""
    calls = []

    def noting(name):
        return lambda *values, **more: calls.append((name, values, more))

    run = SimpleNamespace(log=noting("log"), finish=noting("finish"))

    def init(**more):
        calls.append(("init", (), more))
        return run

    fake = SimpleNamespace(init=init, log=run.log, finish=run.finish)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


def test_wandb_is_offline_unless_told(calls, tmp_path, monkeypatch):
    tracking = Tracking(["wandb"], tmp_path, {"lr": 1})
    assert calls[0][2] == {
        "project": "paligemma", "name": tmp_path.name, "dir": str(tmp_path), "config": {"lr": 1}, "mode": "offline",
    }  # fmt: skip
    tracking.on_evaluation(3, {"loss": 1.0})
    tracking.close()
    assert calls[1:] == [("log", ({"evaluation/loss": 1.0},), {"step": 3}), ("finish", (), {})]
    monkeypatch.setenv("WANDB_MODE", "online")
    Tracking(["wandb"], tmp_path, {})
    assert calls[-1][2]["mode"] == "online"


def test_trackio_names_no_place_but_this_machine(calls, tmp_path):
    tracking = Tracking(["trackio"], tmp_path, {})
    tracking.on_step(record(1))
    tracking.close()
    assert calls[0][2] == {"project": "paligemma", "name": tmp_path.name, "config": {}, "resume": "allow"}
    assert [name for name, *_ in calls] == ["init", "log", "finish"]


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_not_installed_is_told_before_the_first_step(name, tmp_path, monkeypatch):
    for module in ("wandb", "trackio", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableError, match=f"{name} is not installed.*pip install"):
        Tracking([name], tmp_path, {})


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(UsageError, match="tensorboard"):
        Tracking(["tensorbord"], tmp_path, {})


def test_a_run_without_a_step_leaves_no_event_file(tmp_path):
    Tracking(["tensorboard"], tmp_path, {}).close()
    assert list(tmp_path.iterdir()) == []
