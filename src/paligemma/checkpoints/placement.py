"""Where a model runs and in which number type. In: what the user asked, what the file holds, what this machine has.

Out: a device, a type, and notices about every choice the user did not make. bfloat16 stays bfloat16 on a CPU. float16
is a trap twice: CPUs compute it slowly and without its accumulators, and Gemma 2's activations overflow it.
"""

from collections.abc import Mapping

import torch

from paligemma.checkpoints.tensors import as_dtype, dtype_name
from paligemma.config import Config
from paligemma.errors import UnavailableError, UsageError
from paligemma.linear.cuda import FP8_FROM, has_fp8
from paligemma.linear.packed import METHODS
from paligemma.results import Notice


def choose_device(device: "str | torch.device | None" = None) -> torch.device:
    """The wanted device; with None or "auto" the first of CUDA, Apple's MPS, CPU that is there.

    Raises:
        UsageError: no such kind of device.
        UnavailableError: known, but not on this machine.
    """
    if device is None or device == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}; give auto, cpu, cuda, cuda:1 or mps") from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(
        wanted.type
    )
    if count is None:
        raise UsageError(f"device {device!r} is not supported; give auto, cpu, cuda, cuda:1 or mps")
    if (wanted.index or 0) >= count:
        raise UnavailableError(f"device {device!r} is not on this machine, which has {count} of them; use cpu or auto")
    return wanted


def check_methods(methods: Mapping[str, str], device: torch.device) -> None:
    """
    Raises:
        UnavailableError: a part shall be kept in numbers that this device does not multiply.
    """
    floats = sorted({method for method in methods.values() if METHODS[method].floats is not None})
    if floats and not has_fp8(device):
        raise UnavailableError(
            f"{floats[0]} was asked for on {device}, expected an NVIDIA card of compute capability "
            f"{'.'.join(map(str, FP8_FROM))} or newer; take int8"
        )


def choose_dtype(
    wanted: "str | torch.dtype | None", stored: torch.dtype, device: torch.device, config: Config
) -> tuple[torch.dtype, list[Notice]]:
    """The type to compute in, and what to tell about it. None or "auto" keeps the file's own unless it is float16
    on a CPU (then float32) or of a Gemma 2 (then bfloat16).

    Raises:
        UsageError: a type that is none of float32, bfloat16, float16.
    """
    automatic = wanted is None or wanted == "auto"
    dtype = stored if automatic else as_dtype(wanted)
    assert dtype is not None
    if dtype != torch.float16:
        return dtype, []
    overflows = config.text.attn_logit_softcap is not None  # Gemma 2
    if not automatic:
        if not overflows:
            return dtype, []
        return dtype, [Notice("float16_gemma2", "Gemma 2 can overflow in float16; prefer bfloat16 or float32")]
    better = torch.float32 if device.type == "cpu" else torch.bfloat16 if overflows else dtype
    if better == dtype:
        return dtype, []
    why = "which CPUs compute slowly" if device.type == "cpu" else "in which Gemma 2 can overflow"
    message = f"the weights are stored in float16, {why}, so they are computed in {dtype_name(better)}"
    return better, [Notice("dtype", message)]
