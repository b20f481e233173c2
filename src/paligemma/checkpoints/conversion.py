"""Saving a model, and converting files of one format into the other, one tensor in memory at a time.

Lossless in both directions, but for int8, and verified on request: the same random input through the source and what
was written. Padding rows, which nothing ever produces, are dropped on the way to npz and made anew on the way back.
`quantize` writes directories that answer in fewer bits.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from paligemma.checkpoints import hub
from paligemma.checkpoints.big_vision import Sidecar, write_npz, write_sidecar
from paligemma.checkpoints.fingerprint import stored_fingerprint
from paligemma.checkpoints.hf import LAYOUTS, write_hf
from paligemma.checkpoints.hf_config import ImageSettings
from paligemma.checkpoints.load import Opened, build_model, open_checkpoint
from paligemma.checkpoints.pack_report import PackReport
from paligemma.checkpoints.parts import methods_of
from paligemma.checkpoints.quantized import INT8, Coding, check_original
from paligemma.checkpoints.quantizing import write_quantized
from paligemma.checkpoints.safetensors_io import writing
from paligemma.checkpoints.tensors import ModelTensors, as_dtype, common_dtype, dtype_name, parameter_shapes
from paligemma.config import IMAGE_SLOT, did_you_mean
from paligemma.errors import UsageError
from paligemma.model import PaliGemmaModel

FORMATS = ("hf", "big_vision", INT8)
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class ConversionReport:
    """What was written, and how far its logits are from the source's (None if not verified)."""

    source: Path
    target: Path
    source_format: str
    format: str
    layout: str | None
    dtype: str
    num_tensors: int
    num_parameters: int
    files: tuple[Path, ...]
    num_bytes: int
    seconds: float
    max_logits_difference: float | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """What was written in fewer bits.

    Attributes:
        methods: of each part. dtype: of what stays as it is. packed: how far each matrix is off.
    """

    source: Path
    target: Path
    methods: Mapping[str, str]
    dtype: str
    packed: PackReport
    files: tuple[Path, ...]
    num_bytes: int
    seconds: float


