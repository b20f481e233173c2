"""Our own C kernels for products of few rows with large weights, compiled once on the machine they run on."""

from paligemma.native.build import Library, library, status
from paligemma.native.products import coded_product, pack, plain_product

__all__ = ["Library", "coded_product", "library", "pack", "plain_product", "status"]
