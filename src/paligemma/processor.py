"""Images, a prompt and perhaps its answer -> one token row with masks and pixels; rows -> one padded batch.

    tokens     [image slots][bos prefix \\n][suffix eos]
    mask_ar     0 ......... 0 ........... 0 1 ....... 1     0 one block that sees itself whole, 1 causal
    mask_loss   0 ......... 0 ........... 0 1 ....... 1     1 what training learns

Prefix, newline and suffix are tokenised apart, as big_vision does: a prompt that ends in a newline keeps two single
newline tokens. `doctor.hf_prompts` has Hugging Face's way. Nothing is ever cut: what is too long is an error. A newline
inside the prompt stays. Source: big_vision `configs/proj/paligemma/transfers/common.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from paligemma.config import IMAGE_SLOT
from paligemma.errors import InputError, UsageError
from paligemma.tokenizer import Tokenizer

if TYPE_CHECKING:
    from PIL import Image

Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One example. T tokens, n images of S x S px, each N tokens of width D.

    Attributes:
        tokens: int64[T], `IMAGE_SLOT` where image features go.
        pixels: float32[n, 3, S, S] in [-1, 1], None without images, or when `features` are given.
        mask_ar, mask_loss: int64[T], 1 on suffix and eos.
        features: float[n, N, D], images that were encoded before (`Runner.encode_images`); they replace `pixels`.
    """

    tokens: Tensor
    pixels: Tensor | None
    mask_ar: Tensor
    mask_loss: Tensor
    features: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B examples side by side, padded to T tokens. I images of all of them.

    Attributes:
        tokens: int64[B, T].
        pixels: float32[I, 3, S, S], in the order of their slots, None without images.
        mask_ar: int64[B, T].
        mask_input: bool[B, T], False where padding.
        mask_loss: int64[B, T].
    """

    tokens: Tensor
    pixels: Tensor | None
    mask_ar: Tensor
    mask_input: Tensor
    mask_loss: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        moved = {name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **moved)


class Processor:
    """What one model needs to read images and text: tokenizer, image side in px, tokens per image, resizer."""

    def __init__(self, tokenizer: Tokenizer, *, image_size_px: int, num_image_tokens: int, resize: str = "bicubic"):
        self.tokenizer = tokenizer
        self.image_size_px = image_size_px
        self.num_image_tokens = num_image_tokens
        self.resize = resize

    def encode(
        self,
        images: "Image.Image | Tensor | Sequence[Image.Image | Tensor]",
        prefix: str,
        suffix: str | None = None,
        *,
        features: Tensor | None = None,
        allow: frozenset[str] = frozenset(),
        max_tokens: int | None = None,
        text_only: bool = False,
    ) -> Encoded:
        """The row of one example: image slots, bos, prefix, newline, and for training suffix and eos.

        Args:
            images: RGB images or ready float32[3, S, S] in [-1, 1]; several keep their order. Empty with `features`.
            features: float[n, N, D] of n images that were encoded before, instead of `images`.
            suffix: the answer to learn; "" teaches to say nothing, None is a prompt to be answered.
            allow: classes of special tokens that text may spell, see `Tokenizer.encode`.
            max_tokens: longest row accepted, image slots included.
            text_only: allows an empty `images`.

        Raises:
            InputError: no image, a picture or tensor that does not fit, a text that is none, or a row that is too long.
            UsageError: images and features.
        """
        pictures: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        if features is not None:
            self._check_features(features, len(pictures))
        num_images = len(pictures) if features is None else len(features)
        if not num_images and not text_only:
            raise InputError(
                "found a prompt without image, expected at least one image; give one, or ask for text_only"
            )
        num_slots = num_images * self.num_image_tokens
        self._refuse_far_too_long(num_slots, prefix, suffix, max_tokens)
        tokens = [IMAGE_SLOT] * num_slots + self.prompt_ids(prefix, allow=allow)
        answer = [] if suffix is None else [*self.tokenizer.encode(suffix, allow=allow), self.tokenizer.eos_id]
        if max_tokens is not None and len(tokens) + len(answer) > max_tokens:
            raise _too_long(f"{len(tokens) + len(answer)}", num_slots, max_tokens)
        in_suffix = torch.tensor([0] * len(tokens) + [1] * len(answer))
        return Encoded(
            tokens=torch.tensor(tokens + answer),
            pixels=torch.stack([self.pixels(picture) for picture in pictures]) if pictures else None,
            mask_ar=in_suffix,
            mask_loss=in_suffix.clone(),
            features=features,
        )

    def prompt_ids(self, prefix: str, *, allow: frozenset[str] = frozenset()) -> list[int]:
        """bos, prefix, newline: the part of a prompt that is text."""
        return [self.tokenizer.bos_id, *self.tokenizer.encode(prefix, allow=allow), self.tokenizer.newline_id]

    def pixels(self, image: "Image.Image | Tensor") -> Tensor:
        """float32[3, S, S] in [-1, 1] of one RGB image; a ready tensor of that shape is checked and passed on.

        Raises:
            InputError: neither an image nor such a tensor.
        """
        from PIL import Image

        side = self.image_size_px
        if isinstance(image, Tensor):
            if image.shape != (3, side, side) or not image.is_floating_point():
                raise InputError(
                    f"found an image tensor {str(image.dtype).removeprefix('torch.')}{list(image.shape)}, "
                    f"expected float32[3, {side}, {side}] in [-1, 1]; resize it, or give a PIL image"
                )
            return image.float()
        if not isinstance(image, Image.Image):
            raise InputError(
                f"found {type(image).__name__}, expected a PIL image or a float tensor; "
                "open files with images.open_image"
            )
        from paligemma.pixels import to_pixels

        return to_pixels(image, side, self.resize)

    def collate(self, examples: Sequence[Encoded], side: Side = "left", pad_to: int | None = None) -> Batch:
        """One batch of examples of any lengths and image counts, padded at `side`.

        Args:
            side: "left" to generate (all rows end together), "right" to train.
            pad_to: length of the rows in tokens; default the longest example.

        Raises:
            InputError: an example is longer than `pad_to`, or holds features, which only the engine takes.
            UsageError: no examples, or another side.
        """
        if side not in ("left", "right"):
            raise UsageError(f"found padding side {side!r}, expected 'left' or 'right'; choose one")
        if not examples:
            raise UsageError("found no examples, expected at least one; do not collate an empty list")
        if any(example.features is not None for example in examples):
            raise InputError("found an example with image features, expected pixels; encode it from its images")
        longest = max(len(example.tokens) for example in examples)
        length = longest if pad_to is None else pad_to
        if longest > length:
            raise InputError(
                f"an example has {longest} tokens, but {length} were asked for; raise pad_to or shorten it"
            )

        def stack(rows: list[Tensor], value: int) -> Tensor:
            padded = torch.full((len(rows), length), value)
            for line, row in zip(padded, rows, strict=True):
                start = length - len(row) if side == "left" else 0
                line[start : start + len(row)] = row
            return padded

        pixels = [example.pixels for example in examples if example.pixels is not None]
        return Batch(
            tokens=stack([example.tokens for example in examples], self.tokenizer.pad_id),
            pixels=torch.cat(pixels) if pixels else None,
            # big_vision's padding comes last and is causal; on the left, 0 keeps the first block one block
            mask_ar=stack([example.mask_ar for example in examples], int(side == "right")),
            mask_input=stack([torch.ones_like(example.tokens) for example in examples], 0).bool(),
            mask_loss=stack([example.mask_loss for example in examples], 0),
        )

    def _check_features(self, features: Tensor, num_pictures: int) -> None:
        if num_pictures:
            raise UsageError(
                f"found {num_pictures} images together with features of {len(features)}, expected one or the other; "
                "give an empty list of images with features"
            )
        if features.ndim != 3 or features.shape[1] != self.num_image_tokens or not features.is_floating_point():
            raise InputError(
                f"found image features {str(features.dtype).removeprefix('torch.')}{list(features.shape)}, expected "
                f"float[images, {self.num_image_tokens}, width]; encode the images with this model"
            )

    def _refuse_far_too_long(self, num_slots: int, prefix: str, suffix: str | None, max_tokens: int | None) -> None:
        """Before anything is tokenised: a megabyte of prompt is refused in microseconds."""
        if max_tokens is None or not isinstance(prefix, str) or not isinstance(suffix or "", str):
            return
        fewest = num_slots + 2 + self.tokenizer.fewest_tokens(prefix)
        fewest += 0 if suffix is None else 1 + self.tokenizer.fewest_tokens(suffix)
        if fewest > max_tokens:
            raise _too_long(f"at least {fewest}", num_slots, max_tokens)


def _too_long(found: str, num_slots: int, max_tokens: int) -> InputError:
    return InputError(
        f"image and text take {found} tokens ({num_slots} of them for images), but at most {max_tokens} fit; "
        "shorten the text or give fewer images"
    )
