"""A tiny random checkpoint with its tokenizer, and pictures: enough for the command line to answer nonsense quickly."""

import os
import shutil
import sys
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


@pytest.fixture
def open_terminal(monkeypatch):
    """A function that makes stdout and stderr one real terminal and returns one that reads what was written there.

    It has to be called in the test: before, stdout and stderr are pytest's.
    """
    pty = pytest.importorskip("pty")
    closing = []

    def open_terminal(stdout=True):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "80")
        main_end, screen_end = pty.openpty()
        os.set_blocking(main_end, False)
        screen = os.fdopen(screen_end, "w", encoding="utf-8")
        closing.extend((screen.close, lambda: os.close(main_end)))
        monkeypatch.setattr(sys, "stderr", screen)
        if stdout:
            monkeypatch.setattr(sys, "stdout", screen)

        def written():
            screen.flush()
            parts = []
            try:
                while part := os.read(main_end, 65536):
                    parts.append(part)
            except BlockingIOError:
                pass
            return b"".join(parts).decode().replace("\r\n", "\n")

        return written

    yield open_terminal
    for close in closing:
        close()
