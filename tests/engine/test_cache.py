import pytest
import torch
from tests.oracle import TEXT_2

from paligemma.engine.cache import KVCache


def filled(rows: int, slots: int, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(TEXT_2, rows, slots, dtype=dtype, device=torch.device("cpu"))


def new(rows: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(
        rows, TEXT_2.num_kv_heads, tokens, TEXT_2.head_dim, generator=torch.Generator().manual_seed(seed)
    )


def test_updates_append_without_copying() -> None:
    cache = filled(2, 6)
    first, second = new(2, 4, 0), new(2, 1, 1)
    for layer in range(TEXT_2.depth):
        cache.update(layer, first, -first)
    cache.advance(4)
    assert cache.length == 4
    for layer in range(TEXT_2.depth):
        keys, values = cache.update(layer, second + layer, -second)
        assert torch.equal(keys, torch.cat((first, second + layer), 2))
        assert torch.equal(values, -torch.cat((first, second), 2))
        assert keys.data_ptr() == cache.keys[layer].data_ptr()


def test_a_full_cache_is_our_own_mistake() -> None:
    cache = filled(1, 3)
    with pytest.raises(AssertionError, match="4 tokens do not fit a cache of 3 slots"):
        cache.update(0, new(1, 4, 0), new(1, 4, 0))


def test_select_repeats_reorders_and_drops_rows() -> None:
    cache = filled(3, 4)
    first = new(3, 2, 0)
    for layer in range(TEXT_2.depth):
        cache.update(layer, first, 2 * first)
    cache.advance(2)
    for rows in ([2, 0, 0, 1], [3, 1]):
        cache.select(torch.tensor(rows))
        first = first[rows]
    more = new(2, 1, 1)
    for layer in range(TEXT_2.depth):
        keys, values = cache.update(layer, more, more)
        assert torch.equal(keys, torch.cat((first, more), 2))
        assert torch.equal(values, torch.cat((2 * first, more), 2))


def test_a_bfloat16_cache_rounds_what_it_returns_from_the_start() -> None:
    cache = filled(1, 4, torch.bfloat16)
    first = new(1, 2, 0)
    keys, values = cache.update(0, first, 3 * first)
    assert keys.dtype == torch.float32
    assert torch.equal(keys, first.bfloat16().float())
    assert torch.equal(values, (3 * first).bfloat16().float())
    assert not torch.equal(keys, first)


def test_gather_keeps_chosen_slots_and_makes_room() -> None:
    cache, first, order = filled(2, 5), new(2, 4, 0), torch.tensor([[1, 3], [0, 2]])
    for layer in range(TEXT_2.depth):
        cache.update(layer, first, 2 * first)
    cache.advance(4)
    cache.gather(order, 7)
    assert (cache.length, cache.slots) == (2, 7)
    kept = torch.stack([first[row][:, order[row]] for row in range(2)])
    more = new(2, 5, 1)
    for layer in range(TEXT_2.depth):
        keys, values = cache.update(layer, more, more)
        assert torch.equal(keys, torch.cat((kept, more), 2))
        assert torch.equal(values, torch.cat((2 * kept, more), 2))


def test_a_fork_leaves_the_cache_as_it_was() -> None:
    cache, first = filled(2, 5), new(2, 2, 0)
    for layer in range(TEXT_2.depth):
        cache.update(layer, first, first)
    cache.advance(2)
    fork = cache.fork()
    fork.select(torch.tensor([1, 1, 0]))
    for layer in range(TEXT_2.depth):
        fork.update(layer, new(3, 3, 1), new(3, 3, 2))
    fork.advance(3)
    assert (fork.length, cache.length) == (5, 2)
    for layer in range(TEXT_2.depth):
        keys, _ = cache.update(layer, first, first)
        assert torch.equal(keys, torch.cat((first, first), 2))
