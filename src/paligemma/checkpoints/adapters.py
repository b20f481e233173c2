"""Adapters in PEFT's files, both ways: adapter_config.json and adapter_model.safetensors <-> `LoraLinear`s of a model.

Files made with any release of transformers are read (`hf.LAYOUTS`). Reading is strict: an unknown, missing or misshapen
tensor is an error, and so is a base other than the one the adapter was trained on, told by `fingerprint`, which is
kept in the weight file's metadata. Modules trained in full beside the adapter (`modules_to_save`) come along.
Not done here: training (`train.parts`), merging (`merging`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from paligemma.checkpoints import hub
from paligemma.checkpoints.adapter_config import AdapterConfig, adapter_config_json, read_adapter_config
from paligemma.checkpoints.fingerprint import fingerprint
from paligemma.checkpoints.hf import EMBEDDING, HEAD, hf_key, normalise
from paligemma.checkpoints.safetensors_io import TORCH_TYPES, TensorFiles, read_header, write_file, writing
from paligemma.checkpoints.tensors import Shape, parameter_shapes, quantised, told
from paligemma.config import Config, find_variant
from paligemma.errors import CheckpointError, UnavailableError, UsageError
from paligemma.linear.lora import Lora, LoraLinear
from paligemma.linear.swap import linears
from paligemma.model import PaliGemmaModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
_LEAVES = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}  # ours -> PEFT's
_SHA256, _SIZE = "base_sha256", "image_size_px"  # in the weight file's metadata
MAX_SIZE_PX = 8192


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk whose names and shapes fit an architecture; no weight is read yet.

    Attributes:
        loras: our linear layers' names and what sits on them.
        keys: our parameters' names (`...up_proj.lora_A`, or of a parameter trained in full) -> the file's.
        base: name of the model it was trained on. base_sha256: that model's fingerprint. None where untold.
        image_size_px: of the pictures it was trained on, None where untold.
    """

    path: Path
    loras: dict[str, Lora]
    keys: dict[str, str]
    files: TensorFiles
    base: str | None
    base_sha256: str | None
    image_size_px: int | None


def is_adapter(path: Path) -> bool:
    """Whether `path` is the directory of an adapter, and not of a whole model."""
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def find_adapter(name: "str | Path") -> Path:
    """The directory of an adapter: a path, or a hub name already in the local cache.

    Raises:
        UnavailableError: nothing is there. CheckpointError: something else is there.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if path.is_absolute() or str(name).count("/") != 1 or str(name).startswith("."):
            raise UnavailableError(f"there is no adapter {str(name)!r}; give the directory that holds its {CONFIG}")
        path = hub.resolve(str(name))
    path = path.parent if path.name in (CONFIG, WEIGHTS) else path
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{path} has no {CONFIG}; give the directory of an adapter in PEFT's format")
    if not (path / WEIGHTS).is_file():
        held = "a pickle, which is never opened" if (path / "adapter_model.bin").is_file() else "no weights"
        raise CheckpointError(f"{path} holds {held}, expected {WEIGHTS}; save the adapter as safetensors")
    return path


def open_adapter(name: "str | Path", config: Config) -> Adapter:
    """Reads headers and configuration and checks every name and shape against the architecture, at its resolution.

    Raises:
        UnavailableError: nothing is there.
        CheckpointError: damaged, not supported, or tensors that are unknown, missing or of another shape.
    """
    path = find_adapter(name)
    sha256, size = _metadata(path)
    config = config.at_resolution(size) if size else config
    told_config = read_adapter_config(path / CONFIG)
    files = TensorFiles([path / WEIGHTS])
    expected, loras = _expected(files, told_config, config, path)
    stored = _by_our_name(files, config, path)
    if EMBEDDING in expected:
        _check_head(stored.pop(HEAD, None), stored.get(EMBEDDING), files, path)
    missing = [hf for ours, (_, hf) in expected.items() if ours not in stored]
    unknown = [key for ours, key in stored.items() if ours not in expected]
    misshapen = [
        f"{stored[ours]} {list(files.entries[stored[ours]].shape)} instead of {list(shape)}"
        for ours, (shape, _) in expected.items()
        if ours in stored and files.entries[stored[ours]].shape != shape
    ]
    if differ := told({"missing": missing, "unknown": unknown, "of another shape": misshapen}):
        raise CheckpointError(
            f"{path} does not fit this model: tensors {differ}; "
            f"use it with the model it was trained on{f', {told_config.base}' if told_config.base else ''}"
        )
    for key in stored.values():
        if files.entries[key].stored not in TORCH_TYPES:
            raise quantised(str(path), key, files.entries[key].stored)
    return Adapter(path, loras, stored, files, told_config.base, sha256, size)


def trained_size_px(name: "str | Path") -> int | None:
    """The side of the pictures that an adapter was trained on; None where its file does not say.

    Raises:
        UnavailableError, CheckpointError: as `find_adapter`.
    """
    return _metadata(find_adapter(name))[1]


def _metadata(path: Path) -> tuple[str | None, int | None]:
    """The base's fingerprint and the resolution."""
    read_header(path / WEIGHTS)  # says what is wrong with a damaged file
    with safe_open(path / WEIGHTS, "pt") as file:
        words = file.metadata() or {}
    size = words.get(_SIZE)
    if size is not None and not (size.isdecimal() and 0 < int(size) <= MAX_SIZE_PX):
        raise CheckpointError(
            f"{path} says it was trained on pictures of {size[:80]!r} px, expected up to {MAX_SIZE_PX}; save it again"
        )
    return words.get(_SHA256), None if size is None else int(size)


