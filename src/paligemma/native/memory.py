"""Memory that is read from front to back for each token: on large pages, if the system has some to give.

In: a tensor nobody has written to yet. Out: the same tensor. A page of 2 MiB is looked up once where small ones are 512
times, and processors read ahead within a page only. Linux only; elsewhere, and where it has none, nothing happens.
Source: madvise(2).
"""

import ctypes
import mmap
from functools import cache

from torch import Tensor

LARGE_PAGE = 2 * 2**20


def on_large_pages(tensor: Tensor) -> Tensor:
    """Asks for large pages under a large tensor of the CPU, before its first number is written; returns it."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if tensor.device.type != "cpu" or tensor.nbytes < LARGE_PAGE or advice is None:
        return tensor
    start = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    stop = -(-(tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
    _c_library().madvise(start, stop - start, advice)  # an advice: a system that cannot follow it says so and goes on
    return tensor


@cache
def _c_library() -> ctypes.CDLL:
    found = ctypes.CDLL(None)
    found.madvise.argtypes, found.madvise.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return found
