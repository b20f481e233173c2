"""The cache of image features: bounded, least recently used first, safe among threads."""

import threading

import pytest
import torch

from paligemma.api.feature_cache import FeatureCache, digest
from paligemma.errors import UsageError


def test_the_least_recently_used_goes_first():
    cache = FeatureCache(2)
    for key in "ab":
        cache.put(key, torch.zeros(3))
    assert cache.get("a") is not None
    cache.put("c", torch.zeros(3))
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
    assert (cache.state.entries, cache.state.bytes, cache.state.hits, cache.state.misses) == (2, 24, 3, 1)


def test_bytes_are_bounded_too():
    cache = FeatureCache(100, max_bytes=100)
    for key in range(5):
        cache.put(key, torch.zeros(10))
    assert (cache.state.entries, cache.state.bytes) == (2, 80)
    cache.put("large", torch.zeros(26))
    assert cache.state.entries == 2
    cache.put(4, torch.zeros(5))  # the same key again
    assert cache.state.bytes == 60
    cache.clear()
    assert (cache.state.entries, cache.state.bytes) == (0, 0)


@pytest.mark.parametrize("entries", [-1, 1.5, True, None])
def test_sizes_are_checked(entries):
    with pytest.raises(UsageError, match="image_cache"):
        FeatureCache(entries)


def test_none_are_kept_without_entries():
    cache = FeatureCache(0)
    cache.put("a", torch.zeros(3))
    assert cache.get("a") is None


def test_many_threads_keep_the_books_right():
    cache = FeatureCache(5)

    def work(seed):
        for i in range(300):
            cache.put((seed * i) % 11, torch.zeros(1 + i % 4))
            cache.get(i % 11)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [cache.get(key) for key in range(11)]
    assert cache.state.bytes == sum(tensor.nbytes for tensor in kept if tensor is not None)
    assert cache.state.entries == 5


def test_a_digest_is_of_the_values():
    picture = torch.arange(12.0).reshape(3, 2, 2)
    assert digest(picture) == digest(picture.transpose(1, 2).contiguous().transpose(1, 2))
    assert digest(picture) != digest(picture + 1e-6)