def save(
    model: PaliGemmaModel,
    target: "str | Path",
    *,
    format: str = "hf",
    dtype: "str | torch.dtype | None" = None,
    layout: str = "hub",
    shard_bytes: int = SHARD_BYTES,
    params_prefix: bool = True,
    image_token_id: int | None = None,
    image: ImageSettings | None = None,
    tokenizer_path: "str | Path | None" = None,
    codec_path: "str | Path | None" = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes a model; returns the files.

    Args:
        target: a directory for "hf" and "int8"; an .npz file for "big_vision", which gets a .json of the same name.
        dtype: of the file, or of what is no matrix in an "int8" one; default the model's.
        layout: of the "hf" keys: "hub" (as Google published them), "4.5x" or "5.23" (transformers' own names).
        shard_bytes: "hf" weights above this are split.
        params_prefix: "big_vision" keys start with `params/`.
        image_token_id: of `<image>`; default the first row behind the vocabulary.
        tokenizer_path: a directory or file to copy the tokenizer from.
        codec_path: a mask codec to copy beside the weights; masks mean nothing to another one.
        overwrite: replace weights that are already at `target`.

    Raises:
        UsageError: unknown format or layout, weights in the way, or a model with adapters or quantised layers.
        ResourceError: not enough disk.
    """
    _refuse_changed(model)
    source = Opened(
        tensors=ModelTensors(model),
        config=model.config,
        path=Path(),
        format="memory",
        image_token_id=image_token_id,
        image=image or ImageSettings(model.config.vision.image_size_px),
        tokenizer_path=None if tokenizer_path is None else Path(tokenizer_path),
        name=None,
    )
    wanted = as_dtype(dtype) or common_dtype(source.tensors)
    destination = Path(target)
    codec = _codec_to_copy(codec_path, _folder(destination, format), overwrite)
    files = _write(source, destination, format, wanted, layout, shard_bytes, params_prefix, overwrite)
    return files + _copied(codec)


def _refuse_changed(model: PaliGemmaModel) -> None:
    """
    Raises:
        UsageError: the model's tensors are not those of its architecture.
    """
    foreign = sorted(model.state_dict().keys() ^ parameter_shapes(model.config).keys())
    if foreign:
        raise UsageError(
            f"the model has other tensors than its architecture, such as {foreign[0]}; "
            "merge its adapter (`paligemma merge`) or save the adapter alone; quantised layers cannot be saved"
        )


def convert(
    source: "str | Path",
    target: "str | Path",
    *,
    format: str = "hf",
    dtype: "str | torch.dtype | None" = None,
    layout: str = "hub",
    shard_bytes: int = SHARD_BYTES,
    params_prefix: bool = True,
    overwrite: bool = False,
    verify: bool = False,
    variant: str | None = None,
    revision: str | None = None,
    tokenizer: "str | Path | None" = None,
) -> ConversionReport:
    """Rewrites a checkpoint in another format, layout, type or sharding; arguments as for `save` and `load_checkpoint`.

    `tokenizer` is a file, directory or model to take the tokenizer from where the source comes without. `verify` runs
    both models, one after the other, on one random image and prompt; it needs memory for one of them.

    Raises:
        UnavailableError, CheckpointError: the source cannot be read.
        UsageError: unknown format or layout, or weights in the way.
        ResourceError: not enough disk or memory.
    """
    start = time.monotonic()
    opened = _opened(source, revision, variant, tokenizer)
    wanted = as_dtype(dtype) or common_dtype(opened.tensors)
    destination = Path(target)
    codec = _codec_to_copy(hub.codec_beside(opened.path), _folder(destination, format), overwrite)
    files = _write(opened, destination, format, wanted, layout, shard_bytes, params_prefix, overwrite)
    files += _copied(codec)
    difference = None
    if verify:
        compute = common_dtype(opened.tensors)
        compute = torch.float32 if compute == torch.float16 else compute
        # Opened anew: arrays of an npz are read front to back once.
        expected = random_logits(build_model(open_checkpoint(opened.path, variant), compute))
        found = random_logits(build_model(open_checkpoint(destination), compute))
        difference = (expected - found).abs().max().item()
    return ConversionReport(
        source=opened.path,
        target=destination,
        source_format=opened.format,
        format=format,
        layout=layout if format == "hf" else None,
        dtype=dtype_name(wanted),
        num_tensors=len(opened.tensors.shapes),
        num_parameters=opened.config.num_parameters,
        files=tuple(files),
        num_bytes=sum(path.stat().st_size for path in files),
        seconds=time.monotonic() - start,
        max_logits_difference=difference,
    )


def quantize(
    source: "str | Path",
    target: "str | Path",
    *,
    method: "str | Mapping[str, str]" = "int4",
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    variant: str | None = None,
    revision: str | None = None,
    tokenizer: "str | Path | None" = None,
) -> QuantizationReport:
    """Writes a directory that answers in fewer bits, the same as the source loaded with `quantize=method`. Tokenizer,
    mask codec and calibration go along.

    Args:
        method: "int4", "nf4", "int8", "fp8", or by part as "lm=int4,head=int8" or {"lm": "int4", "head": "int8"}.
        variant, revision, tokenizer: as for `convert`.

    Raises:
        UnavailableError, CheckpointError: the source cannot be read.
        UsageError: unknown method, a source that is quantised by part already, or weights in the way.
        CheckFailed: a matrix has numbers that are none.
        ResourceError: not enough disk or memory.
    """
    start = time.monotonic()
    methods = methods_of(method)
    opened = _opened(source, revision, variant, tokenizer)
    check_original(opened.tensors, "quantise")
    destination, dtype = Path(target), common_dtype(opened.tensors)
    codec = _codec_to_copy(hub.codec_beside(opened.path), destination, overwrite)
    sha256 = stored_fingerprint(_opened(source, revision, variant, None))
    coding = Coding(dtype=dtype, parts=methods, sha256=sha256)
    files, packed = _write_coded(opened, destination, coding, shard_bytes, overwrite)
    files += _copied(codec)
    calibration = (opened.path if opened.path.is_dir() else opened.path.parent) / hub.CALIBRATION
    if calibration.is_file():  # `load` takes the source's, so it takes this one's
        files.append(Path(shutil.copyfile(calibration, destination / hub.CALIBRATION)))
    return QuantizationReport(
        source=opened.path, target=destination, methods=methods, dtype=dtype_name(dtype), packed=packed,
        files=tuple(files), num_bytes=sum(path.stat().st_size for path in files), seconds=time.monotonic() - start,
    )  # fmt: skip


def _opened(source: "str | Path", revision: str | None, variant: str | None, tokenizer: "str | Path | None") -> Opened:
    opened = open_checkpoint(hub.resolve(source, revision), variant)
    return opened if tokenizer is None else replace(opened, tokenizer_path=hub.find_tokenizer(tokenizer))


def _write(
    source: Opened,
    target: Path,
    format: str,
    dtype: torch.dtype,
    layout: str,
    shard_bytes: int,
    params_prefix: bool,
    overwrite: bool,
) -> list[Path]:
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}{did_you_mean(format, list(FORMATS))}")
    if layout not in LAYOUTS:
        raise UsageError(f"unknown key layout {layout!r}{did_you_mean(layout, LAYOUTS)}")
    if shard_bytes < 1:
        raise UsageError(f"shards of {shard_bytes} bytes are impossible; give a positive size")
    if format == "big_vision":
        if target.suffix != ".npz":
            raise UsageError(f"the target of a big_vision file is {target}, expected a name ending in .npz; rename it")
        _refuse_overwriting(source, [target] if target.exists() else [], target, overwrite)
        path = write_npz(source.tensors, source.config, target, dtype=dtype, params_prefix=params_prefix)
        config = source.config.with_padding_rows(0)
        return [path, write_sidecar(path, Sidecar(config, source.image_token_id, source.image.resize))]
    if format == INT8:
        return _write_coded(source, target, Coding(dtype=dtype), shard_bytes, overwrite)[0]
    return _write_directory(source, target, partial(write_hf, dtype=dtype, layout=layout), shard_bytes, overwrite)


def _write_coded(
    source: Opened, target: Path, coding: Coding, shard_bytes: int, overwrite: bool
) -> tuple[list[Path], PackReport]:
    reports = []

    def write(*arguments: Any, **more: Any) -> list[Path]:
        files, report = write_quantized(*arguments, coding=coding, **more)
        reports.append(report)
        return files

    return _write_directory(source, target, write, shard_bytes, overwrite), reports[0]


def _write_directory(
    source: Opened, target: Path, write: Callable[..., list[Path]], shard_bytes: int, overwrite: bool
) -> list[Path]:
    if target.is_file():
        raise UsageError(f"{target} is a file, expected a directory to write; choose another target")
    stale = [*target.glob("*.safetensors"), *target.glob("*.safetensors.index.json")]
    _refuse_overwriting(source, stale, target, overwrite)
    files = write(
        source.tensors, source.config, target, shard_bytes=shard_bytes, image_token_id=source.image_token_id,
        image=source.image, tokenizer_path=source.tokenizer_path,
    )  # fmt: skip
    for path in set(stale) - set(files):
        path.unlink()
    return files


def _folder(target: Path, format: str) -> Path:
    return target.parent if format == "big_vision" else target


def _codec_to_copy(source: "str | Path | None", directory: Path, overwrite: bool) -> tuple[Path, Path] | None:
    """From where to where the mask codec goes with its model, whose masks mean nothing to another codec.

    Raises:
        UsageError: the codec of another model is in the way.
    """
    if source is None or Path(source).parent.resolve() == directory.resolve():
        return None
    codec = Path(source)
    target = directory / (codec.name if codec.name in hub.CODEC_FILES else hub.CODEC_FILES[0])
    if target.is_file() and not overwrite and target.read_bytes() != codec.read_bytes():
        raise UsageError(f"{target} is the mask codec of another model; choose another folder, or allow overwriting")
    return codec, target


def _copied(codec: tuple[Path, Path] | None) -> list[Path]:
    if codec is None:
        return []
    source, target = codec
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing([target]) as [partial]:
        shutil.copyfile(source, partial)
    return [target]


def _refuse_overwriting(source: Opened, present: list[Path], target: Path, overwrite: bool) -> None:
    read = [source.path, source.path.parent] if source.path.is_file() else [source.path]
    if source.format != "memory" and target.resolve() in [path.resolve() for path in read]:
        raise UsageError(f"{target} holds the source itself; choose another target")
    if present and not overwrite:
        raise UsageError(f"{target} already holds {present[0].name}; choose another target, or allow overwriting")


@torch.no_grad()
def random_logits(model: PaliGemmaModel) -> torch.Tensor:
    """Logits float32[1, T, vocab_size] of a fixed random image and eight tokens."""
    generator = torch.Generator().manual_seed(0)
    vision, text = model.config.vision, model.config.text
    pixels = torch.rand((1, 3, vision.image_size_px, vision.image_size_px), generator=generator) * 2 - 1
    words = torch.randint(text.vocab_size, (1, 8), generator=generator)
    slots = torch.full((1, vision.num_image_tokens), IMAGE_SLOT)
    hidden = model.hidden(torch.cat([slots, words], dim=1), pixels)[:, -words.shape[1] :]
    return model.language_model.logits(hidden)[..., : text.vocab_size].float()
