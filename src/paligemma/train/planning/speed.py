"""Operations of a step by formula, and how many of them this machine does in a second.

In: an architecture and a shape. Out: floating-point operations, two for each product that is added up. `matrix_rate` is
what no step can beat; `SHARE_REACHED` of it is what steps were seen to reach (docs/safety-checks.md).
"""

import time
from collections.abc import Sequence

import torch

from paligemma.config import Config
from paligemma.train.config import TrainConfig
from paligemma.train.planning.activations import Shape
from paligemma.train.planning.inventory import Layer, inventory

SHARE_REACHED = 0.5
SIDE = {"cuda": 8192, "cpu": 1024}  # of the matrices that are timed


def step_flops(architecture: Config, config: TrainConfig, shape: Shape) -> float:
    """Operations of one micro-batch: forward, backward through what learns, and again with checkpointing.

    Two for each number of a matrix and token; the backward pass takes as many for the inputs' gradients, and as many
    again where weights move. Frozen towers without gradients only go forward.
    """
    parts = inventory(architecture, config)
    vision, text = forward_flops(architecture, shape)
    head = 2.0 * architecture.text.embedding_rows * architecture.text.width * shape.learnt
    again = 1 if config.checkpointing else 0
    moved = 1 if any(layer.trained for layer in parts.lm) else 0
    of_vision = 1.0
    if parts.vision_learns:
        of_vision += 1 + again + (1 if any(layer.trained for layer in parts.vision) else 0)
    seen, read = shape.pictures * architecture.vision.num_image_tokens, shape.rows * shape.tokens
    adapters = seen * architecture.vision.depth * _adapters(parts.vision)
    adapters += read * architecture.text.depth * _adapters(parts.lm)
    of_text = 2 + again + moved
    return of_vision * vision + of_text * text + (3 + parts.embedding_trained) * head + (3 + again) * adapters


def _adapters(layers: Sequence[Layer]) -> float:
    """Operations of a block's adapters for one token, forward."""
    return sum(2.0 * layer.rank * (layer.inputs + layer.outputs) for layer in layers)


def forward_flops(architecture: Config, shape: Shape) -> tuple[float, float]:
    """Operations of both towers for one batch, without the head."""
    vision, text = architecture.vision, architecture.text
    patches = shape.pictures * vision.num_image_tokens
    seen = 2.0 * patches * vision.num_parameters + 4.0 * patches * vision.num_image_tokens * vision.width * vision.depth
    read = shape.rows * shape.tokens
    matrices = text.num_parameters - text.embedding_rows * text.width
    attention = 4.0 * read * shape.tokens * text.num_heads * text.head_dim * text.depth
    return seen, 2.0 * read * matrices + attention


def matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 1.0) -> float:
    """Operations a second of products of square matrices."""
    side = SIDE.get(device.type, SIDE["cpu"])
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    _ = one @ other  # what is set up once does not count
    _wait(device)
    times, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        _ = one @ other
        _wait(device)
        times += 1
    return 2.0 * side**3 * times / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
