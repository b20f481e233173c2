"""What is trained, made explicit: parts frozen, the base quantised, adapters attached, and a table of all of it.

    parts = prepare(model, config)      # the model is changed in place
    print(parts.table())

`train` names parts that move in full, `lora.where` linear layers that get an adapter. Everything else is frozen. Names
are those of modules, so the image encoder and the projector behind it are two parts, and an adapter on the decoder is
not also one on the encoder's layers of the same name.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from paligemma.checkpoints.fingerprint import fingerprint
from paligemma.config import did_you_mean
from paligemma.errors import UsageError
from paligemma.linear.lora import Lora, LoraLinear
from paligemma.linear.quantized import METHODS
from paligemma.linear.swap import linears, matching, swap_linears
from paligemma.model import PaliGemmaModel
from paligemma.train.config import LoraConfig, TrainConfig

TOWERS = {"lm": "language_model", "vision": "vision_tower", "projector": "projector"}
TRAIN = {  # what `train` may name -> parameters
    "lm": r"language_model\..+",
    "vision": r"vision_tower\..+",
    "projector": r"projector\..+",
    "attention": r"language_model\.layers\..+\.self_attn\..+",
    "all": r".+",
}
WHERE = {  # what `lora.where` may name -> linear layers
    "lm": r"language_model\..+",
    "lm-attention": r"language_model\..+\.self_attn\..+",
    "lm-mlp": r"language_model\..+\.mlp\..+",
    "vision": r"vision_tower\..+",
    "vision-attention": r"vision_tower\..+\.self_attn\..+",
    "vision-mlp": r"vision_tower\..+\.mlp\..+",
    "projector": r"projector",
    "all-linear": r".+",
}
QUANTIZED = (WHERE["lm"], WHERE["vision"])  # as in the published nf4 and int8 figures; the projector is small


@dataclass(frozen=True)
class Row:
    """Something that is trained: an adapted layer, or a parameter that moves in full."""

    name: str
    how: str  # "lora 8", "dora 8", "full"
    shape: tuple[int, ...]  # of the layer's weight, or of the parameter
    count: int  # trained numbers


@dataclass(frozen=True)
class Parts:
    """What `prepare` did to `model`.

    Attributes:
        rows: everything that is trained, in the model's order.
        sizes: numbers in each part of the base, by name of `TOWERS`.
        quantized: linear layers kept in few bits, and in which `method`.
        base_sha256: fingerprint of the base before any change; None of a model without memory.
    """

    model: PaliGemmaModel
    rows: tuple[Row, ...]
    sizes: dict[str, int]
    quantized: tuple[str, ...]
    method: str | None
    lora: LoraConfig | None
    base_sha256: str | None

    @property
    def trainable(self) -> int:
        """Trained numbers."""
        return sum(row.count for row in self.rows)

    @property
    def total(self) -> int:
        """Numbers of the base and of the adapters."""
        return sum(self.sizes.values()) + sum(row.count for row in self.rows if row.how != "full")

    @property
    def in_full(self) -> tuple[str, ...]:
        """Names of the parameters that move themselves."""
        return tuple(row.name for row in self.rows if row.how == "full")

    def of(self, part: str) -> int:
        """Trained numbers of one of `TOWERS`."""
        return sum(row.count for row in self.rows if row.name.split(".")[0] == TOWERS[part])

    def table(self, every: bool = True) -> str:
        """The rows, one for each layer or (`every` False) one for all layers of a kind, then sums for each part."""
        lines = [_line(row) for row in self.rows] if every else _folded(self.rows)
        sums = []
        for part, size in self.sizes.items():
            rows = [row for row in self.rows if row.name.split(".")[0] == TOWERS[part]]
            size += sum(row.count for row in rows if row.how != "full")
            sums.append(_sum(part, sum(row.count for row in rows), size))
        sums.append(_sum("in all", self.trainable, self.total))
        text = _columns([HEAD, *lines]) + "\n\n" + _columns(sums)
        return text + (f"\n{len(self.quantized)} frozen linear layers in {self.method}" if self.quantized else "")


def prepare(model: PaliGemmaModel, config: TrainConfig) -> Parts:
    """Freezes, quantises and adapts `model` in place as `train`, `lora`, `quantize` and `seed` of `config` say.

    With `lora` the default `train = ("all",)` means the adapters alone; other parts named there move in full as well.
    Adapters are float32; every other parameter keeps its type.

    Raises:
        UsageError: an unknown part, a part both trained in full and adapted, a quantised base without adapters,
            adapters over random weights, or nothing to train.
    """
    sizes = {part: sum(p.numel() for p in getattr(model, TOWERS[part]).parameters()) for part in TOWERS}
    full = () if config.lora and config.train == ("all",) else config.train
    moves = matching(*(_known(name, TRAIN, "train") for name in full))
    adapts = _adapted(config.lora, model)
    _refuse_both(model, moves, adapts)
    if config.lora and config.model.startswith("scratch:"):
        raise UsageError("an adapter over random weights belongs to no base that is kept; train all, or give a model")
    if config.quantize and config.lora is None:
        raise UsageError("a quantised base cannot be trained itself; add lora, or leave quantize out")
    base = None if model.projector.weight.is_meta else fingerprint(model)

    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(moves(name))
    quantized = _quantize(model, config.quantize, moves)
    if config.lora:
        lora = config.lora
        shape = Lora(rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, rslora=lora.rslora, dora=lora.dora)
        generator = torch.Generator().manual_seed(config.seed)
        swap_linears(model, lambda linear: LoraLinear(linear, shape, generator), adapts)
    rows = _rows(model)
    if not rows:
        raise UsageError("nothing would be trained: train names no part and there is no lora; give one of them")
    return Parts(model, rows, sizes, quantized, config.quantize, config.lora, base)


def _known(name: str, table: dict[str, str], key: str) -> str:
    if name not in table:
        raise UsageError(f"unknown part {name!r} in {key}{did_you_mean(name, table)}")
    return table[name]


def _adapted(lora: LoraConfig | None, model: PaliGemmaModel) -> Callable[[str], bool]:
    """Which linear layers `lora.where` means: names of `WHERE`, or last names of layers as in PEFT's files."""
    if lora is None:
        return matching()
    if not lora.where:
        raise UsageError("lora is given without where; name parts such as lm")
    last_names = {name.split(".")[-1]: rf"(.+\.)?{re.escape(name.split('.')[-1])}" for name, _ in linears(model)}
    return matching(*(_known(name, WHERE | last_names, "lora.where") for name in lora.where))


