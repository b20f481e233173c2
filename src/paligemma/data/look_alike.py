"""Which pictures are the same, or look the same: what training data repeats, and what it shares with held-out data.

In: pictures, one row after another. Out: their digest, and an earlier picture that looks alike. Two pictures look alike
if the 64 signs of neighbouring grey differences agree but for a few (dHash, N. Krawetz 2013) and their 8 x 8 thumbnails
hardly differ; plain surfaces look like nothing. About 500 bytes are held per picture.
"""

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paligemma.data.example import Picture
from paligemma.errors import InputError
from paligemma.images import open_image

_FEW = 3  # signs that may differ; one of four bands then agrees whole
_BANDS, _BAND_BITS = 4, 16
_CLOSE = 3.0  # mean difference of thumbnails, in levels of 0..255
_PLAIN = 4.0  # standard deviation of a thumbnail below which there is nothing to compare
_CANDIDATES = 50  # of one band that are compared
_REMEMBERED = 256  # pictures whose looks are not computed again when they come again


@dataclass(frozen=True)
class Look:
    """What is kept of a picture: sha256 of its file or pixels, its sides in pixels, signs and thumbnail."""

    digest: bytes
    size_px: tuple[int, int]
    signs: int
    thumbnail: NDArray[np.uint8]

    @property
    def is_plain(self) -> bool:
        return float(self.thumbnail.std()) < _PLAIN


class Looks:
    """Looks of pictures, remembered while the same file comes again and again."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, Look] = OrderedDict()

    def of(self, picture: Picture) -> Look:
        """
        Raises:
            InputError: the picture cannot be opened.
        """
        if not isinstance(picture, Path):
            return look(picture)
        if picture not in self._known:
            while len(self._known) >= _REMEMBERED:
                self._known.popitem(last=False)
            self._known[picture] = look(picture)
        return self._known[picture]


def look(picture: Picture) -> Look:
    """
    Raises:
        InputError: the picture cannot be opened.
    """
    image = open_image(picture)
    if isinstance(picture, Image.Image):
        data = f"{image.size}".encode() + image.tobytes()
    else:
        try:
            data = picture.read_bytes() if isinstance(picture, Path) else picture
        except OSError as error:
            raise InputError(f"{picture!s} cannot be read ({error.strerror or error}); check the disk") from error
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return Look(
        digest=hashlib.sha256(data).digest(),
        size_px=image.size,
        signs=int("".join("1" if bit else "0" for bit in bits), 2),
        thumbnail=np.asarray(image.resize((8, 8), Image.Resampling.BOX)),
    )


class Gallery:
    """Pictures seen so far, by digest and by look."""

    def __init__(self) -> None:
        self._ids: dict[bytes, str] = {}
        self._looks: list[tuple[Look, str]] = []
        self._bands: defaultdict[tuple[int, int], list[int]] = defaultdict(list)

    def same(self, seen: Look) -> str | None:
        """The id under which this very picture was added first."""
        return self._ids.get(seen.digest)

    def alike(self, seen: Look) -> str | None:
        """The id of another picture that looks the same."""
        if seen.is_plain:
            return None
        for band in _bands(seen.signs):
            for i in self._bands.get(band, ())[:_CANDIDATES]:
                other, name = self._looks[i]
                if other.digest != seen.digest and _look_the_same(seen, other):
                    return name
        return None

    def add(self, seen: Look, name: str) -> None:
        """Remembers a picture; one that is known keeps its first id."""
        if seen.digest in self._ids:
            return
        self._ids[seen.digest] = name
        if not seen.is_plain:
            self._looks.append((seen, name))
            for band in _bands(seen.signs):
                self._bands[band].append(len(self._looks) - 1)


def _bands(signs: int) -> Sequence[tuple[int, int]]:
    return [(i, signs >> (i * _BAND_BITS) & ((1 << _BAND_BITS) - 1)) for i in range(_BANDS)]


def _look_the_same(a: Look, b: Look) -> bool:
    if (a.signs ^ b.signs).bit_count() > _FEW:
        return False
    return float(np.abs(a.thumbnail.astype(np.int16) - b.thumbnail).mean()) <= _CLOSE
