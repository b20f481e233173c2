"""Files and hub names <-> models: the only room that knows foreign names. See `load_checkpoint`, `save`, `convert`."""

from paligemma.checkpoints.convert import FORMATS, ConversionReport, convert, save
from paligemma.checkpoints.hf import LAYOUTS
from paligemma.checkpoints.hf_config import ImageSettings
from paligemma.checkpoints.hub import pull, resolve
from paligemma.checkpoints.load import Checkpoint, load_checkpoint

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "Checkpoint",
    "ConversionReport",
    "ImageSettings",
    "convert",
    "load_checkpoint",
    "pull",
    "resolve",
    "save",
]
