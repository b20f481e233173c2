"""What a machine can do at most: bytes read and operations of matrix products in a second, measured in a moment.

In: a device. Out: `Rates`, the figures that plans and benchmarks call the limit. The best of some repetitions counts,
because a limit is what other programs only lower. Not done here: how much of it the model reaches (`planning`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.native import on_large_pages

READ_BYTES = {"cuda": 4 * 2**30, "cpu": 2**29}  # far beyond any cache
SIDE = {"cuda": 8192, "cpu": 2048}  # of the matrices that are multiplied
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.int8}  # multiplied everywhere
FP8 = torch.float8_e4m3fn  # on newer NVIDIA cards alone: `linear.cuda.has_fp8`
# Of a card's memory: what the driver and kernels take, and what is lost between allocations.
CUDA_CONTEXT, USABLE = 0.6 * 2**30, 0.95
_MEMORY = Path("/proc/meminfo")  # Linux


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of one device.

    Attributes:
        read: bytes a second. matrix: operations a second by name in `TYPES`, or of "fp8"; two for each product that is
            added up.
    """

    read: float
    matrix: dict[str, float]


def measured(device: torch.device, types: tuple[str, ...] = tuple(TYPES), *, repetitions: int = 4) -> Rates:
    """The rates of this machine; a second or two."""
    matrix = {name: matrix_rate(device, TYPES[name], repetitions=repetitions) for name in types}
    return Rates(read=read_rate(device, repetitions=repetitions), matrix=matrix)


def read_rate(device: torch.device, *, size: int | None = None, repetitions: int = 4) -> float:
    """Bytes a second of reading `size` bytes once, by all threads."""
    size = size or READ_BYTES.get(device.type, READ_BYTES["cpu"])
    numbers = on_large_pages(torch.empty(size // 4, device=device)).fill_(1)
    return size / _best(numbers.sum, device, repetitions)


def matrix_rate(
    device: torch.device, dtype: torch.dtype, *, side: int | None = None, repetitions: int = 4
) -> float:  # fmt: skip
    """Operations a second of products of square matrices, as a linear layer makes them."""
    side = side or SIDE.get(device.type, SIDE["cpu"])
    one, other = (torch.randn(side, side, device=device).mul(16).to(dtype) for _ in range(2))
    scale = torch.ones((), device=device)

    def product() -> Tensor:
        if dtype == FP8:
            return torch._scaled_mm(one, other.T, scale, scale, out_dtype=torch.bfloat16)
        return torch._int_mm(one, other.T) if dtype == torch.int8 else F.linear(one, other)

    return 2.0 * side**3 / _best(product, device, repetitions)


def _best(work: Callable[[], Tensor], device: torch.device, repetitions: int) -> float:
    """Seconds of the fastest repetition; one before them sets up what is set up once."""
    seconds = []
    for _ in range(repetitions + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free now, or would be at once; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = _MEMORY.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def usable(card_bytes: int) -> int:
    """What of a card's memory tensors can have."""
    return max(0, round(USABLE * (card_bytes - CUDA_CONTEXT)))