def _layout(files: TensorFiles) -> str:
    """Which of `hf.LAYOUTS` the file's names are of."""
    some = [key.removeprefix(PREFIX) for key in files.entries]
    if not any(key.startswith("model.") for key in some):
        return "hub"
    return "4.5x" if any(".vision_model." in key for key in some) else "5.23"


def _expected(
    files: TensorFiles, told_config: AdapterConfig, config: Config, path: Path
) -> tuple[dict[str, tuple[Shape, str]], dict[str, Lora]]:
    """Our name -> shape and the file's name of every tensor the configuration asks for; and the adapters."""
    layout, post_norms = _layout(files), config.text.post_norms
    shapes: dict[str, tuple[Shape, str]] = {}
    loras = {}
    for name, shape in parameter_shapes(config).items():
        key = hf_key(name, post_norms, layout)
        module, layer = key.rpartition(".")[0], name.removesuffix(".weight")
        if any(module == saved or f".{module}.".find(f".{saved}.") >= 0 for saved in told_config.saved):
            shapes[name] = (shape, PREFIX + key)
        elif _is_linear(name, shape) and told_config.adapts(module):
            lora = loras[layer] = told_config.lora_of(module)
            of_leaf = {"lora_A": (lora.rank, shape[1]), "lora_B": (shape[0], lora.rank), "magnitude": (shape[0],)}
            for leaf, leaf_shape in of_leaf.items():
                if leaf != "magnitude" or lora.dora:
                    shapes[f"{layer}.{leaf}"] = (leaf_shape, f"{PREFIX}{module}.{_LEAVES[leaf]}")
    if not shapes:
        raise CheckpointError(f"{path} adapts no layer of this model; use it with the model it was trained on")
    return shapes, loras


def _check_head(head: str | None, embedding: str | None, files: TensorFiles, path: Path) -> None:
    """A table of embeddings trained in full must be the head's too: peft keeps the base's head unless told otherwise.

    Raises:
        CheckpointError: the head is missing or differs.
    """
    if embedding is None:
        return
    if head is None or not torch.equal(files.read(head, torch.float32), files.read(embedding, torch.float32)):
        raise CheckpointError(
            f"{path} has embeddings of its own and {'another' if head else 'no'} head, expected one tied table; "
            "train with ensure_weight_tying, or merge the adapter where it was made"
        )


def _is_linear(name: str, shape: Shape) -> bool:
    return name.endswith(".weight") and len(shape) == 2 and name != EMBEDDING


def _by_our_name(files: TensorFiles, config: Config, path: Path) -> dict[str, str]:
    """Our name -> the file's; what has none keeps its own."""
    ours = {normalise(hf_key(name, config.text.post_norms)): name for name in parameter_shapes(config)}
    found: dict[str, str] = {}
    for key in files.entries:
        name = normalise(key.removeprefix(PREFIX))
        name = name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")  # until peft 0.11
        for leaf, theirs in _LEAVES.items():
            if name.endswith(f".{theirs}") and f"{name.removesuffix(theirs)}weight" in ours:
                name = ours[f"{name.removesuffix(theirs)}weight"].removesuffix("weight") + leaf
                break
        name = ours.get(name, name)
        if not key.startswith(PREFIX):
            name = key
        if name in found:
            raise CheckpointError(f"{path} holds both {found[name]} and {key}, the same tensor; keep one of them")
        found[name] = key
    return found


