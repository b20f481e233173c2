"""What a checkpoint's files say about tokens and pixels -> the `Processor` of its model.

In: architecture, settings of pictures, and where its tokenizer lies. Not done here: finding these (`load`), weights.
"""

from pathlib import Path

from paligemma.checkpoints.hf_config import ImageSettings
from paligemma.config import Config, did_you_mean
from paligemma.errors import CheckpointError, UsageError
from paligemma.pixels import RESIZES
from paligemma.processor import Processor
from paligemma.tokenizer import Tokenizer

# A file's "bilinear" is Pillow's, which averages when it shrinks; that of `pixels` is big_vision's without.
STORED_RESIZE = {"bilinear": "bilinear-antialias"}


def load_processor(config: Config, image: ImageSettings, tokenizer: Path, *, resize: str | None = None) -> Processor:
    """What makes tokens and pixels for a model.

    Args:
        config: of the model at the resolution that is wanted.
        tokenizer: file or directory that holds it.
        resize: one of `pixels.RESIZES`; by default what the checkpoint says.

    Raises:
        CheckpointError: the tokenizer is damaged, or that of another model. UsageError: unknown resizer.
    """
    way = resize or STORED_RESIZE.get(image.resize, image.resize)
    if way not in RESIZES:
        raise UsageError(f"unknown resize {way!r}{did_you_mean(way, RESIZES)}")
    vision, words = config.vision, Tokenizer.load(tokenizer)
    if words.vocab_size > config.text.embedding_rows:
        raise CheckpointError(
            f"the tokenizer at {tokenizer} has {words.vocab_size} ids, but the model only "
            f"{config.text.embedding_rows} rows; use the tokenizer that belongs to this model"
        )
    return Processor(words, image_size_px=vision.image_size_px, num_image_tokens=vision.num_image_tokens, resize=way)
