"""A model of each generation, tiny and random, with its tokenizer; and a way to put words in its mouth."""

import shutil
from pathlib import Path

import pytest
from tests.api.helpers import Speaker

from paligemma.api import load

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
PAIRS = {"hf-pg1-tiny": "tok-hub", "hf-pg2-tiny": "tok-added"}  # each model and the tokenizer it belongs to


@pytest.fixture(scope="session", params=PAIRS)
def directory(request, tmp_path_factory):
    target = tmp_path_factory.mktemp(request.param)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / request.param / name, target)
    for file in (GOLDEN / "processor" / PAIRS[request.param]).iterdir():
        shutil.copy(file, target)
    return target


@pytest.fixture(scope="session")
def model(directory):
    return load(directory, device="cpu")


@pytest.fixture
def says(model, monkeypatch):
    def speak(text, **more):
        speaker = Speaker(model, text, **more)
        monkeypatch.setattr(model, "engine", speaker)
        return speaker

    return speak
