"""PaliGemma, PaliGemma 2 and PaliGemma 2 mix in one package.

    import paligemma
    model = paligemma.load()                        # the bundled model, offline
    for box in model.detect("photo.jpg", "circle"):
        print(box.label, box.xyxy)

This file is the table of contents: each public name and the room it lives in. Rooms are imported when a name is first
used, so that `import paligemma` itself is light and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paligemma.api import AnswerStream as AnswerStream
    from paligemma.api import Images as Images
    from paligemma.api import PaliGemma as PaliGemma
    from paligemma.api import load as load
    from paligemma.config import VARIANTS as VARIANTS
    from paligemma.config import Config as Config
    from paligemma.config import Variant as Variant
    from paligemma.config import variant as variant
    from paligemma.engine import Engine as Engine
    from paligemma.engine import Sampling as Sampling
    from paligemma.errors import PaliGemmaError as PaliGemmaError
    from paligemma.images import open_image as open_image
    from paligemma.images import read_frames as read_frames
    from paligemma.processor import Processor as Processor
    from paligemma.results import Answer as Answer
    from paligemma.results import Box as Box
    from paligemma.results import Detections as Detections
    from paligemma.results import Notice as Notice
    from paligemma.tokenizer import Tokenizer as Tokenizer

__version__ = "0.1.0"

_ROOMS = {
    "load": "api",
    "PaliGemma": "api",
    "Images": "api",
    "AnswerStream": "api",
    "Answer": "results",
    "Detections": "results",
    "Box": "results",
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
    value = getattr(import_module(f"paligemma.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
