"""A name -> a model ready to answer: where checkpoint, tokenizer, device and number type meet.

In: a bundled or hub name, a directory or a file. Out: `PaliGemma`, with the mask codec and the calibration that lie
beside it. Nothing is ever downloaded here.
"""

import json
import os
from pathlib import Path

import torch

from paligemma.api.model import IMAGE_CACHE, PaliGemma
from paligemma.checkpoints import find_codec, resolve
from paligemma.checkpoints.load import build_model, open_checkpoint
from paligemma.checkpoints.placement import choose_device, choose_dtype
from paligemma.checkpoints.tensors import common_dtype
from paligemma.config import VARIANTS, did_you_mean
from paligemma.errors import CheckpointError, UnavailableError, UsageError
from paligemma.metrics.calibration import Calibration
from paligemma.pixels import RESIZES
from paligemma.processor import Processor
from paligemma.tokenizer import Tokenizer

CALIBRATION = "calibration.json"


def load(
    name: str | os.PathLike[str] = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    resize: str | None = None,
    image_cache: int = IMAGE_CACHE,
    calibration: str | os.PathLike[str] | None = None,
) -> PaliGemma:
    """A model ready to answer: the bundled one, a directory or file, or a hub name that was pulled before.

    Never uses the network. Published names need no `google/`.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; by default the best there is.
        dtype: "float32", "bfloat16", "float16"; by default as stored, and safely where that is float16.
        revision: of a hub name, default `main`.
        tokenizer: model, file or directory to take it from, for checkpoints without (big_vision's npz).
        resize: one of `pixels.RESIZES`; by default what the checkpoint says.
        image_cache: how many pictures' features to remember (at most 512 MiB of them); 0 none.
        calibration: file that `paligemma calibrate` wrote; by default calibration.json beside the model.

    Raises:
        UnavailableError: not on this machine; says how to get it.
        CheckpointError: damaged, incomplete or not a PaliGemma.
        UsageError: unknown device, type or resizer. ResourceError: out of memory.
    """
    place = choose_device(device)
    path = resolve(os.fspath(name), revision)
    opened = open_checkpoint(path)
    chosen, notes = choose_dtype(dtype, common_dtype(opened.tensors), place, opened.config)
    words = resolve(os.fspath(tokenizer)) if tokenizer is not None else opened.tokenizer_path
    if words is None:
        raise CheckpointError(
            f"{path} comes without a tokenizer; put tokenizer.json or tokenizer.model beside it, or give tokenizer=PATH"
        )
    vision, text = opened.config.vision, opened.config.text
    # the file's "bilinear" is Pillow's, which averages when it shrinks; the one of RESIZES is big_vision's without
    stored_resize = {"bilinear": "bilinear-antialias"}.get(opened.image.resize, opened.image.resize)
    processor = Processor(
        Tokenizer.load(words), image_size_px=vision.image_size_px, num_image_tokens=vision.num_image_tokens,
        resize=resize or stored_resize,
    )  # fmt: skip
    if processor.resize not in RESIZES:
        raise UsageError(f"unknown resize {processor.resize!r}{did_you_mean(processor.resize, RESIZES)}")
    if processor.tokenizer.vocab_size > text.embedding_rows:
        raise CheckpointError(
            f"the tokenizer at {words} has {processor.tokenizer.vocab_size} ids, but the model only "
            f"{text.embedding_rows} rows; use the tokenizer that belongs to this model"
        )
    model = build_model(opened, chosen, place)
    return PaliGemma(
        model, processor, name=opened.name or str(name), variant=VARIANTS.get(opened.name or ""), notes=notes,
        image_cache=image_cache, codec_path=find_codec(path), calibration=_calibration(path, calibration),
    )  # fmt: skip


def _calibration(model: Path, given: str | os.PathLike[str] | None) -> Calibration | None:
    """That of the file given, or of `calibration.json` beside the model.

    Raises:
        UnavailableError: the file given is not there. CheckpointError: it cannot be read.
    """
    file = Path(given) if given is not None else (model if model.is_dir() else model.parent) / CALIBRATION
    if not file.is_file():
        if given is None:
            return None
        raise UnavailableError(f"there is no file {file} with a calibration; make one with `paligemma calibrate`")
    try:
        return Calibration.from_dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, UsageError) as error:
        raise CheckpointError(f"{file} is no calibration ({error}); calibrate again, or remove it") from error
