"""Several sources -> one endless stream of examples, in an order that is a pure function of (seed, position).

    mixture[position] -> Example

Positions come in blocks; each block holds every source as often as its weight says, in a shuffled order. Each source is
walked in a fresh shuffled order per epoch, without repeats within one; endless sources are walked as they are. Nothing
is remembered between positions, so there is nothing to save, and any process may ask for any position: all ranks and
workers see the same global order. Not done here: cutting positions into steps and ranks (`train.streams`).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from paligemma.data.augment import Augment, augmented
from paligemma.data.example import ENDLESS, Example, Source
from paligemma.data.order import Permutation, key_of, shuffled
from paligemma.errors import UsageError

if TYPE_CHECKING:
    from paligemma.model.mask_codec import MaskCodec

BLOCK = 1024  # positions; a source's share is a multiple of 1/1024
_KEPT_BLOCKS = 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which row a position shows: `index` of source number `part`, in that source's `epoch`."""

    part: int
    index: int
    epoch: int


class Mixture:
    """Sources with weights; see the module.

    Args:
        parts: sources and how often each is drawn, in any unit.
        seed: of the order and of the changes to pictures.
        augment: box-aware changes of the pictures of finite sources; endless ones never show a picture twice.
        codec: lets masks be mirrored and cut as well; without it such examples stay as they are.

    Attributes:
        fingerprint: of everything but the seed; another one is another data set.
        epoch_length: positions until every source was shown at least once; None with an endless source.

    Raises:
        UsageError: no source, an empty one, two of one name, or a weight that is not above 0 or far too small.
    """

    def __init__(
        self, parts: "Sequence[tuple[Source, float]]", *, seed: int, augment: Augment | None = None,
        codec: "MaskCodec | None" = None,
    ):  # fmt: skip
        _check(parts)
        self.sources = tuple(source for source, _ in parts)
        self.weights = tuple(float(weight) for _, weight in parts)
        self.counts = _counts(self.weights)
        self.seed = seed
        self._augment, self._codec = augment, codec
        self._starts = np.cumsum([0, *self.counts])
        self._blocks: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._walks: dict[int, tuple[int, Permutation]] = {}
        self.fingerprint = hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()

    def facts(self) -> list[dict[str, Any]]:
        """Name, rows, fingerprint and share of each source, to say what differs between two mixtures."""
        return [
            {
                "name": source.name,
                "rows": None if len(source) >= ENDLESS else len(source),
                "fingerprint": source.fingerprint,
                "share": count / BLOCK,
            }
            for source, count in zip(self.sources, self.counts, strict=True)
        ]

    @property
    def epoch_length(self) -> int | None:
        if any(len(source) >= ENDLESS for source in self.sources):
            return None
        sizes = zip(self.sources, self.counts, strict=True)
        return max(-(-len(source) * BLOCK // count) for source, count in sizes)

    def place(self, position: int) -> Place:
        """Which row stands at a position, without reading it."""
        assert position >= 0, position
        block, offset = divmod(position, BLOCK)
        owners, ranks = self._block(block)
        part = int(owners[offset])
        walked = block * self.counts[part] + int(ranks[offset])
        size = len(self.sources[part])
        if size >= ENDLESS:
            return Place(part=part, index=walked, epoch=0)
        epoch, ordinal = divmod(walked, size)
        return Place(part=part, index=self._walk(part, epoch, size)[ordinal], epoch=epoch)

    def __getitem__(self, position: int) -> Example:
        """The example at a position, its pictures changed as `augment` says.

        Raises:
            InputError: the row cannot be used.
        """
        place = self.place(position)
        source = self.sources[place.part]
        example = source[place.index]
        if self._augment is None or len(source) >= ENDLESS:
            return example
        return augmented(example, self._augment, seed=self.seed, epoch=place.epoch, codec=self._codec)

    def _block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each position in a block its source, and how many of that source come before it in the block."""
        if block not in self._blocks:
            order = shuffled(BLOCK, key_of("block", self.seed, block))
            owners = np.searchsorted(self._starts, order, side="right") - 1
            ranks = np.empty(BLOCK, dtype=np.int64)
            for part in range(len(self.sources)):
                mine = owners == part
                ranks[mine] = np.arange(mine.sum())
            while len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[block] = (owners, ranks)
        return self._blocks[block]

    def _walk(self, part: int, epoch: int, size: int) -> Permutation:
        known = self._walks.get(part)
        if known is None or known[0] != epoch:
            known = self._walks[part] = (epoch, Permutation(size, key_of("walk", self.seed, part, epoch)))
        return known[1]


def _check(parts: "Sequence[tuple[Source, float]]") -> None:
    if not parts:
        raise UsageError("the mixture has no source of examples; give at least one file, folder or `scenes`")
    names = [source.name for source, _ in parts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{names.count(name)} sources are called {name!r}; give them names that differ")
    for source, weight in parts:
        if not 0 < weight < float("inf"):
            raise UsageError(f"the weight of {source.name} is {weight}; give a number above 0, or leave the source out")
        if len(source) == 0:
            raise UsageError(f"{source.name} has no examples; leave it out, or check its path")


def _counts(weights: Sequence[float]) -> tuple[int, ...]:
    """How often each source stands in a block: shares of `BLOCK`, by largest remainder."""
    shares = [weight / sum(weights) * BLOCK for weight in weights]
    if min(shares) < 0.5:
        raise UsageError(
            f"a source has {min(shares) / BLOCK:.2g} of all weight, but less than {0.5 / BLOCK:.2g} cannot be kept "
            "exactly; raise its weight, or leave it out"
        )
    counts = [max(1, int(share)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: max(0, BLOCK - sum(counts))]:
        counts[i] += 1
    while sum(counts) > BLOCK:  # where several tiny sources were raised to one
        counts[counts.index(max(counts))] -= 1
    return tuple(counts)
