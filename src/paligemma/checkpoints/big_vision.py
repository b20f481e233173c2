"""big_vision's npz arrays <-> our tensors, layer by layer in both directions, and the architecture their shapes tell.

Axis letters, image encoder: W width, M mlp_dim, n heads, h head_dim, S positions, p q patch sides, c colours. Decoder:
D width, F mlp_dim, N query heads, K key-value heads, H head_dim, V vocabulary. `"NDH" -> "NH.D"` reads: the file's
array [N, D, H], its axes in the order N, H, D, is our matrix [N*H, D].

Layers are stacked on a first axis, or numbered in the key (old files). Source: big_vision `models/vit.py`,
`models/ppp/gemma.py`.
"""

import json
import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paligemma.checkpoints.hf_config import parse_config
from paligemma.checkpoints.npz_io import Archives, Member, read_members, writing_npz
from paligemma.checkpoints.safetensors_io import DOWNLOAD_AGAIN, read_json, require_space, write_tensor
from paligemma.checkpoints.tensors import Shape, TensorSource, look_alike, split_vocabulary
from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class Rule:
    """One array of the file and the parameters it holds: one, or two stacked on an axis before `theirs`."""

    key: str
    names: tuple[str, ...]
    theirs: str
    ours: str  # axes of one side of our matrix stand together

    @property
    def order(self) -> list[int]:
        return [self.theirs.index(axis) for axis in self.ours if axis != "."]

    def their_shape(self, sizes: dict[str, int]) -> Shape:
        """Of one layer."""
        parts = (len(self.names),) if len(self.names) > 1 else ()
        return (*parts, *(sizes[axis] for axis in self.theirs))

    def our_shape(self, sizes: dict[str, int]) -> Shape:
        return tuple(math.prod(sizes[axis] for axis in side) for side in self.ours.split("."))


def _rule(key: str, names: str, theirs: str, ours: str) -> Rule:
    return Rule(key, tuple(names.split()), theirs, ours)


_ATTENTION = "MultiHeadDotProductAttention_0"
SINGLE = (
    _rule("img/embedding/kernel", "vision_tower.patch_embedding.weight", "pqcW", "W.c.p.q"),
    _rule("img/embedding/bias", "vision_tower.patch_embedding.bias", "W", "W"),
    _rule("img/pos_embedding", "vision_tower.position_embedding", "1SW", "1S.W"),
    _rule("img/Transformer/encoder_norm/scale", "vision_tower.post_layernorm.weight", "W", "W"),
    _rule("img/Transformer/encoder_norm/bias", "vision_tower.post_layernorm.bias", "W", "W"),
    _rule("img/head/kernel", "projector.weight", "WD", "D.W"),
    _rule("img/head/bias", "projector.bias", "D", "D"),
    _rule("llm/embedder/input_embedding", "language_model.embed_tokens.weight", "VD", "V.D"),
    _rule("llm/final_norm/scale", "language_model.norm.weight", "D", "D"),
)
VISION_LAYER = (
    _rule("LayerNorm_0/scale", "layer_norm1.weight", "W", "W"),
    _rule("LayerNorm_0/bias", "layer_norm1.bias", "W", "W"),
    _rule("LayerNorm_1/scale", "layer_norm2.weight", "W", "W"),
    _rule("LayerNorm_1/bias", "layer_norm2.bias", "W", "W"),
    _rule(f"{_ATTENTION}/query/kernel", "self_attn.q_proj.weight", "Wnh", "nh.W"),
    _rule(f"{_ATTENTION}/query/bias", "self_attn.q_proj.bias", "nh", "nh"),
    _rule(f"{_ATTENTION}/key/kernel", "self_attn.k_proj.weight", "Wnh", "nh.W"),
    _rule(f"{_ATTENTION}/key/bias", "self_attn.k_proj.bias", "nh", "nh"),
    _rule(f"{_ATTENTION}/value/kernel", "self_attn.v_proj.weight", "Wnh", "nh.W"),
    _rule(f"{_ATTENTION}/value/bias", "self_attn.v_proj.bias", "nh", "nh"),
    _rule(f"{_ATTENTION}/out/kernel", "self_attn.out_proj.weight", "nhW", "W.nh"),
    _rule(f"{_ATTENTION}/out/bias", "self_attn.out_proj.bias", "W", "W"),
    _rule("MlpBlock_0/Dense_0/kernel", "mlp.fc1.weight", "WM", "M.W"),
    _rule("MlpBlock_0/Dense_0/bias", "mlp.fc1.bias", "M", "M"),
    _rule("MlpBlock_0/Dense_1/kernel", "mlp.fc2.weight", "MW", "W.M"),
    _rule("MlpBlock_0/Dense_1/bias", "mlp.fc2.bias", "W", "W"),
)
TEXT_LAYER = (
    _rule("attn/q_einsum/w", "self_attn.q_proj.weight", "NDH", "NH.D"),
    _rule("attn/kv_einsum/w", "self_attn.k_proj.weight self_attn.v_proj.weight", "KDH", "KH.D"),
    _rule("attn/attn_vec_einsum/w", "self_attn.o_proj.weight", "NHD", "D.NH"),
    _rule("mlp/gating_einsum", "mlp.gate_proj.weight mlp.up_proj.weight", "DF", "F.D"),
    _rule("mlp/linear", "mlp.down_proj.weight", "FD", "D.F"),
    _rule("pre_attention_norm/scale", "pre_attention_norm.weight", "D", "D"),
    _rule("pre_ffw_norm/scale", "pre_ffw_norm.weight", "D", "D"),
)
POST_NORMS = (
    _rule("post_attention_norm/scale", "post_attention_norm.weight", "D", "D"),
    _rule("post_ffw_norm/scale", "post_ffw_norm.weight", "D", "D"),
)
_VISION_STACK, _TEXT_STACK = "img/Transformer/encoderblock/", "llm/layers/"
_NUMBERED = re.compile(r"(img/Transformer/encoderblock|llm/layers)[_/](\d{1,4})/")


