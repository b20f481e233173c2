"""What a model consists of once its parts are prepared, counted without any weight: numbers of each kind, and layers.

In: an architecture and a run's settings. Out: `Inventory`. The counts are those of the model's own modules on the meta
device, of which one block of each tower is made and counted `depth` times; `parts.prepare` says what is trained.
"""

import re
from dataclasses import dataclass, replace

from paligemma.checkpoints.tensors import empty_model
from paligemma.config import Config
from paligemma.linear.lora import LoraLinear
from paligemma.linear.quantized import BLOCK
from paligemma.linear.swap import linears, matching
from paligemma.train.config import TrainConfig
from paligemma.train.parts import QUANTIZED, prepare

# Bytes a number of a quantised matrix takes, with what belongs to it: scales of blocks, or of rows.
QUANTIZED_BYTES = {"nf4": 0.5 + 4 / BLOCK, "int8": 1.0}
_BLOCK_OF = {"vision_tower": re.compile(r"vision_tower\.layers\."), "lm": re.compile(r"language_model\.layers\.")}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One linear layer of a block.

    Attributes:
        trained: its weight moves. rank: of its adapter, 0 without. quantized: kept in few bits.
    """

    name: str
    inputs: int
    outputs: int
    trained: bool
    rank: int
    quantized: bool

    @property
    def learns(self) -> bool:
        """Whether its input is needed again in the backward pass."""
        return self.trained or self.rank > 0


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Counts over the whole model.

    Attributes:
        trained: numbers that move. frozen: that do not, quantised ones apart.
        quantized_bytes: of the matrices kept in few bits.
        outside: numbers of `trained` that lie outside of the towers' blocks. frozen_outside: of `frozen`.
        embedding_trained: whether the embedding moves. largest: numbers of the largest trained tensor.
        vision, lm: the linear layers of one block. norms_trained: of the language model.
        vision_learns: whether gradients enter the vision tower; projector_learns: or the projector.
    """

    trained: int
    frozen: int
    quantized_bytes: int
    outside: int
    frozen_outside: int
    embedding_trained: bool
    largest: int
    vision: tuple[Layer, ...]
    lm: tuple[Layer, ...]
    norms_trained: bool
    vision_learns: bool
    projector_learns: bool


def inventory(architecture: Config, config: TrainConfig) -> Inventory:
    """Counts a model under `train`, `lora` and `quantize` of `config`; milliseconds for any size.

    Raises:
        UsageError: unknown parts, or nothing to train.
    """
    depth = {"vision_tower": architecture.vision.depth, "lm": architecture.text.depth}
    vision, text = replace(architecture.vision, depth=1), replace(architecture.text, depth=1)
    model = empty_model(Config(vision=vision, text=text))
    prepare(model, replace(config, quantize=None))  # what is quantised is counted below: its codes are costly to make
    few_bits = matching(*QUANTIZED) if config.quantize else matching()
    found = {
        name: Layer(
            name=name, inputs=layer.in_features, outputs=layer.out_features, trained=layer.weight.requires_grad,
            rank=layer.lora.rank if isinstance(layer, LoraLinear) else 0,
            quantized=few_bits(name) and not layer.weight.requires_grad,
        )
        for name, layer in linears(model)
    }  # fmt: skip
    kept = {"trained": 0, "frozen": 0, "outside": 0, "frozen_outside": 0}
    coded, largest = 0.0, 0
    for name, parameter in model.named_parameters():
        times = next((depth[part] for part, pattern in _BLOCK_OF.items() if pattern.match(name)), 1)
        owner = name.removesuffix(".weight").removesuffix(".base")
        if owner in found and found[owner].quantized and name.endswith("weight"):
            coded += times * (parameter.numel() * QUANTIZED_BYTES[config.quantize or ""] + 4 * parameter.shape[0])
            continue
        kind = "trained" if parameter.requires_grad else "frozen"
        kept[kind] += times * parameter.numel()
        if not any(pattern.match(name) for pattern in _BLOCK_OF.values()):
            kept["outside" if parameter.requires_grad else "frozen_outside"] += parameter.numel()
        if parameter.requires_grad:
            largest = max(largest, parameter.numel())
    moving = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return Inventory(
        **kept, quantized_bytes=round(coded), largest=largest,
        embedding_trained=any("embed_tokens" in name for name in moving),
        vision=tuple(layer for name, layer in found.items() if _BLOCK_OF["vision_tower"].match(name)),
        lm=tuple(layer for name, layer in found.items() if _BLOCK_OF["lm"].match(name)),
        norms_trained=any("pre_attention_norm" in name for name in moving),
        vision_learns=any(name.startswith("vision_tower") for name in moving),
        projector_learns=any(name.startswith("projector") for name in moving),
    )  # fmt: skip
