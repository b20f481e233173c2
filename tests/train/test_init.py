import importlib
import subprocess
import sys

import paligemma
import paligemma.train.config as by_its_path
from paligemma.train import run


def test_the_room_is_called_and_its_rooms_keep_their_names(monkeypatch):
    calls = []
    monkeypatch.setattr(run, "train", lambda config, **more: calls.append((config, more)))
    config = paligemma.TrainConfig(steps=1)
    paligemma.train(config, resume=True)
    paligemma.train.train(config, quiet=True)
    assert calls == [(config, {"resume": True}), (config, {"quiet": True})]
    assert paligemma.train.config is by_its_path
    assert importlib.import_module("paligemma.train") is paligemma.train


def test_a_configuration_needs_no_torch():
    code = "import paligemma; paligemma.TrainConfig(); paligemma.train; import sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
