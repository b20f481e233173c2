"""What benchmarks on a card share: how long something takes there, and what the card can do at most."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

DEVICE = "cuda"


def machine() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name, "gib": round(properties.total_memory / 2**30, 1), "torch": torch.__version__,
        "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def seconds_of(run: Callable[[], object], times: int = 10) -> float:
    """Median of `times` runs by device events, after two that do not count."""
    found = []
    for number in range(times + 2):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        stop.synchronize()
        if number >= 2:
            found.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(found)


def limits() -> dict[str, float]:
    """Bytes/s of a copy (read and written), and bfloat16 operations/s of a large product, on random numbers."""
    return {"copy_bytes_per_s": copy_rate(2**31), "bf16_flops": matrix_rate(8192)}


def copy_rate(size: int) -> float:
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    return 2 * size / seconds_of(lambda: target.copy_(source))


def matrix_rate(side: int) -> float:
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b)


def recorded_seconds(run: Callable[[], object], times: int = 16) -> float:
    """Seconds of one of `times` runs that are recorded together, so that launching costs nothing."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return seconds_of(graph.replay) / times


def forget() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
