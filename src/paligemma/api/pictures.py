"""What a verb may be given as its pictures: one, several of one example, or a list of examples.

In: whatever the user gave. Out: the pictures of each example, still unopened. Not done here: opening (`images`),
encoding (`encoding`).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from paligemma.errors import InputError
from paligemma.images import Source


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """Pictures of one example that went through the vision tower: every verb takes it where it takes a picture.

    Made by `PaliGemma.encode`. Another model, or the same after its weights or number type changed, encodes the
    pictures again.

    Args:
        images: n pictures, upright RGB; paths: their files, where they came from files.
        features: float[n, N, D] on the model's device, N soft tokens for each picture; not for training.
        made_by: which state of which model made them.
    """

    images: tuple[Image.Image, ...]
    paths: tuple[str | None, ...]
    features: Tensor
    made_by: tuple[Any, ...]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{image.width} x {image.height}" for image in self.images)
        return f"EncodedImage({sizes}, features={list(self.features.shape)})"


class Images:
    """The pictures of ONE example, in order: two to compare, or the frames of a clip.

    `Images(*read_frames("clip.mp4"))`; inside a list of examples a plain list does the same.
    """

    def __init__(self, *images: Source | EncodedImage):
        self.images = images

    def __repr__(self) -> str:
        return f"Images({len(self.images)})"


One = Source | Images | EncodedImage
Many = list[Any] | tuple[Any, ...]


def examples_of(images: Any) -> tuple[bool, list[Any]]:
    """Whether a list was given, and its examples.

    Raises:
        InputError: an example without a picture.
    """
    many = isinstance(images, (list, tuple)) or (isinstance(images, Iterator) and not hasattr(images, "read"))
    examples = list(images) if many else [images]
    for i, example in enumerate(examples):
        pictures_of(example, f"example {i} has" if many else "this is a prompt with")
    return many, examples


def pictures_of(example: Any, where: str = "this is a prompt with") -> tuple[Source | EncodedImage, ...]:
    """The pictures of one example, in order.

    Raises:
        InputError: there is none.
    """
    pictures: tuple[Any, ...]
    if isinstance(example, Images):
        pictures = example.images
    else:
        pictures = tuple(example) if isinstance(example, (list, tuple)) else (example,)
    if not pictures or any(picture is None for picture in pictures):
        raise InputError(f"{where} no picture; PaliGemma answers about pictures, so give at least one")
    return pictures


def path_of(source: Source) -> str | None:
    """The path a picture comes from, None for bytes, arrays and open pictures."""
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else None
