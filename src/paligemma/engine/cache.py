"""Keys and values of the tokens seen so far, in buffers of fixed size: [L][B, K, S, H].

In: one layer's new keys (after rotation) and values. Out: all of that layer's so far, without copying.
Letters: L layers, B rows, K key-value heads, S slots, T new tokens, H head_dim.
"""

from copy import copy

import torch
from torch import Tensor

from paligemma.config import TextConfig


class KVCache:
    """A static key-value cache; every row has the same number of filled slots (padding included).

    Args:
        dtype: of the stored numbers. bfloat16 under a float32 model rounds from the prefill on, as big_vision does.
    """

    def __init__(self, config: TextConfig, rows: int, slots: int, *, dtype: torch.dtype, device: torch.device):
        shape = (rows, config.num_kv_heads, slots, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.depth)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.depth)]
        self.length = 0  # filled slots; `advance` moves it once all layers have written

    @property
    def slots(self) -> int:
        return self.keys[0].shape[2]

    def update(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Writes T new slots and returns the layer's keys and values so far, [B, K, length + T, H]."""
        stop = self.length + k_BKTH.shape[2]
        assert stop <= self.slots, f"{stop} tokens do not fit a cache of {self.slots} slots"
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length : stop] = k_BKTH
        values[:, :, self.length : stop] = v_BKTH
        return keys[:, :, :stop].to(k_BKTH.dtype), values[:, :, :stop].to(v_BKTH.dtype)

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def select(self, rows: Tensor) -> None:
        """Goes on with these rows, int64[B']: in another order, several times, or fewer of them."""
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_empty((len(rows), *old.shape[1:]))
                new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
                buffers[layer] = new

    def fork(self) -> "KVCache":
        """Another cache of the same rows; what either appends from here on is its own, one after the other."""
        forked = copy(self)
        forked.keys, forked.values = list(self.keys), list(self.values)
        return forked

    def gather(self, order: Tensor, slots: int) -> None:
        """Keeps of each row only the slots in `order`, int64[B, S'], in that order, and makes room for `slots`."""
        index = order[:, None, :, None]
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                rows, heads, _, head_dim = old.shape
                new = old.new_empty((rows, heads, slots, head_dim))
                new[:, :, : order.shape[1]] = old.gather(2, index.expand(rows, heads, -1, head_dim))
                buffers[layer] = new
        self.length = order.shape[1]
