"""An adapter for a checkpoint on disk, as training leaves it."""

from pathlib import Path

import torch

from paligemma.checkpoints import load_checkpoint
from paligemma.checkpoints.adapters import save_adapter
from paligemma.checkpoints.load import at_resolution
from paligemma.train.config import LoraConfig, TrainConfig
from paligemma.train.parts import prepare


def write_adapter(
    model: Path, target: Path, *, base: str | None = None, size: float = 0.1, px: int = 0, **lora: object
) -> Path:
    """Writes an adapter with random numbers for the checkpoint `model`.

    Args:
        px: of the pictures it was trained on, default the model's. lora: fields of `LoraConfig`.
    """
    checkpoint = load_checkpoint(model, dtype="float32")
    model_at_px = at_resolution(checkpoint.model, px or checkpoint.config.vision.image_size_px)
    parts = prepare(model_at_px, TrainConfig(lora=LoraConfig(**{"rank": 2, **lora})))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parts.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    save_adapter(parts.model, target, base=base or str(model), base_sha256=parts.base_sha256)
    return target
