"""A checkpoint -> this process' share of the model, and the processes that torchrun started as one mesh.

    torchrun --nproc-per-node 2 -m paligemma ask "..." photo.jpg --model paligemma2-28b-mix-448 --parallel tensor

In: an opened checkpoint. Out: the model with the share of its decoder that belongs here; of the other shares no copy is
ever made, their bytes are at most mapped. Not done here: how a model is split (`model.parallel`).
"""

import atexit
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from paligemma.checkpoints.load import Opened, read_parameter
from paligemma.checkpoints.tensors import dtype_name, empty_model
from paligemma.errors import ResourceError, UsageError
from paligemma.model import PaliGemmaModel
from paligemma.model.parallel import place_share, split

MODES = ("tensor",)
TIMEOUT_S = 600.0


def local_device(device: torch.device) -> torch.device:
    """The device of this process: with CUDA the one of its number on this machine.

    Raises:
        UsageError: not started by torchrun, or more processes than devices.
    """
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        raise UsageError(
            "parallel=tensor was asked for, but this process is alone; start it with "
            "`torchrun --nproc-per-node N -m paligemma ...`, or leave parallel out"
        )
    if device.type != "cuda":
        return device
    local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= found:
        raise UsageError(
            f"process {local} of this machine has no CUDA device, there are {found}; give torchrun --nproc-per-node "
            "that many"
        )
    return torch.device("cuda", local)


def mesh_of(device: torch.device) -> DeviceMesh:
    """All processes that torchrun started, in a row; joins them unless that was done before.

    Raises:
        ResourceError: the others did not come.
    """
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=TIMEOUT_S))
        except (RuntimeError, ValueError) as error:
            raise ResourceError(
                f"the {os.environ.get('WORLD_SIZE')} processes did not meet ({str(error).splitlines()[0]}); start all "
                "of them with one torchrun, and look whether one ended"
            ) from error
        atexit.register(dist.destroy_process_group)
    return init_device_mesh(device.type, (dist.get_world_size(),))


def build_share(
    opened: Opened, dtype: torch.dtype, device: torch.device, mesh: DeviceMesh, *, image_size_px: int | None = None
) -> PaliGemmaModel:
    """This process' share of the model in evaluation mode.

    Args:
        image_size_px: of the pictures it will take; by default the checkpoint's own.

    Raises:
        ResourceError: not enough memory.
        UsageError: heads that so many processes cannot share.
    """
    config = opened.config.at_resolution(image_size_px) if image_size_px else opened.config
    model = split(empty_model(config), mesh)
    try:
        for name, parameter in list(model.named_parameters()):
            tensor = read_parameter(opened, name, dtype, config)
            owner, _, leaf = name.rpartition(".")
            placed = place_share(parameter, tensor, device) if isinstance(parameter, DTensor) else tensor.to(device)
            setattr(model.get_submodule(owner), leaf, nn.Parameter(placed, requires_grad=False))
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(
            f"a share of the weights in {dtype_name(dtype)} needs more memory than {device} has free; start more "
            "processes, or take a smaller model"
        ) from error
    return model.eval()
