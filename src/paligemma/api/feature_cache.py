"""Image features that were made before, by the pixels they were made of: the least recently used go first.

In: a key and a tensor. Out: the tensor, if it is still there. Any thread may ask; two that miss at once both compute.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from paligemma.errors import UsageError

MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class CacheState:
    """What a cache holds and how it did."""

    entries: int
    bytes: int
    hits: int
    misses: int


class FeatureCache:
    """
    Args:
        max_entries: pictures kept; 0 keeps none.
        max_bytes: of their features; one picture of a 3B model takes 1.2 MB at 224 px, 19 MB at 896 px (bfloat16).

    Raises:
        UsageError: a number below 0.
    """

    def __init__(self, max_entries: int, max_bytes: int = MAX_BYTES):
        if not isinstance(max_entries, int) or isinstance(max_entries, bool) or max_entries < 0:
            raise UsageError(f"image_cache is {max_entries!r}; give how many pictures to keep, 0 for none")
        self.max_entries, self.max_bytes = max_entries, max_bytes
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Tensor | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, features: Tensor) -> None:
        """Keeps `features`, which must be a tensor of its own: a view would hold the whole batch it was cut from."""
        if not self.max_entries or features.nbytes > self.max_bytes:
            return
        with self._lock:
            old = self._kept.pop(key, None)
            self._bytes += features.nbytes - (0 if old is None else old.nbytes)
            self._kept[key] = features
            while len(self._kept) > self.max_entries or self._bytes > self.max_bytes:
                _, gone = self._kept.popitem(last=False)
                self._bytes -= gone.nbytes

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    @property
    def state(self) -> CacheState:
        with self._lock:
            return CacheState(len(self._kept), self._bytes, self._hits, self._misses)


def digest(pixels: Tensor) -> bytes:
    """sha256 of the final pixels, float32[3, S, S]: two files that look the same to the model are the same."""
    return hashlib.sha256(pixels.contiguous().numpy().data).digest()