def load_adapter(
    model: PaliGemmaModel,
    name: "str | Path",
    *,
    base: str | None = None,
    base_sha256: str | None = None,
    any_base: bool = False,
) -> Adapter:
    """Puts the adapter of directory `name` on `model`, in place; factors are float32, all of it frozen.

    Args:
        base: what the model is called, for messages, and for adapters that know their base by name only.
        base_sha256: its fingerprint; default the one the model in memory has.
        any_base: accept a base other than the one it was trained on.

    Raises:
        UnavailableError, CheckpointError: as `open_adapter`, or trained on another base.
        UsageError: the model is adapted already, or quantised where the adapter needs plain weights.
    """
    if any(isinstance(layer, LoraLinear) for _, layer in linears(model)):
        raise UsageError("this model has an adapter already; load the base again, or merge the first one")
    adapter = open_adapter(name, model.config)
    if adapter.image_size_px not in (None, model.config.vision.image_size_px):
        raise CheckpointError(
            f"{adapter.path} was trained on pictures of {adapter.image_size_px} px, but this model takes "
            f"{model.config.vision.image_size_px} px; bring it there first (`at_resolution`)"
        )
    if not any_base:
        _check_base(adapter, base, base_sha256 or fingerprint(model))

    for layer, linear in list(linears(model)):
        if layer in adapter.loras:
            assert not isinstance(linear, LoraLinear)  # none was adapted before
            adapted = LoraLinear(linear, adapter.loras[layer], torch.Generator())
            model.set_submodule(layer, adapted.train(linear.training), strict=True)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for ours, key in adapter.keys.items():
            parameter = parameters[ours]
            parameter.data = adapter.files.read(key, parameter.dtype).to(parameter.device, copy=True)
            parameter.requires_grad_(False)
    return adapter


def _check_base(adapter: Adapter, name: str | None, here: str) -> None:
    """
    Raises:
        CheckpointError: the adapter says it was trained on another model.
    """
    if adapter.base_sha256 is None:
        published = [find_variant(one or "") for one in (adapter.base, name)]
        same = None in published or published[0] == published[1]
        found = expected = ""
    else:
        same = here == adapter.base_sha256
        found, expected = f" (weights {here[:12]})", f" (weights {adapter.base_sha256[:12]})"
    if not same:
        raise CheckpointError(
            f"{adapter.path} was trained on {adapter.base or 'a model without a name'}{expected}, but this is "
            f"{name or 'another model'}{found}; load the adapter's own base, or allow any base if you know better"
        )


def save_adapter(
    model: PaliGemmaModel,
    directory: "str | Path",
    *,
    base: str | None,
    base_sha256: str | None,
    in_full: Sequence[str] = (),
    layout: str = "5.23",
    state: Mapping[str, Tensor] | None = None,
) -> list[Path]:
    """Writes the adapters of `model`, and the parameters named in `in_full`; returns the files.

    Args:
        base: name or path of the model the adapter belongs to; a published name becomes its hub name, a path absolute.
        base_sha256: that model's `fingerprint`, taken before it was changed (`Parts.base_sha256`).
        in_full: our names of parameters that were trained themselves (`Parts.in_full`).
        layout: of the keys; peft with transformers 5.23 reads its own.
        state: tensors by our names to take instead of the model's, gathered from several processes or averaged.

    Raises:
        UsageError: there is nothing to write. ResourceError: the files cannot be written.
    """
    loras = {name: layer.lora for name, layer in linears(model) if isinstance(layer, LoraLinear)}
    parameters = dict(model.named_parameters()) if state is None else state
    post_norms = model.config.text.post_norms
    keys: dict[str, str] = {}
    for name in loras:
        module = hf_key(f"{name}.weight", post_norms, layout).removesuffix(".weight")
        keys |= {
            f"{name}.{leaf}": f"{PREFIX}{module}.{theirs}"
            for leaf, theirs in _LEAVES.items()
            if f"{name}.{leaf}" in parameters
        }
    if not keys:
        raise UsageError("this model has no adapter, so there is nothing to save; save the whole model instead")

    def module_of(name: str) -> str:
        return hf_key(name, post_norms, layout).rpartition(".")[0].removeprefix("model.")

    names = {module_of(f"{name}.weight"): lora for name, lora in loras.items()}
    config = adapter_config_json(names, list(dict.fromkeys(map(module_of, in_full))), _found_again(base))
    ours = {key: name for name, key in keys.items()} | {PREFIX + hf_key(n, post_norms, layout): n for n in in_full}
    if EMBEDDING in in_full:  # peft wants the tied head as well
        ours[PREFIX + ("language_model." if layout == "hub" else "") + HEAD] = EMBEDDING
    ours = dict(sorted(ours.items()))
    shapes = {key: tuple(parameters[name].shape) for key, name in ours.items()}
    files = [Path(directory) / CONFIG, Path(directory) / WEIGHTS]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    with writing(files) as [config_file, weight_file]:
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        write_file(
            weight_file, shapes, torch.float32,
            lambda key: parameters[ours[key]].detach().to("cpu", torch.float32).contiguous(),
            metadata={_SIZE: str(model.config.vision.image_size_px), **({_SHA256: base_sha256} if base_sha256 else {})},
        )  # fmt: skip
    return files


def _found_again(base: str | None) -> str | None:
    """The name by which the base is found from anywhere on this machine."""
    if base is None or base in hub.BUNDLED:
        return base
    if Path(base).expanduser().exists():
        return str(Path(base).expanduser().resolve())
    known = find_variant(base)
    return (known and known.hub_id) or base
