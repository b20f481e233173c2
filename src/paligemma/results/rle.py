"""COCO's run-length encoding: bool[H, W] -> `{"size": [H, W], "counts": "..."}` and back.

Runs go down the columns, from left to right, and begin with the number of zeros. Compressed, each run is a signed
number, from the fourth on the difference to the run before the last, written in groups of five bits, lowest first: a
sixth bit says that more follow, and 48 is added to make it a printable character. Source: the COCO API's `maskApi.c`,
which this equals text for text.
"""

from typing import Any

import numpy as np

from paligemma.errors import InputError


def runs_of(mask: np.ndarray, image_size_px: tuple[int, int], left_top: tuple[int, int]) -> np.ndarray:
    """Run lengths int64[n] of a picture that is 0 but for bool[h, w] `mask` at `left_top`; visits only its columns.

    Args:
        image_size_px: width and height of the picture.
    """
    width, height = image_size_px
    left, top = left_top
    strip = np.zeros((mask.shape[1], height), dtype=bool)
    strip[:, top : top + mask.shape[0]] = mask.T
    flat = strip.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    if flat.size and flat[-1] and left + mask.shape[1] < width:
        changes = np.append(changes, flat.size)  # zeros follow the strip
    changes = changes + left * height
    return np.diff(changes, prepend=0, append=width * height)


def counts_text(runs: np.ndarray) -> str:
    """The compressed form of run lengths."""
    numbers = [int(run) for run in runs]
    out = bytearray()
    for i, run in enumerate(numbers):
        value = run - numbers[i - 2] if i > 2 else run
        more = True
        while more:
            five = value & 31
            value >>= 5
            more = value != (-1 if five & 16 else 0)
            out.append(48 + (five | 32 if more else five))
    return out.decode("ascii")


def counts_runs(text: str) -> list[int]:
    """The run lengths of the compressed form.

    Raises:
        InputError: not such a text.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise InputError(f"mask runs hold {character!r}; COCO's compressed form has characters from '0' to 'o'")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError("mask runs end inside a number; give the whole text of COCO's compressed form")
    return runs


def encode(mask: np.ndarray) -> dict[str, Any]:
    """The compressed form of bool[H, W]."""
    height, width = mask.shape
    return {"size": [height, width], "counts": counts_text(runs_of(mask, (width, height), (0, 0)))}


def decode(rle: dict[str, Any]) -> np.ndarray:
    """bool[H, W] of a compressed (text, bytes) or plain (list of runs) COCO mask.

    Raises:
        InputError: runs that do not fill the picture.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    counts = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    runs = counts_runs(counts) if isinstance(counts, str) else [int(run) for run in counts]
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise InputError(
            f"mask runs cover {sum(runs)} pixels where the size says {height} x {width}; give the whole of COCO's runs"
        )
    values = np.zeros(len(runs), dtype=bool)
    values[1::2] = True
    return np.repeat(values, runs).reshape(width, height).T
