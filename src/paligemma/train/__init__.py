"""Training: examples and a starting model -> better weights, in stages or by transfer.

    paligemma.train(TrainConfig(...))     the room itself can be called

As a package it keeps the name `paligemma.train`, under which its rooms are imported; so the package is what is called.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paligemma.train.config import TrainConfig
    from paligemma.train.records import Summary


def train(config: "TrainConfig", **options: Any) -> "Summary":
    """`run.train`, which is imported when it is first called, and torch with it."""
    from paligemma.train import run

    return run.train(config, **options)


class _Room(ModuleType):
    """A module that can be called."""

    def __call__(self, config: "TrainConfig", **options: Any) -> "Summary":
        return train(config, **options)


sys.modules[__name__].__class__ = _Room
