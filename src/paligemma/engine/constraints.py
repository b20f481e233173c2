"""What may come next: a `Constraint` says it, the engine obeys.

In: what a constraint allows after each token. Out: the ids to choose among, as the searches use them. Not done here:
any particular grammar (`tasks` has those of boxes and masks), scores.

A constraint is asked once per token. Where it leaves one id only, the model is not asked at all: the engine appends
the id and feeds it together with its neighbours, so what is forced costs no forward pass of its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from paligemma.errors import UsageError

KNOWN_FROM = 256  # ids: larger tuples are read once and kept
KNOWN_AT_MOST = 32  # of them
Known = dict[tuple[int, int | None], tuple[Sequence[int], "Choice"]]  # by identity; holds the ids too, to stay theirs


class Constraint(Protocol):
    """A grammar as an automaton over token ids. States are immutable values: beams and answers share and fork them."""

    def start(self) -> Any:
        """The state before the first token."""
        ...

    def allowed(self, state: Any) -> Sequence[int] | None:
        """The ids that may come next, eos among them where the answer may end; None allows everything.

        Exactly one id is forced. Never empty. A `range` is a slice of the vocabulary and costs nothing; a tuple is read
        once for as long as it is the same object; other sequences are read at each step.
        """
        ...

    def lone(self, state: Any) -> int | None:
        """An allowed id that greedy decoding takes only if it is likelier than all the others together; else None.

        "Nothing" is one id where "something" is spread over a thousand: one by one, nothing wins too often.
        """
        ...

    def advance(self, state: Any, token_id: int) -> Any:
        """The state after an allowed id; never called with eos, after which nothing comes."""
        ...


@dataclass(frozen=True)
class Choice:
    """The ids one row may choose among: `ids` without `excluded`."""

    ids: slice | Tensor  # of the vocabulary, or int64[A] ascending
    only: int | None = None  # the one id there is
    excluded: Tensor | None = None  # int64[E]; most of a vocabulary is faster named by what is not in it
    lone: int | None = None  # see `Constraint.lone`

    def id_at(self, place: int) -> int:
        """The id at a place of the scores that `ids` selects."""
        return (self.ids.start or 0) + place if isinstance(self.ids, slice) else int(self.ids[place])

    def others(self, num_ids: int, device: torch.device) -> Tensor:
        """int64[A]: the ids without `lone`; those `excluded` are among them still."""
        ids = torch.arange(num_ids, device=device)[self.ids]
        return ids[ids != self.lone]


class Rule:
    """A constraint, or none, bound to one engine: its ids checked, in the form the searches use.

    Args:
        num_ids: rows of the vocabulary.
        forbidden: ids the engine never produces.
        forces: whether a single allowed id is appended without asking the model.
        device: of the scores the ids will select from.
        known: what was read before, shared by the rules of one engine.
    """

    def __init__(
        self,
        constraint: Constraint | None = None,
        *,
        num_ids: int = 0,
        forbidden: Collection[int] = (),
        forces: bool = True,
        device: torch.device | None = None,
        known: Known | None = None,
    ):
        self.constraint, self.num_ids, self.forbidden, self.forces = constraint, num_ids, forbidden, forces
        self.device = device
        self.known: Known = {} if known is None else known

    def start(self) -> Any:
        return None if self.constraint is None else self.constraint.start()

    def advance(self, state: Any, token_id: int) -> Any:
        return None if self.constraint is None else self.constraint.advance(state, token_id)

    def choice(self, state: Any) -> Choice | None:
        """What may come next; None is everything.

        Raises:
            UsageError: no id, or ids this engine never produces.
        """
        if self.constraint is None or (ids := self.constraint.allowed(state)) is None:
            return None
        lone = self.constraint.lone(state)
        known = self.known.get((id(ids), lone))
        if known is not None:
            return known[1]
        self._check(ids, state)
        choice = replace(self._read(ids), lone=lone)
        if isinstance(ids, tuple) and len(ids) >= KNOWN_FROM:
            if len(self.known) >= KNOWN_AT_MOST:
                self.known.clear()
            self.known[id(ids), lone] = (ids, choice)
        return choice

    def _read(self, ids: Sequence[int]) -> Choice:
        only = ids[0] if len(ids) == 1 else None
        if isinstance(ids, range) and ids.step == 1:
            return Choice(slice(ids.start, ids.stop), only)
        if 2 * len(ids) > self.num_ids:
            excluded = sorted(set(range(self.num_ids)).difference(ids))
            return Choice(slice(None), only, torch.tensor(excluded, dtype=torch.int64, device=self.device))
        return Choice(torch.tensor(sorted(set(ids)), device=self.device), only)

    def _check(self, ids: Sequence[int], state: Any) -> None:
        if len(ids) == 0:
            raise UsageError(f"the constraint allows no token in state {state!r}; it must allow eos at least")
        low, high = (ids[0], ids[-1]) if isinstance(ids, range) else (min(ids), max(ids))
        if min(low, high) < 0 or max(low, high) >= self.num_ids or all(i in self.forbidden for i in ids):
            raise UsageError(
                f"the constraint allows ids from {low} to {high}, but this engine has {self.num_ids} and "
                f"{len(self.forbidden)} of them are forbidden; make the constraint with the model's own tokenizer"
            )

    def forced(self, choice: Choice | None) -> int | None:
        """The id to append without asking the model."""
        return choice.only if choice is not None and self.forces else None


FREE = Rule()
