from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import TEXT_2

from paligemma.engine.cache import Appending, Filling, RaggedCache, Row

CPU = torch.device("cpu")


def new(rows: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(
        rows, TEXT_2.num_kv_heads, tokens, TEXT_2.head_dim, generator=torch.Generator().manual_seed(seed)
    )


def empty(rows: int, slots: int, dtype: torch.dtype = torch.float32) -> RaggedCache:
    return RaggedCache(TEXT_2, rows, slots, dtype=dtype, device=CPU)


def filled(rows: list[Row], slots: int = 9) -> tuple[RaggedCache, torch.Tensor]:
    cache, keys = empty(5, slots), new(len(rows), 4, 0)
    for layer in range(TEXT_2.depth):
        Filling(cache, rows).update(layer, keys + layer, -keys)
    return cache, keys


@given(st.data())
def test_each_row_appends_behind_its_own_tokens(data: Any) -> None:
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    first = data.draw(st.integers(0, 2))
    rows = [Row(first + place, length) for place, length in enumerate(lengths)]
    cache, keys = filled(rows)
    slot = torch.tensor(lengths)[:, None] + torch.arange(2)
    more = new(len(rows), 2, 1)
    for layer in range(TEXT_2.depth):
        seen_keys, seen_values = Appending(cache, slot, 6, first).update(layer, more, 3 * more)
        assert seen_keys.shape[2] == 6
        for row, length in enumerate(lengths):
            want = torch.cat((keys[row, :, :length] + layer, more[row]), 1)
            assert torch.equal(seen_keys[row, :, : length + 2], want)
            assert torch.equal(seen_values[row, :, : length + 2], torch.cat((-keys[row, :, :length], 3 * more[row]), 1))


def test_what_is_seen_is_the_cache_itself() -> None:
    cache, _ = filled([Row(0, 4)])
    seen, _ = Appending(cache, torch.tensor([[4]]), 5).update(0, new(1, 1, 1), new(1, 1, 2))
    assert seen.data_ptr() == cache.keys[0].data_ptr()


def test_slots_beyond_the_end_are_nobodys() -> None:
    cache, keys = filled([Row(0, 4)], slots=4)
    Appending(cache, torch.tensor([[4, 5, 6]]), 4).update(0, new(1, 3, 1), new(1, 3, 2))
    assert torch.equal(cache.keys[0][0, :, :4], keys[0])


def test_rows_that_move_while_they_are_filled_are_found() -> None:
    cache, row = empty(5, 9), Row(3, 4)
    filling, keys = Filling(cache, [row]), new(1, 4, 0)
    filling.update(0, keys, keys)
    cache.copy(3, 1, 4)
    row.index = 1
    filling.update(1, 2 * keys, keys)
    assert torch.equal(cache.keys[0][1, :, :4], keys[0])
    assert torch.equal(cache.keys[1][1, :, :4], 2 * keys[0])


def test_a_bfloat16_cache_rounds_what_it_returns_from_the_start() -> None:
    cache, keys = empty(1, 4, torch.bfloat16), new(1, 2, 0)
    seen, values = Filling(cache, [Row(0, 2)]).update(0, keys, 3 * keys)
    assert seen.dtype == torch.float32
    assert torch.equal(seen, keys.bfloat16().float())
    assert torch.equal(values, (3 * keys).bfloat16().float())
    assert not torch.equal(seen, keys)


def test_what_is_there_stays_when_a_cache_grows() -> None:
    cache, keys = filled([Row(0, 4), Row(4, 4)])
    cache.grow(7, 20)
    for layer in range(TEXT_2.depth):
        assert cache.keys[layer].shape == (7, TEXT_2.num_kv_heads, 21, TEXT_2.head_dim)
        assert torch.equal(cache.keys[layer][[0, 4], :, :4], keys + layer)
        assert torch.equal(cache.values[layer][[0, 4], :, :4], -keys)