def _refuse_both(model: PaliGemmaModel, moves: Callable[[str], bool], adapts: Callable[[str], bool]) -> None:
    both = [name for name, _ in linears(model) if adapts(name) and moves(f"{name}.weight")]
    if both:
        raise UsageError(
            f"{both[0]} would get an adapter and be trained in full too; take its part out of train or out of "
            "lora.where"
        )


def _quantize(model: PaliGemmaModel, method: str | None, moves: Callable[[str], bool]) -> tuple[str, ...]:
    if method is None:
        return ()
    if method not in METHODS:
        raise UsageError(f"unknown quantize {method!r}{did_you_mean(method, METHODS)}")
    frozen = matching(*QUANTIZED)
    make = METHODS[method].from_linear
    return tuple(swap_linears(model, make, lambda name: frozen(name) and not moves(f"{name}.weight")))


def _rows(model: PaliGemmaModel) -> tuple[Row, ...]:
    adapted = {name: layer for name, layer in linears(model) if isinstance(layer, LoraLinear)}
    rows, seen = [], set()
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        if owner in adapted and owner not in seen:
            layer = adapted[owner]
            seen.add(owner)
            count = sum(p.numel() for p in layer.parameters() if p.requires_grad)
            how = f"{'dora' if layer.lora.dora else 'lora'} {layer.lora.rank}"
            rows.append(Row(owner, how, (layer.out_features, layer.in_features), count))
        elif owner not in adapted and parameter.requires_grad:
            rows.append(Row(name, "full", tuple(parameter.shape), parameter.numel()))
    return tuple(rows)


# --- the table -------------------------------------------------------------------------------------------------------

Line = tuple[str, str, str, str, str]
HEAD: Line = ("trained", "how", "shape", "", "numbers")


def _line(row: Row, times: int = 1) -> Line:
    shape = " x ".join(map(str, row.shape))
    return (row.name, row.how, shape, f"x {times}" if times > 1 else "", f"{times * row.count:,}")


def _folded(rows: tuple[Row, ...]) -> list[Line]:
    """One line for all layers that differ in nothing but their number."""
    kinds = Counter(replace(row, name=re.sub(r"\.\d+\.", ".*.", row.name)) for row in rows)
    return [_line(row, times) for row, times in kinds.items()]


def _sum(part: str, count: int, of: int) -> Line:
    return (part, f"{count:,}", "of", f"{of:,}", f"{100 * count / of:.4g} %")


def _columns(lines: list[Line]) -> str:
    """The lines with cells of one width for each column: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = [column[-1][:1].isdigit() for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in lines
    )
