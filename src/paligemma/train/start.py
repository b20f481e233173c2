"""Where a run begins: the model its config names, at the resolution it names, and what belongs to that model.

    nano, paligemma2-3b-pt-224, runs/first/last     weights of that model
    scratch:paligemma2-3b-pt-224, scratch:folder    random weights of its architecture, with its tokenizer

Another resolution than the model's own resamples its position table, as the reference does from stage to stage. Not
done here: what is frozen and adapted (`parts`).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from paligemma.checkpoints import find_codec, resolve
from paligemma.checkpoints.hf_config import ImageSettings, read_config, read_image_settings
from paligemma.checkpoints.load import at_resolution, build_model, open_checkpoint
from paligemma.checkpoints.processing import load_processor
from paligemma.checkpoints.quantized import check_original
from paligemma.checkpoints.tensors import common_dtype
from paligemma.config import Config
from paligemma.errors import UnavailableError
from paligemma.model import PaliGemmaModel
from paligemma.processor import Processor
from paligemma.train.config import TrainConfig
from paligemma.train.pretraining.scratch import initialise

SCRATCH = "scratch:"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A model on the CPU and what its files say.

    Attributes:
        dtype: of its file, and of what will be written.
        image_token_id: of `<image>` in its tokenizer, None where not told.
        tokenizer_path: what holds its tokenizer. codec_path: its mask codec, None where there is none.
    """

    model: PaliGemmaModel
    processor: Processor
    dtype: torch.dtype
    image: ImageSettings
    image_token_id: int | None
    tokenizer_path: Path
    codec_path: Path | None


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A model that is on this machine, before its weights are read."""

    path: Path
    config: Config
    image: ImageSettings
    image_token_id: int | None
    tokenizer_path: Path


def begin(config: TrainConfig, *, frozen_float32: bool = False) -> Start:
    """The model a run starts with, on the CPU; nothing is frozen yet.

    Weights are float32, unless most of them will stay frozen under adapters: then the type of their file, if that has
    float32's range.

    Args:
        frozen_float32: float32 for those too.

    Raises:
        UnavailableError: the model or its tokenizer is not on this machine. CheckpointError: damaged.
        UsageError: no such resolution.
    """
    scratch = config.model.startswith(SCRATCH)
    found = _find_architecture(config) if scratch else _find(config.model)
    wanted = found.config.at_resolution(config.image_size_px or found.config.vision.image_size_px)
    processor = load_processor(wanted, found.image, found.tokenizer_path)
    if scratch:
        model, dtype = from_nothing(wanted, config.seed, processor.tokenizer.loc_start), torch.float32
    else:
        opened = open_checkpoint(found.path)
        check_original(opened.tensors, "train")
        dtype = common_dtype(opened.tensors)
        keeps = config.lora is not None and not frozen_float32 and config.precision == "bf16"
        model = build_model(opened, dtype if keeps and dtype != torch.float16 else torch.float32)
        model = at_resolution(model, wanted.vision.image_size_px)
    image = replace(found.image, size_px=wanted.vision.image_size_px)
    return Start(
        model=model, processor=processor, dtype=dtype, image=image, image_token_id=found.image_token_id,
        tokenizer_path=found.tokenizer_path, codec_path=find_codec(found.path),
    )  # fmt: skip


def from_nothing(config: Config, seed: int, first_location: int) -> PaliGemmaModel:
    """Random weights of an architecture, a function of the seed alone."""
    model = PaliGemmaModel(config)
    initialise(model, seed=seed, first_location=first_location)
    return model


def _find(name: str) -> _Found:
    opened = open_checkpoint(resolve(name))
    if opened.tokenizer_path is None:
        raise UnavailableError(
            f"{opened.path} comes without a tokenizer; put tokenizer.json or tokenizer.model beside it"
        )
    return _Found(
        path=opened.path, config=opened.config, image=opened.image, image_token_id=opened.image_token_id,
        tokenizer_path=opened.tokenizer_path,
    )  # fmt: skip


def _find_architecture(config: TrainConfig) -> _Found:
    """What `scratch:NAME` means: a model on this machine, or a folder with config.json and tokenizer but no weights."""
    name = config.model.removeprefix(SCRATCH)
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        return _find(name)  # with the padding rows of its file, which its tokenizer may name
    architecture, image_token_id = read_config(folder / "config.json")
    if not any((folder / one).is_file() for one in ("tokenizer.json", "tokenizer.model")):
        raise UnavailableError(f"{folder} has no tokenizer; put tokenizer.json or tokenizer.model there")
    return _Found(
        path=folder, config=architecture, image=read_image_settings(folder, architecture),
        image_token_id=image_token_id, tokenizer_path=folder,
    )  # fmt: skip
