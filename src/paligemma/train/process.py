"""The process a run lives in: repeatable arithmetic, signals, memory, and what its bits depend on."""

import os
import platform
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM, after the step was finished and saved; `exit_status` is what the process should end with."""

    def __init__(self, number: int, step: int):
        self.exit_status = 128 + number
        self.name = "interrupted" if number == signal.SIGINT else "terminated"
        super().__init__(f"{self.name} after step {step}, which is saved; resume to go on")


@contextmanager
def signals_heard() -> Iterator[list[int]]:
    """The numbers of SIGINT and SIGTERM that came in here; a second SIGINT interrupts at once."""
    came: list[int] = []

    def heard(number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in came:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread hears signals
        return
    kept = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def repeatable(device: torch.device, threads: int | None) -> Iterator[None]:
    """torch repeats itself in here, with a fixed number of threads; its settings come back afterwards.

    On a CPU anything that cannot repeat itself is an error; other devices warn, for not all they do can.
    """
    deterministic: Any = torch.utils.deterministic
    mode = torch.get_deterministic_debug_mode()
    fill, before = deterministic.fill_uninitialized_memory, torch.get_num_threads()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA first multiplies
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
    deterministic.fill_uninitialized_memory = False  # finds reads of memory nobody wrote, at the price of writing it
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        deterministic.fill_uninitialized_memory = fill
        torch.set_num_threads(before)


def environment(device: torch.device) -> dict[str, str]:
    """What the last bits of a result depend on, besides config and data."""
    known = {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": device.type,
    }
    if device.type == "cuda":
        known["device"] = torch.cuda.get_device_name(device)
    return known


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by torch's allocator on CUDA, by the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
