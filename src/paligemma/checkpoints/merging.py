"""A base and its adapter -> one checkpoint like any other, with a report of how near it computes.

The sum is made in float32 and rounded once, to the file's type. Tokenizer, mask codec and calibration go along. A
quantised base is refused: its rounding would swallow the adapter. Needs memory for one model in float32.
"""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from paligemma.checkpoints import hub
from paligemma.checkpoints.adapters import find_adapter, load_adapter, trained_size_px
from paligemma.checkpoints.conversion import random_logits, save
from paligemma.checkpoints.load import at_resolution, build_model, open_checkpoint
from paligemma.checkpoints.quantized import check_original
from paligemma.checkpoints.tensors import as_dtype, common_dtype, dtype_name
from paligemma.errors import UsageError
from paligemma.linear.lora import LoraLinear
from paligemma.linear.swap import among, linears, swap_linears
from paligemma.model import PaliGemmaModel

TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}  # of the logits, by the file's type


@dataclass(frozen=True)
class MergeReport:
    """What was written, and how near it is to base and adapter apart, in logits of a fixed random input.

    Attributes:
        layers: how many had an adapter.
        largest_logit: of base and adapter, absolute.
        adapter_effect: largest difference that the adapter makes to the base.
        max_logits_difference: largest difference between base and adapter apart and the file read back.
        close: whether that is within `TOLERANCE` of the largest logit.
    """

    base: Path
    adapter: Path
    target: Path
    dtype: str
    layers: int
    files: tuple[Path, ...]
    num_bytes: int
    seconds: float
    largest_logit: float
    adapter_effect: float
    max_logits_difference: float
    close: bool


def merge_in_place(model: PaliGemmaModel) -> list[str]:
    """Turns every adapted layer into a plain one that computes the same; returns their names.

    Raises:
        UsageError: an adapter sits on a quantised layer, or there is none.
    """
    adapted = [name for name, layer in linears(model) if isinstance(layer, LoraLinear)]
    if not adapted:
        raise UsageError("this model has no adapter, so there is nothing to merge; load one first")
    return swap_linears(model, LoraLinear.merged, among(adapted))


def merge(
    base: "str | Path",
    adapter: "str | Path",
    target: "str | Path",
    *,
    dtype: "str | torch.dtype | None" = None,
    any_base: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
) -> MergeReport:
    """Writes base plus adapter as a checkpoint in Hugging Face's format at `target`, a directory.

    Args:
        dtype: of the file; default the base's.
        any_base, revision: as for `load_adapter` and `load_checkpoint`.
        overwrite: replace weights that are at the target already; base and adapter never are.

    Raises:
        UnavailableError, CheckpointError: base or adapter cannot be read, or do not belong together.
        UsageError: the target holds one of them, or other weights. ResourceError: not enough memory or disk.
    """
    start = time.monotonic()
    source, adapter_path, destination = hub.resolve(base, revision), find_adapter(adapter), Path(target)
    home = source if source.is_dir() else source.parent
    if destination.resolve() in (home.resolve(), adapter_path.resolve()):
        raise UsageError(f"{destination} holds what is to be merged; choose another target")
    opened = open_checkpoint(source)
    check_original(opened.tensors, "merge into")
    stored = as_dtype(dtype) or common_dtype(opened.tensors)
    size_px = trained_size_px(adapter_path) or opened.config.vision.image_size_px
    model = at_resolution(build_model(opened, torch.float32), size_px)
    plain = random_logits(model)
    load_adapter(model, adapter_path, base=opened.name or str(base), any_base=any_base)
    expected = random_logits(model)
    layers = merge_in_place(model)
    files = save(
        model, destination, dtype=stored, image=replace(opened.image, size_px=size_px),
        image_token_id=opened.image_token_id, tokenizer_path=opened.tokenizer_path,
        codec_path=hub.codec_beside(source), overwrite=overwrite,
    )  # fmt: skip
    del model
    beside = [path / hub.CALIBRATION for path in (adapter_path, home)]
    if calibration := next((file for file in beside if file.is_file()), None):
        files.append(Path(shutil.copyfile(calibration, destination / hub.CALIBRATION)))
    difference = (random_logits(build_model(open_checkpoint(destination), torch.float32)) - expected).abs().max().item()
    largest = expected.abs().max().item()
    return MergeReport(
        base=source,
        adapter=adapter_path,
        target=destination,
        dtype=dtype_name(stored),
        layers=len(layers),
        files=tuple(files),
        num_bytes=sum(file.stat().st_size for file in files),
        seconds=time.monotonic() - start,
        largest_logit=largest,
        adapter_effect=(expected - plain).abs().max().item(),
        max_logits_difference=difference,
        close=difference <= TOLERANCE[stored] * max(1.0, largest),
    )
