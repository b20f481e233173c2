"""The mask codec's file, `vae-oid.npz` <-> `MaskCodec`: strict, exact in both directions.

Array names are the module's own, but for the codebook. `_vq_vae._ema_*`, left over from the codec's training, is passed
over. Also here: which codec belongs to a model on this machine. Not done here: downloading (`hub.pull`).
Source: big_vision `evaluators/proj/paligemma/transfers/segmentation.py`, `_get_params`.
"""

from pathlib import Path

import torch
from torch import Tensor

from paligemma.checkpoints import hub
from paligemma.checkpoints.npz_io import Archives, Member, read_members, writing_npz
from paligemma.checkpoints.safetensors_io import write_tensor
from paligemma.checkpoints.tensors import Shape, WithoutDrawing, as_dtype, told
from paligemma.config import NUM_SEG_TOKENS
from paligemma.errors import CheckpointError, UsageError
from paligemma.model.mask_codec import MaskCodec, MaskCodecConfig

_CODEBOOK = {"embedding": "_vq_vae._embedding"}
_LEFT_OVER = r"_vq_vae\._ema_"
_USE = f"use a mask codec such as that of `paligemma pull {hub.CODEC}`"


def load_codec(path: "str | Path", device: "str | torch.device" = "cpu") -> MaskCodec:
    """The codec of an npz file, float32, in evaluation mode; its sizes are read from the arrays' shapes.

    Raises:
        CheckpointError: damaged; arrays missing, unknown or misshapen (the first names are told); not 128 codes.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no file {file}; {_USE}")
    members = read_members([file], ignored=_LEFT_OVER)
    codec = _empty(_config(file, members))
    archives = Archives()
    try:
        state = {
            name: archives.read(members[_key(name)]).to(device, torch.float32).contiguous()
            for name in codec.state_dict()
        }
    finally:
        archives.close()
    codec.load_state_dict(state, strict=True, assign=True)
    return codec.eval().requires_grad_(False)


def save_codec(codec: MaskCodec, path: "str | Path", dtype: "str | torch.dtype | None" = None) -> Path:
    """Writes the codec as npz in `dtype` (default float32); the same codec gives the same bytes.

    Raises:
        UsageError: a name that does not end in .npz.
        ResourceError: the file cannot be written.
    """
    file = Path(path)
    if file.suffix != ".npz":
        raise UsageError(f"the target of a mask codec is {file}, expected a name ending in .npz; rename it")
    stored = as_dtype(dtype) or torch.float32
    with writing_npz(file, prefix=False) as writer:
        for name, tensor in codec.state_dict().items():
            with writer.array(_key(name), tuple(tensor.shape), stored) as stream:
                write_tensor(stream, tensor.detach().to("cpu", stored))
    return file


def find_codec(model_path: "str | Path") -> Path | None:
    """The codec of a model: the one beside its weights (`hub.CODEC_FILES`), else what `paligemma pull vae-oid` fetched.

    Args:
        model_path: directory or weight file of the model.
    """
    return hub.codec_beside(Path(model_path)) or hub.pulled_codec()


def _key(name: str) -> str:
    return _CODEBOOK.get(name, name)


def _empty(config: MaskCodecConfig) -> MaskCodec:
    with torch.device("meta"), WithoutDrawing():
        return MaskCodec(config)


def _shapes(state: dict[str, Tensor]) -> dict[str, Shape]:
    return {_key(name): tuple(tensor.shape) for name, tensor in state.items()}


def _config(file: Path, members: dict[str, Member]) -> MaskCodecConfig:
    """The sizes behind the file's shapes, once every array is there in a shape that fits them."""
    found = {key: member.shape for key, member in members.items()}
    usual = _shapes(_empty(MaskCodecConfig()).state_dict())
    missing, unknown = [key for key in usual if key not in found], [key for key in found if key not in usual]
    _complain(file, {"missing": missing, "unknown": unknown})
    bent = [key for key, shape in usual.items() if len(found[key]) != len(shape) or 0 in found[key]]
    _complain(file, {"of another shape": [f"{key} {list(found[key])}" for key in bent]})
    names = {key: name for name, key in _CODEBOOK.items()}
    config = MaskCodecConfig.of({names.get(key, key): shape for key, shape in found.items()})
    expected = _shapes(_empty(config).state_dict())
    misshapen = [
        f"{key} {list(found[key])} instead of {list(shape)}" for key, shape in expected.items() if found[key] != shape
    ]
    _complain(file, {"of another shape": misshapen})
    if config.num_codes != NUM_SEG_TOKENS:
        raise CheckpointError(
            f"{file} has a codebook of {config.num_codes} codes, "
            f"expected one for each of the {NUM_SEG_TOKENS} mask tokens; {_USE}"
        )
    return config


def _complain(file: Path, kinds: dict[str, list[str]]) -> None:
    """
    Raises:
        CheckpointError: any name in `kinds`.
    """
    if differ := told(kinds):
        raise CheckpointError(f"{file} is no mask codec: arrays {differ}; {_USE}")
