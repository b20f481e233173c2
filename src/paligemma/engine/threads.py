"""How many threads a piece of work is worth on a CPU.

In: multiply-adds of a pass. Out: torch's number of threads inside a `with` block. OpenMP's threads meet after every
operation and spin while they wait, so a small model is hardly faster with two of them on free cores, and a hundred
times slower beside a program that keeps the cores busy. Not done here: more threads than the caller allows.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORTH_SHARING = 4e9  # multiply-adds, a tenth of a second of one thread: less is done by one
READING = 16  # tokens whose products take as long as reading the weights once


@contextmanager
def threads_for(work: float, device: torch.device) -> Iterator[None]:
    """One thread inside, where the work on this device is not worth more; otherwise as it was."""
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1 or work >= WORTH_SHARING:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