@dataclass(frozen=True)
class Place:
    """Where one of our parameters is: in an array, in a layer of it (None: not stacked), in a part of that layer."""

    rule: Rule
    key: str
    layer: int | None = None
    part: int = 0


def axis_sizes(config: Config) -> dict[str, int]:
    """The length of every axis letter."""
    vision, text = config.vision, config.text
    return {
        "W": vision.width, "M": vision.mlp_dim, "n": vision.num_heads, "h": vision.head_dim, "c": 3, "1": 1,
        "p": vision.patch_size_px, "q": vision.patch_size_px, "S": vision.num_image_tokens,
        "D": text.width, "F": text.mlp_dim, "N": text.num_heads, "K": text.num_kv_heads, "H": text.head_dim,
        "V": text.embedding_rows,
    }  # fmt: skip


def places(config: Config) -> dict[str, Place]:
    """Our name -> where big_vision keeps it, layer by layer."""
    found = {rule.names[0]: Place(rule, rule.key) for rule in SINGLE}
    text_layer = TEXT_LAYER + (POST_NORMS if config.text.post_norms else ())
    for prefix, tower, rules, depth in (
        (_VISION_STACK, "vision_tower", VISION_LAYER, config.vision.depth),
        (_TEXT_STACK, "language_model", text_layer, config.text.depth),
    ):
        for layer in range(depth):
            for rule in rules:
                for part, name in enumerate(rule.names):
                    found[f"{tower}.layers.{layer}.{name}"] = Place(rule, prefix + rule.key, layer, part)
    return found


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """The arrays of one key: a single one, or one per layer in old files. `shape` is as if they were stacked."""

    members: list[Member]
    shape: Shape
    numbered: bool


