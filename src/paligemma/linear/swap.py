"""Other kinds of linear layers put in the place of `nn.Linear`, chosen by the module's full name.

    swap_linears(model, Nf4Linear.from_linear, matching(r"decoder\\..+"))

In: any module. Out: the same module, changed in place, and the names of what was changed. Not done here: the kinds
themselves (`lora`, `quantized`), and which names a model has.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from torch import nn

from paligemma.linear.lora import LoraLinear
from paligemma.linear.quantized import QuantizedLinear

Where = Callable[[str], bool]
Plain = nn.Linear | QuantizedLinear
AnyLinear = Plain | LoraLinear


def matching(*patterns: str) -> Where:
    """True of module names that one of the regular expressions matches as a whole."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda name: any(pattern.fullmatch(name) for pattern in compiled)


def among(names: Iterable[str]) -> Where:
    """True of exactly these module names."""
    return frozenset(names).__contains__


def linears(module: nn.Module) -> Iterator[tuple[str, AnyLinear]]:
    """(name, layer) of every linear layer; an adapted one counts once, as `LoraLinear`, without what it wraps."""
    adapted: str | None = None
    for name, child in module.named_modules():
        if adapted is not None and name.startswith(adapted):
            continue
        if isinstance(child, LoraLinear):
            adapted = f"{name}."
        if isinstance(child, AnyLinear):
            yield name, child


def swap_linears(module: nn.Module, make: Callable[..., nn.Module], where: Where) -> list[str]:
    """Replaces each linear layer whose name `where` holds of by `make(layer)`; returns their names in order."""
    chosen = [(name, layer) for name, layer in linears(module) if where(name)]
    for name, layer in chosen:
        module.set_submodule(name, make(layer), strict=True)
    return [name for name, _ in chosen]
