"""PaliGemma, PaliGemma 2 and PaliGemma 2 mix in one package.

    import paligemma
    model = paligemma.load()                        # the bundled model, offline
    for box in model.detect("photo.jpg", "circle"):
        print(box.label, box.xyxy)

This file is the table of contents: each public name and the room it lives in. Rooms are imported when a name is first
used, so that `import paligemma` itself is light and needs no torch. `__init__.pyi` tells type checkers the same.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "load": "api",
    "PaliGemma": "api",
    "Images": "api",
    "EncodedImage": "api",
    "Query": "api",
    "Tiles": "api",
    "Ranked": "api",
    "AnswerStream": "api",
    "train": "train",
    "TrainConfig": "train.config",
    "evaluate": "train.judging.benchmark",
    "Answer": "results",
    "Detections": "results",
    "Box": "results",
    "Mask": "results",
    "Notice": "results",
    "Config": "config",
    "Variant": "config",
    "VARIANTS": "config",
    "variant": "config",
    "Processor": "processor",
    "Tokenizer": "tokenizer",
    "Engine": "engine",
    "Sampling": "engine",
    "open_image": "images",
    "read_frames": "images",
    "PaliGemmaError": "errors",
}
__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> Any:
    """Imports the room of a public name when it is first asked for."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'paligemma' has no attribute {name!r}")
    room = import_module(f"paligemma.{_ROOMS[name]}")
    value = room if name == _ROOMS[name] else getattr(room, name)  # `paligemma.train(...)` calls the room itself
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
