import time
from typing import Any

import pytest
import torch

from paligemma.engine.constraints import FREE, KNOWN_AT_MOST, KNOWN_FROM, Choice, Known, Rule
from paligemma.errors import UsageError


class Lists:
    """Allows what a list says, whatever was chosen; the state is the place in the list."""

    def __init__(self, *allowed: Any):
        self.lists = allowed

    def start(self) -> int:
        return 0

    def allowed(self, state: int) -> Any:
        return self.lists[state]

    def lone(self, state: int) -> None:
        return None

    def advance(self, state: int, token_id: int) -> int:
        return state + 1


def rule_of(*allowed: Any, **settings: Any) -> Rule:
    return Rule(Lists(*allowed), **{"num_ids": 40, "forbidden": {7, 8}, **settings})


def ids_of(choice: Choice | None) -> list[int]:
    assert choice is not None
    ids = torch.arange(40)[choice.ids].tolist()
    return ids if choice.excluded is None else [i for i in ids if i not in choice.excluded.tolist()]


def test_ranges_are_slices_and_lists_are_sorted() -> None:
    assert ids_of(rule_of(range(3, 9)).choice(0)) == [3, 4, 5, 6, 7, 8]
    assert isinstance(rule_of(range(3, 9)).choice(0).ids, slice)  # type: ignore[union-attr]
    for ids in ([9, 3, 5], (5, 3, 9), range(9, 2, -2), [3, 9, 9, 5, 3]):
        assert set(ids_of(rule_of(ids).choice(0))) == set(ids)
        assert ids_of(rule_of(ids).choice(0)) == sorted(set(ids))


def test_most_of_a_vocabulary_is_named_by_what_is_missing() -> None:
    many = [i for i in range(40) if i % 3]
    choice = rule_of(many).choice(0)
    assert choice is not None
    assert choice.excluded is not None
    assert ids_of(choice) == many
    assert ids_of(rule_of([*range(40)][::-1]).choice(0)) == list(range(40))
    assert choice.id_at(5) == 5


@pytest.mark.parametrize("ids", [range(3, 9), [9, 3, 5]])
def test_a_place_among_the_chosen_scores_has_an_id(ids: Any) -> None:
    choice = rule_of(ids).choice(0)
    assert choice is not None
    assert [choice.id_at(place) for place in range(3)] == ids_of(choice)[:3]


def test_one_id_is_forced_unless_nothing_may_be() -> None:
    rule = rule_of([5], range(6, 7), [5, 6])
    assert [rule.forced(rule.choice(state)) for state in range(3)] == [5, 6, None]
    rule = rule_of([5], forces=False)
    assert rule.forced(rule.choice(0)) is None
    assert ids_of(rule.choice(0)) == [5]


def test_without_a_constraint_everything_goes() -> None:
    state = FREE.advance(FREE.start(), 3)
    assert FREE.choice(state) is None
    assert FREE.forced(None) is None
    assert rule_of(None).choice(0) is None


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "allows no token in state 0"),
        ([3, 40], "ids from 3 to 40, but this engine has 40"),
        (range(30, 41), "ids from 30 to 40"),
        ([-1, 3], "ids from -1 to 3"),
        ([7], "2 of them are forbidden"),
        (range(7, 9), "2 of them are forbidden"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(ids: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        rule_of(ids).choice(0)


def test_the_same_tuple_is_read_once() -> None:
    ids = tuple(range(0, 400_000, 2))
    rule = Rule(Lists(*[ids] * 200), num_ids=400_000)
    first = rule.choice(0)
    started = time.perf_counter()
    assert all(rule.choice(state) is first for state in range(200))
    assert time.perf_counter() - started < 0.5  # reading it takes some 20 ms


def test_new_tuples_at_old_addresses_are_not_mixed_up() -> None:
    known: Known = {}
    for i in range(300):  # Python would put many of them at one address
        rule = Rule(Lists(tuple(range(i % 30, i % 30 + KNOWN_FROM))), num_ids=1000, known=known)
        choice = rule.choice(0)
        assert choice is not None
        assert torch.arange(1000)[choice.ids].tolist() == list(range(i % 30, i % 30 + KNOWN_FROM))
        assert len(known) <= KNOWN_AT_MOST
