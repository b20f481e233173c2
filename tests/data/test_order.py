import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.data.order import Permutation, key_of, shuffled

KEYS = st.integers(0, 2**64 - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), KEYS)
def test_every_row_comes_once(size, key):
    permutation = Permutation(size, key)
    assert sorted(permutation[i] for i in range(size)) == list(range(size))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2**40), KEYS, st.lists(st.integers(0, 2**40 - 1), max_size=20, unique=True))
def test_large_sizes_cost_nothing_and_never_collide(size, key, places):
    permutation = Permutation(size, key)
    places = {place % size for place in places}
    found = {permutation[place] for place in places}
    assert len(found) == len(places)
    assert all(0 <= row < size for row in found)


def test_every_order_of_few_rows_occurs():
    orders = {tuple(Permutation(4, key_of("test", key))[i] for i in range(4)) for key in range(600)}
    assert len(orders) == 24


def test_rows_stand_anywhere_with_equal_chance():
    size, draws = 10, 4000
    firsts = np.bincount([Permutation(size, key_of("test", key))[0] for key in range(draws)], minlength=size)
    expected = draws / size
    assert ((firsts - expected) ** 2 / expected).sum() < 27.9  # chi square of 9 degrees, one in a thousand


def test_other_keys_are_other_orders():
    ones, others = ([Permutation(1000, key)[i] for i in range(50)] for key in (1, 2))
    assert ones != others
    assert sum(a == b for a, b in zip(ones, others, strict=True)) < 5


@given(st.integers(0, 300), KEYS)
def test_small_tables_are_permuted(size, key):
    assert sorted(shuffled(size, key)) == list(range(size))


def test_the_numbers_stay_as_they_are():
    """A run is resumed under other versions of everything: these orders may never change."""
    assert key_of("walk", 0, 1, 2) == 6614641290679848406
    assert [Permutation(10, 7)[i] for i in range(10)] == [4, 9, 2, 3, 1, 7, 0, 6, 5, 8]
    assert shuffled(8, 7).tolist() == [1, 5, 7, 0, 4, 6, 3, 2]
