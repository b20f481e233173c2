"""All layers of a decoder for a few rows in one call of `native`, where all matrices are in codes or none is.

In: a language model, rows of embeddings and a cache whose new slots are named. Out: hidden states, as from `gemma.py`
layer by layer. What is unusual (adapters, hooks, biases, layers that differ) goes that way. Not done here: prompts.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from paligemma.model import cpu_kernels
from paligemma.native import Coded, Layer, Stack, fits, library
from paligemma.native.products import FLOATS

LanguageModel: TypeAlias = Any  # these are of files that import this one
Block: TypeAlias = Any
AttentionMask: TypeAlias = Any

ROWS = 16  # of more, products take so long that what lies between them does not count


class Buffers(Protocol):
    """Keys and values of each layer, [R, K, S, H]."""

    keys: list[Tensor]
    values: list[Tensor]


@runtime_checkable
class Appending(Protocol):
    """A cache that says where new keys and values go: row r's to `slot` int64[B, T] of row `first` + r.

    Attributes:
        stop: slots below it are seen.
    """

    cache: Buffers
    slot: Tensor
    stop: int
    first: int


class _Ready:
    """What was found in a model: its layers for one call, or that there is no way; and of what it consisted then."""

    def __init__(self, model: LanguageModel):
        self.modules = [*model.layers.modules(), model.norm]
        self.state = self._state()
        self.stack = _stack(model)

    def still_holds(self) -> bool:
        return self._state() == self.state

    def is_watched(self) -> bool:
        return any(one._forward_hooks or one._forward_pre_hooks for one in self.modules)

    def _state(self) -> list[object]:
        """The parts, and where their numbers lie."""
        parts: list[object] = [part for one in self.modules for part in one._modules.values()]
        parts += [p if p is None else p.data_ptr() for one in self.modules for p in one._parameters.values()]
        return parts


_ready: WeakKeyDictionary[nn.Module, _Ready] = WeakKeyDictionary()


def take(model: LanguageModel, x: Tensor, cache: object) -> bool:
    """Whether `run` may be called with these."""
    if x.numel() > ROWS * x.shape[-1] or not isinstance(cache, Appending) or not cpu_kernels.take(x):
        return False
    known = _ready.get(model)
    if known is None or not known.still_holds():
        known = _ready[model] = _Ready(model)
    if known.stack is None or known.is_watched() or x.numel() > known.stack.most_rows * x.shape[-1]:
        return False
    return all(one.dtype == known.stack.dtype for one in (x, cache.cache.keys[0], cache.cache.values[0]))


def run(
    model: LanguageModel, x: Tensor, angles: tuple[Tensor, Tensor], mask: AttentionMask, cache: Appending
) -> Tensor:
    """Hidden states [B, T, D] after the last norm."""
    found, stack = library(), _ready[model].stack
    assert found is not None, "`take` said yes"
    assert stack is not None, "`take` said yes"
    marks = (mask.query_step, mask.query_position, mask.key_step, mask.key_position, mask.key_valid)
    return stack.run(
        found, x, *angles, cache.cache.keys, cache.cache.values, cache.slot, marks, first=cache.first, stop=cache.stop
    )


def _stack(model: LanguageModel) -> Stack | None:
    config, layers = model.config, []
    for place, block in enumerate(model.layers):
        layer = _layer(block, config.window(place))
        if layer is None:
            return None
        layers.append(layer)
    norms = [norm for layer in layers for norm in _norms(layer)] + [model.norm.weight]
    types = {one.dtype for one in norms} | {
        one.codes.dtype for layer in layers for one in layer.matrices if one.scales is None
    }
    if not fits(layers) or len(types) > 1:
        return None
    return Stack(
        layers, model.norm.weight, eps=config.norm_eps, num_heads=config.num_heads, scale=config.query_scale,
        softcap=config.attn_logit_softcap,
    )  # fmt: skip


def _layer(block: Block, window: int | None) -> Layer | None:
    """None where a matrix is more than numbers or codes."""
    attention, mlp = block.self_attn, block.mlp
    matrices = [_coded(one) for one in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)]
    matrices += [_coded(one) for one in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
    names = ("q", "k", "v", "o", "gate", "up", "down")
    found = {name: one for name, one in zip(names, matrices, strict=True) if one is not None}
    if len(found) < len(names):
        return None
    post_attention, post_ffw = block.post_attention_norm, block.post_ffw_norm
    return Layer(
        pre_attention=block.pre_attention_norm.weight, pre_ffw=block.pre_ffw_norm.weight,
        post_attention=None if post_attention is None else post_attention.weight,
        post_ffw=None if post_ffw is None else post_ffw.weight, window=window, **found,
    )  # fmt: skip


def _coded(layer: nn.Module) -> Coded | None:
    if type(layer) is nn.Linear and layer.bias is None:
        weight, there = layer.weight, type(layer.weight) is nn.Parameter  # and not this process' share of one
        fits = there and weight.dtype in FLOATS and weight.device.type == "cpu" and weight.is_contiguous()
        return Coded.plain(weight) if fits else None
    found = getattr(layer, "coded", None)
    return found if isinstance(found, Coded) and layer.bias is None else None


def _norms(layer: Layer) -> Sequence[Tensor]:
    norms = (layer.pre_attention, layer.post_attention, layer.pre_ffw, layer.post_ffw)
    return [norm for norm in norms if norm is not None]
