"""Keys and values of rows of different lengths, [L][R, K, S, H]: row r's tokens fill the first slots of its own line.

In: one layer's new keys (after rotation) and values. Out: what that layer's attention sees, in a pass over whole
prompts (`Filling`) or over new tokens (`Appending`). Not done here: who has which row when (`ragged.py`).
Letters: L layers, R rows, K key-value heads, S slots, T new tokens, H head_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paligemma.config import TextConfig


@dataclass(eq=False)
class Row:
    """One line of the cache, taken by someone: where it is now, and how many tokens it holds."""

    index: int
    length: int


class RaggedCache:
    """A static cache. The last slot is nobody's: what does not count is written there or behind a row's tokens.

    Args:
        slots: the most tokens of a row.
        dtype: of the stored numbers. bfloat16 under a float32 model rounds from the prefill on, as big_vision does.
    """

    def __init__(self, config: TextConfig, rows: int, slots: int, *, dtype: torch.dtype, device: torch.device):
        shape = (rows, config.num_kv_heads, slots + 1, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.depth)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.depth)]

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives row `target` the first `length` tokens of row `source`."""
        for buffer in (*self.keys, *self.values):
            buffer[target, :, :length] = buffer[source, :, :length]

    def grow(self, rows: int, slots: int) -> None:
        """Moves to larger buffers, one layer after the other; what is there stays."""
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                new = old.new_zeros((rows, old.shape[1], slots + 1, old.shape[3]))
                new[: old.shape[0], :, : old.shape[2] - 1] = old[:, :, :-1]
                buffers[layer] = new


class Filling:
    """The cache as a pass over whole prompts sees it: rows are filled from the first slot, wherever they are by now."""

    def __init__(self, cache: RaggedCache, rows: Sequence[Row]):
        self.cache, self.rows = cache, rows
        self._places: list[int] = []

    def update(self, layer: int, k_RKTH: Tensor, v_RKTH: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for buffer, new in ((self.cache.keys[layer], k_RKTH), (self.cache.values[layer], v_RKTH)):
            stored = new.to(buffer.dtype)
            slots = min(new.shape[2], buffer.shape[2] - 1)  # what is more is padding
            buffer[self._index(buffer.device), :, :slots] = stored[:, :, :slots]
            found.append(stored.to(new.dtype))
        return found[0], found[1]

    def _index(self, device: torch.device) -> Tensor:
        places = [row.index for row in self.rows]
        if places != self._places:  # rows move up between two layers when others leave
            self._places, self._moved = places, torch.tensor(places, device=device)
        return self._moved


class Appending:
    """The cache as a pass over new tokens sees it: those of row r go to `slot_RT`, and slots below `stop` are seen.

    Args:
        first: row of the cache that the pass begins with.
    """

    def __init__(self, cache: RaggedCache, slot_RT: Tensor, stop: int, first: int = 0):
        self.cache, self.stop, self.first = cache, stop, first
        self.slot = slot_RT.clamp(max=cache.keys[0].shape[2] - 1)
        self.row = torch.arange(len(slot_RT), device=slot_RT.device)[:, None]

    def update(self, layer: int, k_RKTH: Tensor, v_RKTH: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for buffer, new in ((self.cache.keys[layer], k_RKTH), (self.cache.values[layer], v_RKTH)):
            lines = buffer[self.first : self.first + len(new)]
            lines[self.row, :, self.slot] = new.transpose(1, 2).to(buffer.dtype)
            found.append(lines[:, :, : self.stop].to(new.dtype))
        return found[0], found[1]
