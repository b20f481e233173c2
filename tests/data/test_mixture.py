import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.data.example import ENDLESS, Example
from paligemma.data.mixture import BLOCK, Mixture
from paligemma.errors import InputError, UsageError


class Numbers:
    """Examples that only know their number."""

    def __init__(self, name, size, fingerprint="1"):
        self.name, self.size, self.fingerprint = name, size, fingerprint

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return Example(id=f"{self.name}:{index}", images=(), prefix="", suffix=str(index), source=self.name)


def rows(mixture, name, count):
    """The first `count` rows of one source, in order of position."""
    found = []
    position = 0
    while len(found) < count:
        example = mixture[position]
        position += 1
        if example.source == name:
            found.append(int(example.suffix))
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 20), st.integers(0, 2**32))
def test_each_epoch_shows_every_row_once_in_a_fresh_order(one, other, weight, seed):
    mixture = Mixture([(Numbers("a", one), weight), (Numbers("b", other), 1.0)], seed=seed)
    for name, size in (("a", one), ("b", other)):
        shown = rows(mixture, name, 3 * size)
        epochs = [shown[i * size : (i + 1) * size] for i in range(3)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert size < 8 or epochs[0] != epochs[1]


def test_one_source_is_walked_without_gaps():
    mixture = Mixture([(Numbers("a", 10), 3.0)], seed=1)
    assert mixture.epoch_length == 10
    for epoch in range(3):
        assert sorted(int(mixture[epoch * 10 + i].suffix) for i in range(10)) == list(range(10))


def test_weights_are_kept_in_every_block():
    mixture = Mixture([(Numbers("a", 7), 2.0), (Numbers("b", ENDLESS), 1.0), (Numbers("c", 5), 1.0)], seed=4)
    for block in (0, 5, 10**6):
        shown = Counter(mixture[block * BLOCK + i].source for i in range(BLOCK))
        assert shown == {"a": BLOCK // 2, "b": BLOCK // 4, "c": BLOCK // 4}
    assert [fact["share"] for fact in mixture.facts()] == [0.5, 0.25, 0.25]


def test_endless_sources_are_walked_in_order_and_never_repeat():
    mixture = Mixture([(Numbers("drawn", ENDLESS), 1.0), (Numbers("a", 3), 1.0)], seed=0)
    assert rows(mixture, "drawn", 1500) == list(range(1500))
    assert mixture.epoch_length is None
    assert mixture.facts()[0]["rows"] is None


def test_an_epoch_of_a_mixture_has_shown_every_row():
    mixture = Mixture([(Numbers("a", 300), 1.0), (Numbers("b", 100), 3.0)], seed=2)
    seen = {mixture[i].id for i in range(mixture.epoch_length + BLOCK)}
    assert len(seen) == 400
    assert mixture.epoch_length == 1200


def test_any_position_can_be_asked_for_at_once():
    many = Mixture([(Numbers("a", 10_000_000), 1.0)], seed=5)
    far = 123 * 10_000_000 + 4_567_890
    assert many[far].id == Mixture([(Numbers("a", 10_000_000), 1.0)], seed=5)[far].id
    assert many.place(far).epoch == 123


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_together_see_the_order_of_one_process(world):
    parts = [(Numbers("a", 20), 1.0), (Numbers("b", 30), 2.0)]
    alone = [Mixture(parts, seed=3)[i].id for i in range(240)]
    ranks = [Mixture(parts, seed=3) for _ in range(world)]
    together = [ranks[i % world][i].id for i in reversed(range(240))][::-1]
    assert together == alone


def test_another_process_sees_the_same_order():
    code = """
import json
from tests.data.test_mixture import Numbers
from paligemma.data.mixture import Mixture
mixture = Mixture([(Numbers("a", 20), 1.0), (Numbers("b", 30), 2.0)], seed=3)
print(json.dumps([mixture.fingerprint, *(mixture[i].id for i in range(3000, 3040))]))
"""
    mixture = Mixture([(Numbers("a", 20), 1.0), (Numbers("b", 30), 2.0)], seed=3)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == [mixture.fingerprint, *(mixture[i].id for i in range(3000, 3040))]


def test_the_order_stays_as_it_is():
    """Runs are resumed under later versions: this order may never change."""
    mixture = Mixture([(Numbers("a", 5), 1.0), (Numbers("b", 3), 1.0)], seed=9)
    assert [mixture[i].id for i in range(8)] == ["b:0", "b:2", "a:2", "b:1", "a:0", "b:2", "b:1", "b:0"]


def test_another_seed_is_another_order():
    one, other = ([Mixture([(Numbers("a", 100), 1.0)], seed=seed)[i].id for i in range(20)] for seed in (0, 1))
    assert one != other


def test_the_fingerprint_is_of_the_data():
    def of(*parts):
        return Mixture(parts, seed=0).fingerprint

    first = of((Numbers("a", 5), 1.0), (Numbers("b", 5), 1.0))
    assert first == of((Numbers("a", 5), 1.0), (Numbers("b", 5), 1.0))
    assert first != of((Numbers("a", 6), 1.0), (Numbers("b", 5), 1.0))
    assert first != of((Numbers("a", 5, "2"), 1.0), (Numbers("b", 5), 1.0))
    assert first != of((Numbers("a", 5), 2.0), (Numbers("b", 5), 1.0))
    assert first != of((Numbers("c", 5), 1.0), (Numbers("b", 5), 1.0))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9))
def test_shares_are_as_near_to_the_weights_as_a_block_allows(weights):
    mixture = Mixture([(Numbers(str(i), 5), weight) for i, weight in enumerate(weights)], seed=0)
    assert sum(mixture.counts) == BLOCK
    for count, weight in zip(mixture.counts, weights, strict=True):
        assert abs(count - weight / sum(weights) * BLOCK) < 1 + 1e-9


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([], "no source"),
        ([(Numbers("a", 5), 0.0)], "weight of a is 0"),
        ([(Numbers("a", 5), float("nan"))], "weight of a is nan"),
        ([(Numbers("a", 5), float("inf"))], "weight of a is inf"),
        ([(Numbers("a", 0), 1.0)], "a has no examples"),
        ([(Numbers("a", 5), 1.0), (Numbers("a", 5), 1.0)], "called 'a'"),
        ([(Numbers("a", 5), 1.0), (Numbers("b", 5), 1e-6)], "raise its weight"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(parts, told):
    with pytest.raises(UsageError, match=told):
        Mixture(parts, seed=0)


def test_a_bad_row_is_told_where_it_comes():
    class Broken(Numbers):
        def __getitem__(self, index):
            raise InputError("a.jsonl:3: mend it")

    with pytest.raises(InputError, match=r"a\.jsonl:3"):
        Mixture([(Broken("a", 3), 1.0)], seed=0)[0]
