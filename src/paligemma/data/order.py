"""Shuffling by formula: where a row stands is computed, so that nothing is stored and any place can be asked for.

In: a size and a key. Out: a permutation that is evaluated entry by entry, and a small table that is shuffled as a
whole. Plain integer arithmetic, the same on every machine and under every version of anything. Not done here: which
source a position belongs to (`mixture`). Source: Feistel networks with cycle walking (Black and Rogaway, 2002); the
mixing function is splitmix64 (Steele, Lea and Flood, 2014).
"""

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ROUNDS = 6
_LEAST_BITS = 3  # per half: a smaller domain cannot reach every permutation


def key_of(*parts: "str | int") -> int:
    """A number below 2**64 made of words and numbers, the same on every machine."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


class Permutation:
    """A permutation of 0..size-1 chosen by a key; `permutation[i]` takes constant time and memory."""

    def __init__(self, size: int, key: int):
        assert size > 0, f"a permutation of {size}"
        self.size = size
        self._half = max(_LEAST_BITS, -(-(size - 1).bit_length() // 2))
        self._keys = [_mixed((key + (i + 1) * _STEP) & _MASK) for i in range(_ROUNDS)]

    def __getitem__(self, index: int) -> int:
        assert 0 <= index < self.size, f"{index} of {self.size}"
        found = self._round_trip(index)
        while found >= self.size:  # the domain is a power of four; walking the cycle leads back below the size
            found = self._round_trip(found)
        return found

    def _round_trip(self, value: int) -> int:
        half, low = self._half, (1 << self._half) - 1
        left, right = value >> half, value & low
        for key in self._keys:
            left, right = right, left ^ (_mixed(key ^ right) & low)
        return left << half | right


def _mixed(value: int) -> int:
    value = (value ^ value >> 30) * _FIRST & _MASK
    value = (value ^ value >> 27) * _SECOND & _MASK
    return value ^ value >> 31


def shuffled(size: int, key: int) -> NDArray[np.int64]:
    """int64[size]: 0..size-1 in an order chosen by the key; for small tables."""
    values = np.uint64(key) + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_STEP)
    values = (values ^ values >> np.uint64(30)) * np.uint64(_FIRST)
    values = (values ^ values >> np.uint64(27)) * np.uint64(_SECOND)
    return np.argsort(values ^ values >> np.uint64(31), kind="stable")
