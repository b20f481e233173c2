"""Pictures -> image features, each at most once while it is remembered.

In: opened pictures or their pixels. Out: features that the engine takes instead of pixels, or an `EncodedImage` for the
user to keep. What depends on the prompt (the language model's cache) is not kept: in PaliGemma the image tokens see
the prompt, so nothing behind the vision tower can be shared between two questions.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from paligemma.api.feature_cache import FeatureCache, digest
from paligemma.api.pictures import EncodedImage, path_of, pictures_of
from paligemma.errors import ResourceError
from paligemma.images import open_image
from paligemma.processor import Encoded
from paligemma.tasks import Prompt

if TYPE_CHECKING:
    from paligemma.api.model import PaliGemma

_numbers = count()


class Picture(NamedTuple):
    """One opened picture, where it comes from, and its features float[N, D] if they are known."""

    image: Image.Image
    path: str | None
    features: Tensor | None


class ImageEncoder:
    """The vision tower of one model, and the features it remembers (`cache`)."""

    def __init__(self, model: "PaliGemma", entries: int):
        self.model, self.cache = model, FeatureCache(entries)
        self._number = next(_numbers)

    def made_by(self) -> tuple[Any, ...]:
        """Which model in which state: changes with device, number type, resizer, or when a weight is written to."""
        model, processor = self.model.model, self.model.processor
        weights = [*model.vision_tower.parameters(), *model.projector.parameters()]
        written = sum(0 if weight.is_inference() else weight._version for weight in weights)
        where = hash(tuple(map(id, weights)))
        return (self._number, where, written, str(self.model.device), str(self.model.dtype), processor.resize)

    def features(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """float[N, D] for each of the pixels float32[3, S, S], from the cache where it has them.

        Raises:
            ResourceError: out of memory.
        """
        maker = self.made_by()
        keys = [(maker, digest(picture)) for picture in pixels]
        found: dict[Hashable, Tensor] = {}
        missing: dict[Hashable, Tensor] = {}
        for key, picture in dict(zip(keys, pixels, strict=True)).items():
            known = self.cache.get(key)
            if known is None:
                missing[key] = picture
            else:
                found[key] = known
        for new, features in zip(missing, self._through_the_tower(list(missing.values())), strict=True):
            found[new] = features.clone()
            self.cache.put(new, found[new])
        return [found[key] for key in keys]

    def _through_the_tower(self, pixels: Sequence[Tensor]) -> Sequence[Tensor]:
        if not pixels:
            return ()
        try:
            return list(self.model.engine.runner.encode_images(torch.stack(list(pixels))))
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"out of memory on {self.model.device} with {len(pixels)} pictures at once; lower batch_size"
            ) from error

    def encode(self, examples: Sequence[Any]) -> list[EncodedImage]:
        """One `EncodedImage` for each example, all pictures through the vision tower together.

        Raises:
            InputError: no picture, or one that cannot be read. ResourceError: out of memory.
        """
        opened = [self.opened(example) for example in examples]
        made = iter(self._complete([picture for pictures in opened for picture in pictures]))
        maker = self.made_by()
        return [
            EncodedImage(
                images=tuple(picture.image for picture in pictures),
                paths=tuple(picture.path for picture in pictures),
                features=torch.stack([next(made) for _ in pictures]),
                made_by=maker,
            )
            for pictures in opened
        ]

    def opened(self, example: Any) -> list[Picture]:
        """The pictures of one example, open; with their features where they come as a fresh `EncodedImage`.

        Raises:
            InputError: no picture, or one that cannot be read.
        """
        found: list[Picture] = []
        for source in pictures_of(example):
            if not isinstance(source, EncodedImage):
                found.append(Picture(open_image(source), path_of(source), None))
                continue
            features: Sequence[Tensor | None] = list(source.features)
            if source.made_by != self.made_by():
                features = [None] * len(source.images)
            found += map(Picture, source.images, source.paths, features)
        return found

    def row(self, pictures: Sequence[Picture], prompt: Prompt, max_tokens: int) -> Encoded:
        """The token row of one example: with features where any picture brings its own, otherwise with pixels.

        Raises:
            InputError: a row longer than `max_tokens`.
        """
        encode = self.model.processor.encode
        if all(picture.features is None for picture in pictures):
            images = [picture.image for picture in pictures]
            return encode(images, prompt.text, allow=prompt.allow, max_tokens=max_tokens)
        features = torch.stack(self._complete(pictures))
        return encode([], prompt.text, features=features, allow=prompt.allow, max_tokens=max_tokens)

    def with_features(self, rows: Sequence[Encoded]) -> list[Encoded]:
        """The same rows with features in place of pixels, each distinct picture encoded once; as given without cache.

        Raises:
            ResourceError: out of memory.
        """
        if not self.cache.max_entries:
            return list(rows)
        pixels = [picture for row in rows if row.pixels is not None for picture in row.pixels]
        made = iter(self.features(pixels))
        return [
            row if row.pixels is None
            else replace(row, pixels=None, features=torch.stack([next(made) for _ in row.pixels]))
            for row in rows
        ]  # fmt: skip

    def _complete(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Features of all these pictures, made where they are missing."""
        missing = [self.model.processor.pixels(picture.image) for picture in pictures if picture.features is None]
        made = iter(self.features(missing))
        return [next(made) if picture.features is None else picture.features for picture in pictures]
