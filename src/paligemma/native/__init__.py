"""Our own C kernels for products with large weights and the steps between them, compiled where they run."""

from paligemma.native.build import Library, library, status
from paligemma.native.memory import on_large_pages
from paligemma.native.products import coded_product, many_product, pack, plain_product, takes_many
from paligemma.native.stack import Coded, Layer, Stack, fits

__all__ = [
    "Coded", "Layer", "Library", "Stack", "coded_product", "fits", "library", "many_product", "on_large_pages", "pack",
    "plain_product", "status", "takes_many",
]  # fmt: skip