def read_stacks(paths: list[Path], where: str) -> dict[str, Stack]:
    """Every key of the files, layer numbers taken out.

    Raises:
        CheckpointError: see `read_members`; also layers that differ in shape, are missing, or are there twice.
    """
    single: dict[str, Member] = {}
    layers: dict[str, dict[int, Member]] = {}
    for key, member in read_members(paths).items():
        match = _NUMBERED.match(key)
        if match:
            layers.setdefault(f"{match[1]}/{key[match.end() :]}", {})[int(match[2])] = member
        else:
            single[key] = member
    stacks = {key: Stack([member], member.shape, False) for key, member in single.items()}
    for key, numbered in layers.items():
        shapes = {member.shape for member in numbered.values()}
        if key in single or len(shapes) > 1 or sorted(numbered) != list(range(len(numbered))):
            raise CheckpointError(
                f"{where} holds {key} as layers {sorted(numbered)} of shapes {sorted(shapes)}"
                f"{' and stacked' if key in single else ''}, expected each layer once in one shape; {DOWNLOAD_AGAIN}"
            )
        stacks[key] = Stack([numbered[i] for i in range(len(numbered))], (len(numbered), *shapes.pop()), True)
    return stacks


@dataclass
class NpzTensors:
    """The tensors of npz files by our names. Reading in the order of `shapes` passes through each array once."""

    stacks: dict[str, Stack]
    config: Config
    where: str
    _archives: Archives = field(default_factory=Archives, repr=False)
    _streams: dict[str, tuple[int, Any]] = field(default_factory=dict, repr=False)  # key -> next layer, open array
    _kept: dict[str, tuple[int, Tensor]] = field(default_factory=dict, repr=False)  # key -> layer with a part to come

    @cached_property
    def _places(self) -> dict[str, Place]:
        return places(self.config)

    @cached_property
    def unknown(self) -> list[str]:
        """Keys of no parameter, and stacks with layers beyond the architecture's."""
        depth: dict[str, int] = {}
        for place in self._places.values():
            depth[place.key] = 0 if place.layer is None else place.layer + 1
        deeper = [
            f"{key}[{layers}:]"
            for key, layers in depth.items()
            if layers and key in self.stacks and self.stacks[key].shape[:1] > (layers,)
        ]
        return sorted([*(set(self.stacks) - set(depth)), *deeper])

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """In our axes where the array has the expected rank, otherwise as in the file."""
        found = {}
        for name, place in self._places.items():
            shape = self.stacks[place.key].shape if place.key in self.stacks else ()
            if place.key not in self.stacks or (place.layer is not None and (not shape or place.layer >= shape[0])):
                continue
            shape = shape if place.layer is None else shape[1:]
            parts = (len(place.rule.names),) if len(place.rule.names) > 1 else ()
            rest = shape[len(parts) :]
            fits = shape[: len(parts)] == parts and len(rest) == len(place.rule.theirs)
            found[name] = place.rule.our_shape(dict(zip(place.rule.theirs, rest, strict=True))) if fits else shape
        return found

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: self.stacks[self._places[name].key].members[0].dtype for name in self.shapes}

    def key(self, name: str) -> str:
        place = self._places[name]
        return place.key if place.layer is None else f"{place.key}[{place.layer}]"

    def looks_like(self) -> str | None:
        try:
            config = infer_config(self.stacks, self.where)
        except CheckpointError:
            return None
        return look_alike(
            vision_width=config.vision.width,
            text_width=config.text.width,
            text_depth=config.text.depth,
            image_size_px=config.vision.image_size_px,
        )

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        place = self._places[name]
        array = self._array(place)
        part = array[place.part] if len(place.rule.names) > 1 else array
        ours = part.permute(place.rule.order)
        out = torch.empty(self.shapes[name], dtype=dtype)
        out.view(ours.shape).copy_(ours)
        return out

    def _array(self, place: Place) -> Tensor:
        """One layer of an array, kept until its last part has been asked for."""
        layer = place.layer or 0
        kept = self._kept.pop(place.key, (-1, None))
        array = kept[1] if kept[0] == layer else None
        if array is None:
            array = self._read(self.stacks[place.key], place.key, place.layer)
        if place.part + 1 < len(place.rule.names):
            self._kept[place.key] = (layer, array)
        return array

    def _read(self, stack: Stack, key: str, layer: int | None) -> Tensor:
        if stack.numbered:
            return self._archives.read(stack.members[layer or 0])
        member = stack.members[0]
        if layer is None:
            return self._archives.read(member)
        if member.fortran_order:
            return self._archives.read(member)[layer]
        upcoming, stream = self._streams.pop(key, (layer + 1, None))
        if upcoming > layer:
            upcoming, stream = 0, self._archives.open(member)
        for _ in range(upcoming, layer + 1):
            array = self._archives.read_next(member, stream, member.shape[1:])
        if layer + 1 < member.shape[0]:
            self._streams[key] = (layer + 1, stream)
        return array


