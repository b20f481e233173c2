"""Real handwritten digits -> examples: the set that comes with scikit-learn, 1,797 pictures of 8 x 8 px.

The smallest real data set there is, and one that no drawn world has seen: what a transfer is measured on. Pictures are
enlarged, ink is dark on white. The three splits are fixed and hold every digit in its share. Source: E. Alpaydin and
C. Kaynak, Optical Recognition of Handwritten Digits, 1998.
"""

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from paligemma.config import did_you_mean
from paligemma.data.example import Example
from paligemma.data.order import key_of, shuffled
from paligemma.errors import UnavailableError, UsageError

PROMPT = "answer en which digit is this?"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train": (0, 1000), "validation": (1000, 1297), "test": (1297, 1797)}
_INK = 16  # darkest value of the set


class DigitsSource:
    """One split of the digits.

    Args:
        words: answers are `seven`; else `7`.
        side_px: of the enlarged pictures.

    Raises:
        UnavailableError: scikit-learn is not installed. UsageError: an unknown split.
    """

    def __init__(
        self, *, split: str = "train", name: str = "digits", prefix: str | None = None, words: bool = True,
        side_px: int = 224,
    ):  # fmt: skip
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r} of the digits{did_you_mean(split, list(SPLITS))}")
        pictures, self._digits = _load()
        first, last = SPLITS[split]
        self._pictures, self._rows = pictures, _stratified(self._digits)[first:last]
        self.name, self.split, self._prefix, self._words, self._side_px = name, split, prefix or PROMPT, words, side_px
        facts = f"{split} {self._prefix} {words} {side_px}"
        self.fingerprint = hashlib.sha256(pictures.tobytes() + self._rows.tobytes() + facts.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self._rows[index])
        digit = int(self._digits[row])
        image = Image.fromarray(self._pictures[row]).resize((self._side_px,) * 2, Image.Resampling.BICUBIC)
        return Example(
            id=f"digits:{row}", images=(image.convert("RGB"),), prefix=self._prefix,
            suffix=WORDS[digit] if self._words else str(digit), source=self.name,
        )  # fmt: skip


def _load() -> tuple[Any, Any]:
    """uint8[1797, 8, 8], dark ink on white, and int64[1797] digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UnavailableError(
            "the digits come with scikit-learn, which is not installed; pip install scikit-learn"
        ) from error
    found = load_digits()
    return np.rint(255 - found.images * (255 / _INK)).astype(np.uint8), found.target.astype(np.int64)


def _stratified(digits: Any) -> Any:
    """int64[1797]: rows in an order of which every stretch holds all digits in their shares."""
    order = np.empty(len(digits))
    for digit in range(10):
        rows = np.flatnonzero(digits == digit)
        order[rows[shuffled(len(rows), key_of("digits", digit))]] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(order, kind="stable")
