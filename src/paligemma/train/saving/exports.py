"""What a run leaves behind that others can open: `best/` and `last/`, each a model, or an adapter in PEFT's format.

    whole model    config.json, model.safetensors in the start's number type, tokenizer, mask codec
    with LoRA      adapter_config.json, adapter_model.safetensors in float32

`paligemma.load("runs/run/last")` opens the first, `paligemma.load(BASE, adapter="runs/run/last")` the second. The
base's calibration is not copied: other weights, other scores. Not done here: replacing a folder at once (`state`).
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from paligemma.checkpoints import save
from paligemma.checkpoints.adapters import save_adapter
from paligemma.checkpoints.tensors import empty_model
from paligemma.model import PaliGemmaModel
from paligemma.train.config import TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.parts import Parts
from paligemma.train.start import Start


def gathered(parallel: Parallel, model: PaliGemmaModel) -> dict[str, Tensor]:
    """Every parameter by name, whole, in the main process; every process must call it."""
    return parallel.gather(dict(model.named_parameters()))


def write_export(
    folder: Path, weights: Mapping[str, Tensor], *, config: TrainConfig, start: Start, parts: Parts
) -> None:
    """Writes what was trained into a folder that is empty or not there.

    Args:
        weights: of `gathered`; adapters among them where the run has some.

    Raises:
        ResourceError: the disk is full.
    """
    if config.lora is not None:
        save_adapter(
            start.model, folder, base=config.model, base_sha256=parts.base_sha256, in_full=parts.in_full, state=weights
        )
        return
    whole = empty_model(start.model.config)
    whole.load_state_dict(dict(weights), strict=True, assign=True)
    save(
        whole, folder, dtype=start.dtype, image_token_id=start.image_token_id, image=start.image,
        tokenizer_path=start.tokenizer_path, codec_path=start.codec_path,
    )  # fmt: skip
