"""A step without a usable gradient -> a folder with its micro-batches, to be looked at and repeated.

bad_steps/step_12/0-0.safetensors     tensors of micro-batch 0 of rank 0: tokens, pixels, masks
bad_steps/step_12/0.json              losses, gradient norm, learning rate, whose rows they are
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from paligemma.train.records import StepRecord


def keep_bad_step(parent: Path, record: StepRecord, batches: Sequence[Any], rank: int = 0) -> Path:
    """Writes what one process saw of a step below `parent`; returns the step's folder."""
    folder = parent / f"step_{record.step}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(batches):
        save_file(dict(tensors_of(batch)), folder / f"{rank}-{number}.safetensors")
    known = {
        "step": record.step,
        "losses": {name: _told(value) for name, value in record.losses.items()},
        "grad_norm": _told(record.grad_norm),
        "lr": record.lr,
        "examples": [list(ids_of(batch)) for batch in batches],
    }
    (folder / f"{rank}.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return folder


def tensors_of(batch: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a micro-batch by name, also of records inside it (`patches.label`)."""
    for part in fields(batch):
        value = getattr(batch, part.name)
        if isinstance(value, Tensor):
            yield prefix + part.name, value.cpu().clone()  # files take no two names of one memory
        elif is_dataclass(value):
            yield from tensors_of(value, f"{prefix}{part.name}.")


def ids_of(batch: Any) -> tuple[str, ...]:
    """Whose rows a micro-batch holds, where it knows."""
    return tuple(getattr(batch, "ids", ()))


def _told(value: float) -> float | str:
    """A number as JSON can say it."""
    return value if math.isfinite(value) else str(value)
