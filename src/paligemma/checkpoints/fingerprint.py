"""Which weights a model has, as one sha256: the same in any of its file formats, and in float32 as in bfloat16.

In: a model, or a checkpoint that is read tensor by tensor, before anything in it is quantised or adapted. Out:
hexadecimal digits, which an adapter's file keeps. The table of positions does not count, which another resolution
resamples.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from paligemma.checkpoints.load import POSITIONS, Opened
from paligemma.checkpoints.quantized import QuantizedTensors
from paligemma.checkpoints.tensors import common_dtype, parameter_shapes
from paligemma.model import PaliGemmaModel

SAMPLE = 1024  # numbers of each end of a tensor: a fine-tune moves them all, and a 6 GB file is not read whole


@torch.no_grad()
def fingerprint(model: PaliGemmaModel) -> str:
    """sha256 over name, shape, first and last numbers of every parameter, rounded to bfloat16.

    Padding rows of the vocabulary, which one format has and the other has not, do not count.
    """
    vocab_size = model.config.text.vocab_size
    return _digest({name: _told(name, parameter, vocab_size) for name, parameter in model.named_parameters()})


@torch.no_grad()
def stored_fingerprint(opened: Opened) -> str:
    """That of a checkpoint's model; of weights quantised by part, that of the weights they were."""
    tensors, config = opened.tensors, opened.config
    if isinstance(tensors, QuantizedTensors) and tensors.coding.parts is not None:
        return tensors.coding.sha256
    dtype, vocab_size = common_dtype(tensors), config.text.vocab_size
    told = {name: _told(name, tensors.read(name, dtype), vocab_size) for name in tensors.shapes}
    return _digest({name: told[name] for name in parameter_shapes(config)})


def _told(name: str, parameter: Tensor, vocab_size: int) -> bytes:
    tensor = parameter[:vocab_size] if name.endswith("embed_tokens.weight") else parameter
    flat = tensor.reshape(-1)
    ends = torch.cat([flat[:SAMPLE], flat[-SAMPLE:]]).to("cpu", torch.bfloat16).contiguous()
    return f"{name}{tuple(tensor.shape)}".encode() + ends.view(torch.uint8).numpy().tobytes()


def _digest(told: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, words in told.items():
        if name != POSITIONS:
            digest.update(words)
    return digest.hexdigest()