# --- writing ---------------------------------------------------------------------------------------------------------


def write_npz(source: TensorSource, config: Config, path: Path, *, dtype: torch.dtype, params_prefix: bool) -> Path:
    """One uncompressed file, layers stacked, without padding rows; one tensor in memory at a time.

    Raises:
        ResourceError: not enough room on the disk.
    """
    config = config.with_padding_rows(0)
    sizes = axis_sizes(config)
    arrays: dict[str, dict[str, Place]] = {}
    for name, place in places(config).items():
        arrays.setdefault(place.key, {})[name] = place
    path.parent.mkdir(parents=True, exist_ok=True)
    require_space(path.parent, config.num_parameters * dtype.itemsize)
    with writing_npz(path, params_prefix) as writer:
        for key, found in arrays.items():
            last = list(found.values())[-1]
            rule, order = last.rule, last.rule.order
            shape = rule.their_shape(sizes)
            axes = [sizes[axis] for axis in rule.ours if axis != "."]
            back = [order.index(axis) for axis in range(len(order))]
            with writer.array(key, shape if last.layer is None else (last.layer + 1, *shape), dtype) as stream:
                for name in found:
                    tensor = source.read(name, dtype)
                    tensor = tensor[: sizes["V"]] if rule.theirs == "VD" else tensor
                    write_tensor(stream, tensor.reshape(axes).permute(back))
    return path


# --- architecture ----------------------------------------------------------------------------------------------------


def infer_config(stacks: dict[str, Stack], where: str) -> Config:
    """The architecture that arrays of these shapes belong to.

    What shapes cannot tell follows the published models: with post-norms soft-caps 50 and 30, a window of 4,096 tokens,
    and queries scaled by head_dim, or by width / heads for the 28B decoder (4608 wide, 32 heads).

    Raises:
        CheckpointError: an array that tells the architecture is missing or has another rank.
    """
    keys = {rule.key: rule for rule in SINGLE}
    for prefix, rules in ((_VISION_STACK, VISION_LAYER), (_TEXT_STACK, TEXT_LAYER)):
        keys |= {prefix + rule.key: rule for rule in rules}
    sizes: dict[str, int] = {}
    for key, rule in keys.items():
        if key not in stacks:
            raise CheckpointError(
                f"{where} has no {key}, expected the arrays of a big_vision PaliGemma; use another file"
            )
        shape = stacks[key].shape
        leading = (key.startswith((_VISION_STACK, _TEXT_STACK))) + (len(rule.names) > 1)
        if len(shape) != leading + len(rule.theirs) or 0 in shape:
            raise CheckpointError(
                f"{where} holds {key} of shape {list(shape)}, expected axes {rule.theirs}; use another file"
            )
        for axis, length in zip(rule.theirs, shape[leading:], strict=True):
            sizes.setdefault(axis, length)
        if leading and key.startswith(_VISION_STACK):
            sizes.setdefault("vision depth", shape[0])
        elif leading:
            sizes.setdefault("text depth", shape[0])
    return _config_of(sizes, f"{_TEXT_STACK}post_ffw_norm/scale" in stacks, where)


