"""Operations of a step by formula, and how many of them this machine does in a second.

In: an architecture and a shape. Out: floating-point operations, two for each product that is added up.
`SHARE_REACHED` of the rate of `engine.machine.matrix_rate` is what steps were seen to reach (docs/safety-checks.md).
"""

from collections.abc import Sequence

from paligemma.config import Config
from paligemma.engine.planning import forward_flops
from paligemma.train.config import TrainConfig
from paligemma.train.planning.activations import Shape
from paligemma.train.planning.inventory import Layer, inventory

SHARE_REACHED = 0.5


def step_flops(architecture: Config, config: TrainConfig, shape: Shape) -> float:
    """Operations of one micro-batch: forward, backward through what learns, and again with checkpointing.

    Two for each number of a matrix and token; the backward pass takes as many for the inputs' gradients, and as many
    again where weights move. Frozen towers without gradients only go forward.
    """
    parts = inventory(architecture, config)
    vision, text = forward_flops(architecture, rows=shape.rows, tokens=shape.tokens, pictures=shape.pictures)
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
