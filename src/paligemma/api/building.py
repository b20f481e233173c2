"""An opened checkpoint -> the model in memory: whole, in fewer bits, shared by processes, or with layers that wait.

In: what a user asked of `load`. Out: the model where it will run. Not done here: reading files, tokenizers.
"""

from collections.abc import Iterable, Mapping

import torch

from paligemma.checkpoints.load import Opened, at_resolution, build_model
from paligemma.checkpoints.pack_report import PackReport
from paligemma.checkpoints.packing import build_packed, chosen_methods
from paligemma.checkpoints.placement import check_methods, choose_device
from paligemma.config import did_you_mean
from paligemma.engine.machine import free_memory, usable
from paligemma.engine.planning import PRECISIONS, Load, activation_bytes, cache_bytes, layers_that_wait
from paligemma.errors import ResourceError, UsageError
from paligemma.model import PaliGemmaModel
from paligemma.results import Notice

MODES = ["tensor"]
ROOM_FOR = Load(rows=8)  # beside the weights, where layers are chosen to wait


def place_of(
    device: "str | torch.device | None", parallel: str | None, others: Iterable[tuple[str, object]]
) -> torch.device:
    """The device of this process.

    Args:
        others: options that do not go with `parallel`, by name.

    Raises:
        UsageError: an unknown `parallel`, or one with another option, or without torchrun.
    """
    place = choose_device(device)
    if parallel is None:
        return place
    if parallel not in MODES:
        raise UsageError(f"unknown parallel {parallel!r}{did_you_mean(parallel, MODES)}")
    for name, given in others:
        if given is not None:
            raise UsageError(f"{name} was asked for with parallel={parallel}, which shares plain weights; give one")
    from paligemma.checkpoints.parallel import local_device  # slow to import

    return local_device(place)


def built(
    opened: Opened,
    dtype: torch.dtype,
    device: torch.device,
    size_px: int,
    quantize: "str | Mapping[str, str] | None" = None,
    *,
    parallel: str | None = None,
    in_host: bool = False,
) -> tuple[PaliGemmaModel, PackReport | None]:
    """The model, and how far its matrices are off if they are packed.

    Args:
        in_host: leave it in the host's memory for now, though it will run on `device`.
    """
    methods = chosen_methods(opened, quantize)
    where = torch.device("cpu") if in_host else device
    if parallel is not None:
        if methods is not None:
            raise UsageError(f"{opened.path} is quantised, which cannot be shared by processes; load the original")
        from paligemma.checkpoints.parallel import build_share, mesh_of

        return build_share(opened, dtype, device, mesh_of(device), image_size_px=size_px), None
    if methods is None:
        return at_resolution(build_model(opened, dtype, where), size_px), None
    check_methods(methods, device)
    return build_packed(opened, dtype, methods, where, image_size_px=size_px)


def wait_in_host(model: PaliGemmaModel, device: torch.device, offload: "str | int | None") -> list[Notice]:
    """Moves the model to its device but for the layers that must wait, and says how many they are.

    Raises:
        UsageError: neither a number of layers nor "auto". ResourceError: too little memory for the rest.
    """
    if offload is None:
        return []
    count = _waiting(model, device) if offload == "auto" else offload
    if not isinstance(count, int) or isinstance(count, bool):
        raise UsageError(f"offload is {offload!r}, expected a number of layers or auto; give one of these")
    if count == 0:
        model.to(device)
        return []
    from paligemma.model.offload import stream_layers

    streamed = stream_layers(model, device, count)
    gigabytes = streamed.layer_bytes * count / 1e9
    layers = f"{count} of {model.config.text.depth} layers"
    return [Notice("offload", f"{layers} wait in the host's memory; each pass copies {gigabytes:.3g} GB of them")]


def _waiting(model: PaliGemmaModel, device: torch.device) -> int:
    """As few layers as must wait on a card that has what is free now."""
    free = free_memory(device)
    if device.type == "cpu" or free is None:
        return 0
    layers = model.language_model.layers
    weights, layer = (sum(p.nbytes for p in part.parameters()) for part in (model, layers[0]))
    precision = PRECISIONS["fp32" if model.projector.weight.dtype == torch.float32 else "bf16"]
    beside = cache_bytes(model.config, ROOM_FOR, precision) + activation_bytes(model.config, ROOM_FOR, precision)
    count = layers_that_wait(weights, layer, len(layers), usable(free) - beside)
    if count is None:
        raise ResourceError(
            f"{device} has {free / 1e9:.3g} GB free, too little for this model even with all {len(layers)} layers in "
            "the host's memory; quantise it, or take a smaller one"
        )
    return count
