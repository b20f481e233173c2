"""A tiny random checkpoint with its tokenizer, and pictures: enough for the command line to answer nonsense quickly."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The directory of a whole checkpoint."""
    directory = tmp_path_factory.mktemp("tiny")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "hf-pg2-tiny" / name, directory)
    shutil.copy(GOLDEN / "processor" / "tok-added" / "tokenizer.json", directory)
    return directory


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The present directory, holding a.png, b.jpg and the damaged bad.png."""
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((64, 48), 80).convert("RGB").save("a.png")
    Image.radial_gradient("L").resize((30, 50)).convert("RGB").save("b.jpg")
    Path("bad.png").write_bytes(Path("a.png").read_bytes()[:200])
    return tmp_path
