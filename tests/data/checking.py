"""A source of examples for the tests of checks, and a processor to read them with."""

import numpy as np
from PIL import Image

from paligemma.checkpoints import find_tokenizer
from paligemma.data.example import Example
from paligemma.processor import Processor
from paligemma.tokenizer import Tokenizer

PROCESSOR = Processor(Tokenizer.load(find_tokenizer("nano")), image_size_px=56, num_image_tokens=16)
PLACE = "<loc0100><loc0200><loc0300><loc0400>"
MASK = "".join(f"<seg{i:03d}>" for i in range(16))


class Listed:
    """Examples, or errors in their place."""

    name, fingerprint = "pets", "1"

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        if isinstance(row, Exception):
            raise row
        return row


def picture(seed, size=(96, 80)):
    """A picture that looks like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def row(number, prefix="caption en", suffix=None, image=None):
    image = picture(number) if image is None else image
    suffix = f"number {number}" if suffix is None else suffix
    return Example(id=f"pets:{number}", images=(image,), prefix=prefix, suffix=suffix, source="pets")