def _config_of(sizes: dict[str, int], post_norms: bool, where: str) -> Config:
    grid = math.isqrt(sizes["S"])
    if grid**2 != sizes["S"]:
        raise CheckpointError(f"{where} has {sizes['S']} image positions, expected a square number; use another file")
    vocab_size, padding_rows = split_vocabulary(sizes["V"])
    gemma2: dict[str, Any] = {}
    if post_norms:
        is_27b = (sizes["D"], sizes["N"]) == (4608, 32)
        gemma2 = {
            "post_norms": True,
            "attn_logit_softcap": 50.0,
            "final_logit_softcap": 30.0,
            "sliding_window": 4096,
            "query_scale_dim": float(sizes["D"] // sizes["N"] if is_27b else sizes["H"]),
        }
    try:
        vision = VisionConfig(
            width=sizes["W"], depth=sizes["vision depth"], mlp_dim=sizes["M"], num_heads=sizes["n"],
            image_size_px=grid * sizes["p"], patch_size_px=sizes["p"],
        )  # fmt: skip
        text = TextConfig(
            width=sizes["D"], depth=sizes["text depth"], mlp_dim=sizes["F"], num_heads=sizes["N"],
            num_kv_heads=sizes["K"], head_dim=sizes["H"], vocab_size=vocab_size, padding_rows=padding_rows, **gemma2,
        )  # fmt: skip
    except UsageError as error:
        raise CheckpointError(f"{where} holds arrays of no possible architecture: {error}") from None
    return Config(vision=vision, text=text)


@dataclass(frozen=True)
class Sidecar:
    """What a JSON file beside the arrays says."""

    config: Config
    image_token_id: int | None = None
    resize: str = "bicubic"


def read_sidecar(path: Path, stacks: dict[str, Stack], where: str) -> Sidecar:
    """Ours (`write_sidecar`), big_vision's own {"llm", "img"}, or a Hugging Face config.json.

    Raises:
        CheckpointError: none of the three.
    """
    data = read_json(path)
    inferred = infer_config(stacks, where)
    try:
        if data.get("model_type") == "paligemma":
            config, image_token_id = parse_config(data, str(path))
            found = Sidecar(config, image_token_id)
        elif "paligemma" in data:
            config = Config.from_dict(data["paligemma"])
            found = Sidecar(config, data.get("image_token_id"), data.get("resize", "bicubic"))
        elif "llm" in data:
            found = Sidecar(_with_settings(inferred, data["llm"]))
        else:
            raise ValueError("expected one of the keys 'llm', 'paligemma' and 'model_type'")
        return replace(found, config=_with_rows(found.config, inferred))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no usable configuration ({error}); correct or remove it") from None


def _with_rows(said: Config, inferred: Config) -> Config:
    """`said` with the embedding rows the arrays have.

    Raises:
        ValueError: it contradicts the arrays' shapes.
    """
    rows, meaningful = inferred.text.embedding_rows, said.text.vocab_size
    vocab_size, padding_rows = split_vocabulary(rows, meaningful)
    text = replace(said.text, vocab_size=vocab_size, padding_rows=padding_rows)
    for part, found, names in (
        (said.vision, inferred.vision, ("width", "depth", "mlp_dim", "num_heads", "image_size_px", "patch_size_px")),
        (text, inferred.text, ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim", "post_norms")),
    ):
        for name in names:
            if getattr(part, name) != getattr(found, name):
                raise ValueError(f"it says {name} = {getattr(part, name)!r}, the arrays have {getattr(found, name)}")
    return replace(said, text=text)


def _with_settings(config: Config, llm: dict[str, Any]) -> Config:
    """`config` with what big_vision's settings of the decoder say beyond shapes; 0 turns a soft-cap off."""
    changes: dict[str, Any] = {"norm_eps": float(llm.get("norm_eps", config.text.norm_eps))}
    for theirs, ours in (
        ("attn_logits_softcap", "attn_logit_softcap"),
        ("final_logits_softcap", "final_logit_softcap"),
    ):
        if theirs in llm:
            changes[ours] = float(llm[theirs]) if llm[theirs] else None
    return replace(config, text=replace(config.text, **changes))


def write_sidecar(path: Path, sidecar: Sidecar) -> Path:
    """`NAME.json` beside NAME.npz: what arrays cannot tell, from eps to the `<image>` id."""
    target = path.with_suffix(".json")
    content = {
        "paligemma": sidecar.config.to_dict(),
        "image_token_id": sidecar.image_token_id,
        "resize": sidecar.resize,
    }
    target.write_text(json.dumps(content, indent=2) + "\n")
    return target
