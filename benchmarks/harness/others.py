"""Processor time of programs that are not ours: how far a measurement can be trusted (Linux)."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from harness.processes import Worker


class Others:
    """`cores` of other programs, and those the machine below us gave to somebody else, since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter(), *_machine()
        self.ours = 0.0

    def count(self, workers: Sequence[Worker]) -> None:
        """Adds what processes of ours took in all, before they are stopped."""
        self.ours += sum(worker.processor_s() for worker in workers)

    def cores(self) -> tuple[float, float]:
        clock, busy, stolen = (
            now - then for now, then in zip((time.perf_counter(), *_machine()), self.began, strict=True)
        )
        return max(0.0, (busy - self.ours) / clock), stolen / clock


def _machine() -> tuple[float, float]:
    """Seconds all processors worked, and were taken away."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, steal / tick
