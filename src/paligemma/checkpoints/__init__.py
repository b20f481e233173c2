"""Files and hub names <-> models: the only room that knows foreign names. See `load_checkpoint`, `save`, `convert`,
`quantize`.

Names are imported when first used: looking for a model on disk (`resolve`, `pull`) needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paligemma.checkpoints.adapters import load_adapter, save_adapter
    from paligemma.checkpoints.conversion import (
        FORMATS,
        ConversionReport,
        QuantizationReport,
        convert,
        quantize,
        save,
    )
    from paligemma.checkpoints.hf import LAYOUTS
    from paligemma.checkpoints.hf_config import ImageSettings
    from paligemma.checkpoints.hub import find_tokenizer, pull, resolve
    from paligemma.checkpoints.load import Checkpoint, load_checkpoint
    from paligemma.checkpoints.mask_codec import find_codec, load_codec, save_codec
    from paligemma.checkpoints.merging import MergeReport, merge

_FILES = {
    "FORMATS": "conversion",
    "ConversionReport": "conversion",
    "QuantizationReport": "conversion",
    "convert": "conversion",
    "quantize": "conversion",
    "save": "conversion",
    "LAYOUTS": "hf",
    "ImageSettings": "hf_config",
    "find_tokenizer": "hub",
    "pull": "hub",
    "resolve": "hub",
    "Checkpoint": "load",
    "load_adapter": "adapters",
    "load_checkpoint": "load",
    "find_codec": "mask_codec",
    "load_codec": "mask_codec",
    "save_adapter": "adapters",
    "save_codec": "mask_codec",
    "MergeReport": "merging",
    "merge": "merging",
}

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "Checkpoint",
    "ConversionReport",
    "ImageSettings",
    "MergeReport",
    "QuantizationReport",
    "convert",
    "find_codec",
    "find_tokenizer",
    "load_adapter",
    "load_checkpoint",
    "load_codec",
    "merge",
    "pull",
    "quantize",
    "resolve",
    "save",
    "save_adapter",
    "save_codec",
]


def __getattr__(name: str) -> Any:
    """Imports the file of a public name when it is first asked for."""
    if name not in _FILES:
        raise AttributeError(f"module 'paligemma.checkpoints' has no attribute {name!r}")
    value = getattr(import_module(f"paligemma.checkpoints.{_FILES[name]}"), name)
    globals()[name] = value
    return value
