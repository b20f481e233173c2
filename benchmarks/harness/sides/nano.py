"""The bundled model: a whole `paligemma detect` process as a user starts it, and what of it is the model's work."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.sides import Run

PICTURE = str(Path(__file__).parents[3] / "examples" / "scene.png")
WORDS = "cat; dog; sun"
INSIDE = """
import time, sys
began = time.perf_counter()
import paligemma
model = paligemma.load()
loaded = time.perf_counter()
found = model.detect(sys.argv[1], sys.argv[2])
print(loaded - began, time.perf_counter() - loaded)
"""


class Nano:
    libraries = ()

    def __init__(self, run: Run):
        pass

    def warm(self) -> None:
        """Files are in memory afterwards."""
        self._detect()

    def once(self) -> dict[str, Any]:
        began = time.perf_counter()
        said = self._detect()
        wall = time.perf_counter() - began
        inside = subprocess.run(
            [sys.executable, "-c", INSIDE, PICTURE, WORDS], capture_output=True, text=True, check=True
        )  # fmt: skip
        load_s, model_s = map(float, inside.stdout.split())
        return {"wall_s": wall, "load_s": load_s, "model_s": model_s, "answers": [[said]]}

    def _detect(self) -> str:
        command = [sys.executable, "-m", "paligemma", "detect", WORDS, PICTURE, "--json"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
