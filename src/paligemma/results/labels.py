"""Labels <-> class numbers, shared by every format that counts its classes."""

from collections.abc import Iterable, Sequence

from paligemma.config import did_you_mean
from paligemma.errors import UsageError

UNNAMED = "object"  # what formats that need a name get for a box without a label


class Classes:
    """Class numbers from 0: those given, or else labels in the order in which they first appear."""

    def __init__(self, given: Sequence[str] | None = None):
        self.fixed = given is not None
        self._numbers = {name: i for i, name in enumerate(given or ())}

    @property
    def names(self) -> list[str]:
        return list(self._numbers)

    def number(self, label: str) -> int:
        """The number of a label.

        Raises:
            UsageError: classes were given and it is none of them.
        """
        label = label or UNNAMED
        if self.fixed and label not in self._numbers:
            raise UsageError(
                f"found a {label!r}, which is none of the {len(self._numbers)} given classes; add it, "
                f"or filter(labels=...) first{did_you_mean(label, self._numbers)}"
            )
        return self._numbers.setdefault(label, len(self._numbers))

    def numbers(self, labels: Iterable[str]) -> list[int]:
        return [self.number(label) for label in labels]
