"""The machine itself, as one more side: what `machine.measured` finds at this moment."""

from typing import Any

from harness.sides import Run


class Limits:
    libraries = ("paligemma.engine.machine",)

    def __init__(self, run: Run):
        self.types = tuple(run.options["types"])

    def warm(self) -> None:
        self.once()

    def once(self) -> dict[str, Any]:
        import torch

        from paligemma.engine.machine import measured

        found = measured(torch.device("cpu"), self.types)
        return {"read": found.read, "matrix": found.matrix}
