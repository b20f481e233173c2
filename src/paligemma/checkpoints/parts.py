"""Which matrices of a model are kept in few bits, by part, and in which method of `linear.packed.METHODS`.

    "int4" or "lm=int4,head=int8" or {"lm": "int4"} -> {"lm": "int4", ...} -> the method of each parameter

In: what a user asks or a file says. Not done here: coding, files.
"""

import re
from collections.abc import Mapping
from typing import Any

from paligemma.checkpoints.tensors import Shape
from paligemma.config import did_you_mean
from paligemma.errors import UsageError
from paligemma.linear.packed import METHODS

PARTS = {  # full names of the modules that belong to each; the small projector stays as it is
    "vision": re.compile(r"vision_tower\.layers\..+"),
    "lm": re.compile(r"language_model\.layers\..+"),
    "head": re.compile(r"language_model\.embed_tokens"),
}
VISION = {"int4": "int8", "nf4": "int8"}  # of one method for all: few of the bytes, none of those each token reads


def methods_of(quantize: "str | Mapping[str, str]") -> dict[str, str]:
    """The method of each part, of "int8", "int4", "nf4", of "lm=int4,head=int8" or of {"lm": "int4"}.

    One method alone means all parts, with the image encoder in 8 bits under 4-bit methods.

    Raises:
        UsageError: an unknown part or method, a part twice, or nothing at all.
    """
    if isinstance(quantize, str) and "=" not in quantize:
        method = _known(quantize, METHODS, "quantize")
        return {part: VISION.get(method, method) if part == "vision" else method for part in PARTS}
    pairs = list(quantize.items()) if isinstance(quantize, Mapping) else [_pair(one) for one in quantize.split(",")]
    found = {_known(part, PARTS, "quantize"): _known(method, METHODS, "quantize") for part, method in pairs}
    if not found:
        raise UsageError(f"quantize names no part; give a method ({', '.join(METHODS)}) or parts as lm=int4")
    if len(found) != len(pairs):
        raise UsageError(f"quantize names a part twice in {quantize!r}; give each part one method")
    return {part: found[part] for part in PARTS if part in found}


def spelled(methods: Mapping[str, str]) -> str:
    """`vision=int8,lm=int4`, of which `methods_of` is the inverse."""
    return ",".join(f"{part}={method}" for part, method in methods.items())


def part_of(module: str) -> str | None:
    """The part that a module of this full name belongs to."""
    return next((part for part, names in PARTS.items() if names.fullmatch(module)), None)


def method_of(name: str, shape: Shape, methods: Mapping[str, str]) -> str | None:
    """The method of a parameter; None of what is no matrix, or of no part in `methods`."""
    if not is_matrix(name, shape):
        return None
    return methods.get(part_of(name.removesuffix(".weight")) or "")


def is_matrix(name: str, shape: Shape) -> bool:
    """Whether this parameter can be coded: the weights of linear layers and the table of the vocabulary."""
    return name.endswith(".weight") and len(shape) == 2


def _pair(given: str) -> tuple[str, str]:
    part, equals, method = given.strip().partition("=")
    if not equals:
        raise UsageError(f"quantize has {given!r}; give parts as lm=int4,head=int8, or one method for all")
    return part, method


def _known(name: str, table: dict[str, Any], option: str) -> str:
    if name not in table:
        raise UsageError(f"unknown {option} {name!r}{did_you_mean(name, table)}")
    return name
