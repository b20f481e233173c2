"""A name -> a model ready to answer: where checkpoint, tokenizer, device and number type meet.

In: a bundled or hub name, a directory or a file, and perhaps an adapter. Out: `PaliGemma`, with the mask codec and the
calibration that lie beside it. Nothing is ever downloaded here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from paligemma.api.building import built, place_of, wait_in_host
from paligemma.api.model import IMAGE_CACHE, PaliGemma
from paligemma.checkpoints import find_codec, find_tokenizer, resolve
from paligemma.checkpoints.adapter_config import read_adapter_config
from paligemma.checkpoints.adapters import CONFIG as ADAPTER_CONFIG
from paligemma.checkpoints.adapters import find_adapter, is_adapter, load_adapter, trained_size_px
from paligemma.checkpoints.fingerprint import stored_fingerprint
from paligemma.checkpoints.hub import CALIBRATION
from paligemma.checkpoints.load import Opened, open_checkpoint
from paligemma.checkpoints.pack_report import PackReport
from paligemma.checkpoints.placement import choose_dtype
from paligemma.checkpoints.processing import load_processor
from paligemma.checkpoints.tensors import common_dtype
from paligemma.config import find_variant
from paligemma.errors import CheckpointError, UnavailableError, UsageError
from paligemma.metrics.calibration import Calibration
from paligemma.processor import Processor


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
    adapter: str | os.PathLike[str] | None = None,
    any_base: bool = False,
    quantize: str | Mapping[str, str] | None = None,
    invariant: bool = False,
    parallel: str | None = None,
    offload: str | int | None = None,
) -> PaliGemma:
    """A model ready to answer: the bundled one, a directory or file, or a hub name that was pulled before.

    Never uses the network. Published names need no `google/`. An adapter's directory stands for its base with it.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; by default the best there is.
        dtype: "float32", "bfloat16", "float16"; by default as stored, and safely where that is float16.
        revision: of a hub name, default `main`.
        tokenizer: model, file or directory to take it from, for checkpoints without (big_vision's npz).
        resize: one of `pixels.RESIZES`; by default what the checkpoint says.
        image_cache: how many pictures' features to remember (at most 512 MiB of them); 0 none.
        calibration: file that `paligemma calibrate` wrote; by default calibration.json beside the adapter or model.
        adapter: directory or pulled hub name of a LoRA in PEFT's format; pictures have the size it was trained on.
        any_base: accept an adapter that was trained on another base.
        quantize: keep matrices in fewer bits: "int8", "int4", "nf4", on newer NVIDIA cards "fp8", or by part as
            {"lm": "int4", "head": "int8"}; parts are vision, lm and head. A directory of `paligemma quantize` is so
            without being asked. How far each matrix is off stands in `packed` of what comes back.
        invariant: an answer has the same bits whoever is answered beside it, for one `batch_size`, at half the pace.
        parallel: "tensor" shares the decoder among torchrun's processes, each of which must ask the same.
        offload: so many decoder layers wait in the host's memory, for a small card; "auto" takes as few as must.

    Raises:
        UnavailableError: not on this machine; says how to get it.
        CheckpointError: damaged, incomplete or not a PaliGemma; an adapter of another model.
        UsageError: unknown device, type or resizer. ResourceError: out of memory.
    """
    place = place_of(device, parallel, (("quantize", quantize), ("adapter", adapter), ("offload", offload)))
    path, adapter_path = base_and_adapter(name, revision, adapter)
    opened = open_checkpoint(path)
    chosen, notes = choose_dtype(dtype, common_dtype(opened.tensors), place, opened.config)
    size_px = (adapter_path and trained_size_px(adapter_path)) or opened.config.vision.image_size_px
    processor = _processor(opened, size_px, tokenizer, resize)
    called = opened.name or str(path if adapter is None and adapter_path else name)
    model, packed = built(opened, chosen, place, size_px, quantize, parallel=parallel, in_host=offload is not None)
    if adapter_path is not None:
        sha256 = _fingerprint(opened, chosen, packed)
        load_adapter(model, adapter_path, base=called, base_sha256=sha256, any_base=any_base)
    return PaliGemma(
        model, processor, name=called, variant=find_variant(opened.name or ""), image_cache=image_cache,
        notes=[*notes, *wait_in_host(model, place, offload)], codec_path=find_codec(path),
        calibration=_calibration(path, adapter_path, calibration), adapter_path=adapter_path, packed=packed,
        invariant=invariant,
    )  # fmt: skip


def _processor(opened: Opened, size_px: int, tokenizer: str | os.PathLike[str] | None, resize: str | None) -> Processor:
    """What makes tokens and pixels for a model that takes pictures of `size_px`.

    Raises:
        CheckpointError: no tokenizer, or one of another model. UsageError: unknown resizer.
    """
    words = find_tokenizer(os.fspath(tokenizer)) if tokenizer is not None else opened.tokenizer_path
    if words is None:
        raise CheckpointError(
            f"{opened.path} comes without a tokenizer; put tokenizer.json or tokenizer.model beside it, or give "
            "tokenizer=PATH"
        )
    return load_processor(opened.config.at_resolution(size_px), opened.image, words, resize=resize)


def base_and_adapter(
    name: str | os.PathLike[str], revision: str | None = None, adapter: str | os.PathLike[str] | None = None
) -> tuple[Path, Path | None]:
    """Where the weights and where the adapter lie that `load` would take; `name` may be the adapter itself.

    Raises:
        UnavailableError: one of them is not on this machine.
        CheckpointError: an adapter that does not say what it belongs to.
        UsageError: two adapters.
    """
    path = resolve(os.fspath(name), revision)
    if not is_adapter(path):
        return path, None if adapter is None else find_adapter(os.fspath(adapter))
    if adapter is not None:
        raise UsageError(f"{path} is an adapter itself, expected a base for {adapter}; give one of them alone")
    told = read_adapter_config(path / ADAPTER_CONFIG)
    if told.base is None:
        raise CheckpointError(
            f"{path} is a LoRA adapter that does not name its base; load the base with adapter={path}"
        )
    return resolve(told.base, told.revision), find_adapter(path)


def _fingerprint(opened: Opened, chosen: torch.dtype, packed: PackReport | None) -> str | None:
    """That of the stored weights where float16 or codes have changed them; None leaves it to the model in memory."""
    stored = common_dtype(opened.tensors)
    changed = packed is not None or chosen == torch.float16 != stored
    return stored_fingerprint(opened) if changed else None


def _calibration(model: Path, adapter: Path | None, given: str | os.PathLike[str] | None) -> Calibration | None:
    """That of the file given, or of `calibration.json` beside the adapter, or beside the model.

    Raises:
        UnavailableError: the file given is not there. CheckpointError: it cannot be read.
    """
    file = Path(given) if given is not None else (model if model.is_dir() else model.parent) / CALIBRATION
    if given is None and adapter is not None and (adapter / CALIBRATION).is_file():
        file = adapter / CALIBRATION
    if not file.is_file():
        if given is None:
            return None
        raise UnavailableError(f"there is no file {file} with a calibration; make one with `paligemma calibrate`")
    try:
        return Calibration.from_dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, UsageError) as error:
        raise CheckpointError(f"{file} is no calibration ({error}); calibrate again, or remove it") from error
