"""Our own C kernels for products of few rows with large weights, compiled once on the machine they run on."""

from paligemma.native.build import Library, library, status
from paligemma.native.memory import on_large_pages
from paligemma.native.products import coded_product, pack, plain_product
from paligemma.native.stack import Coded, Layer, Stack, fits

__all__ = [
    "Coded", "Layer", "Library", "Stack", "coded_product", "fits", "library", "on_large_pages", "pack", "plain_product",
    "status",
]  # fmt: skip
