"""A path or name -> a model in memory, with everything that lies beside its weights.

What is there decides the format; nothing is guessed that a file should say. Weights that already have the wanted type
stay in the memory-mapped file. Not done here: tokenising, downloading (`hub.pull`).
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from paligemma.checkpoints import big_vision, hub
from paligemma.checkpoints.hf import HFTensors, resemblance
from paligemma.checkpoints.hf_config import ImageSettings, read_config, read_image_settings
from paligemma.checkpoints.quantized import QuantizedTensors, read_coding
from paligemma.checkpoints.safetensors_io import TensorFiles, find_files
from paligemma.checkpoints.tensors import (
    TensorSource,
    as_dtype,
    check_strictly,
    common_dtype,
    empty_model,
    parameter_shapes,
    same_architecture,
    split_vocabulary,
)
from paligemma.config import VARIANTS, Config, variant
from paligemma.errors import CheckpointError, ResourceError
from paligemma.model import PaliGemmaModel, resample_positions

POSITIONS = "vision_tower.position_embedding"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy")
_OTHERS = {".gguf": "GGUF", ".h5": "Keras", ".keras": "Keras", ".onnx": "ONNX", ".sbs": "gemma.cpp", ".msgpack": "Flax"}


@dataclass(frozen=True)
class Opened:
    """A checkpoint on disk whose architecture is known and checked, before any weight is read."""

    tensors: TensorSource
    config: Config
    path: Path
    format: str  # "hf", "big_vision", "int8" or "quantized"
    image_token_id: int | None
    image: ImageSettings
    tokenizer_path: Path | None
    name: str | None  # of the published variant, where the path says it


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and what its files say about using it.

    `image_token_id` is the id of `<image>` in the tokenizer, None where the files do not say. `tokenizer_path` is the
    directory that holds the tokenizer, None where it has to come from elsewhere (big_vision's npz).
    """

    model: PaliGemmaModel
    config: Config
    dtype: torch.dtype
    path: Path
    format: str
    name: str | None
    image_token_id: int | None
    tokenizer_path: Path | None
    image: ImageSettings


def load_checkpoint(
    source: "str | Path",
    *,
    dtype: "str | torch.dtype | None" = None,
    device: "str | torch.device" = "cpu",
    variant: str | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """Loads "nano", a directory, a file or an already downloaded hub name. Never uses the network.

    Args:
        source: see `resolve`; a Hugging Face directory, one .safetensors with its config.json beside it, an .npz of
            big_vision, or a directory of them; the same with quantised weights.
        dtype: of the weights in memory; by default the file's own, which then stays memory-mapped. Quantised weights
            are decoded, by default to the type that was quantised; `packing` keeps them in codes.
        variant: a published name whose architecture to use instead of the one the files tell.
        revision: of a hub name, default `main`.

    Raises:
        UnavailableError: not on this machine.
        CheckpointError: damaged, another architecture, or a format that could run code.
        ResourceError: not enough memory.
    """
    opened = open_checkpoint(hub.resolve(source, revision), variant)
    wanted = as_dtype(dtype) or common_dtype(opened.tensors)
    return Checkpoint(
        model=build_model(opened, wanted, device),
        config=opened.config,
        dtype=wanted,
        path=opened.path,
        format=opened.format,
        name=opened.name,
        image_token_id=opened.image_token_id,
        tokenizer_path=opened.tokenizer_path,
        image=opened.image,
    )


def build_model(opened: Opened, dtype: torch.dtype, device: "str | torch.device" = "cpu") -> PaliGemmaModel:
    """The model with its weights, in evaluation mode; tensors are assigned one by one, never copied twice."""
    model = empty_model(opened.config)
    try:
        weights = {name: opened.tensors.read(name, dtype).to(device) for name in opened.tensors.shapes}
    except (MemoryError, torch.OutOfMemoryError) as error:
        need = opened.config.num_parameters * dtype.itemsize / 1e9
        raise ResourceError(
            f"the weights need {need:.1f} GB on {device}, which are not free; take a smaller model or type, or quantise"
        ) from error
    model.load_state_dict(weights, strict=True, assign=True)
    return model


def read_parameter(opened: Opened, name: str, dtype: torch.dtype, config: Config) -> torch.Tensor:
    """A parameter as `config` has it, which may be at another resolution than the files: its positions resampled."""
    tensor = opened.tensors.read(name, dtype)
    if name == POSITIONS and len(tensor) != config.vision.num_image_tokens:
        return resample_positions(tensor, config.vision.grid_size)
    return tensor


def at_resolution(model: PaliGemmaModel, image_size_px: int) -> PaliGemmaModel:
    """The same weights for pictures of another size; the position table is resampled as the reference does."""
    config = model.config.at_resolution(image_size_px)
    if config == model.config:
        return model
    weights = model.state_dict()
    weights[POSITIONS] = resample_positions(weights[POSITIONS], config.vision.grid_size)
    resized = empty_model(config)
    resized.load_state_dict(weights, strict=True, assign=True)
    return resized


def open_checkpoint(path: Path, variant: str | None = None) -> Opened:
    """Reads every header and configuration at `path` and checks names and shapes; reads no weight.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    return _open_npz(path, variant) if _is_npz(path) else _open_hf(path, variant)


def _checked(tensors: TensorSource, config: Config, variant_name: str | None) -> TensorSource:
    architecture = f"the architecture {variant_name}" if variant_name else "its configuration"
    check_strictly(parameter_shapes(config), tensors, architecture)
    return tensors


def _is_npz(path: Path) -> bool:
    """Which of the two formats; anything else is refused in a sentence of its own."""
    if path.is_file():
        if path.suffix in PICKLES:
            raise CheckpointError(
                f"{path} is a {path.suffix} file, which can run code when opened and never is; "
                "convert it to safetensors in a sandbox, or download the safetensors"
            )
        if path.suffix not in (".npz", ".safetensors"):
            kind = _OTHERS.get(path.suffix, f"{path.suffix or 'unknown'}")
            raise CheckpointError(f"{path} is a {kind} file, expected .safetensors or .npz; load one of these")
        return path.suffix == ".npz"
    if any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return False
    if _npz_files(path):
        return True
    pickles = sorted(file.name for suffix in PICKLES for file in path.glob(f"*{suffix}"))
    held = f"only {pickles[0]}, a pickle that is never opened" if pickles else "no weights"
    raise CheckpointError(
        f"{path} holds {held}; expected model.safetensors or an .npz of big_vision; download one of these"
    )


def _npz_files(directory: Path) -> list[Path]:
    """The weight files of big_vision in a directory, without a mask codec beside them."""
    return sorted(file for file in directory.glob("*.npz") if file.name not in hub.CODEC_FILES)


def _open_hf(path: Path, variant_name: str | None) -> Opened:
    directory = path if path.is_dir() else path.parent
    files = TensorFiles(find_files(path))
    config_file = directory / "config.json"
    image_token_id: int | None = None
    if config_file.is_file():
        config, image_token_id = read_config(config_file)
    elif variant_name is None:
        raise CheckpointError(_no_config(directory, files))
    if variant_name is not None:
        rows = max(
            (entry.shape[0] for key, entry in files.entries.items() if "embed_tokens" in key and entry.shape), default=0
        )
        config = _variant_with_rows(variant_name, rows)
    coding = read_coding(files)
    where = str(path)
    tensors = HFTensors(files, config, where) if coding is None else QuantizedTensors(files, config, where, coding)
    return Opened(
        tensors=_checked(tensors, config, variant_name),
        config=config,
        path=path,
        format="hf" if coding is None else coding.format,
        image_token_id=image_token_id,
        image=read_image_settings(directory, config),
        tokenizer_path=hub.tokenizer_beside(directory),
        name=_name(path, config),
    )


def _no_config(directory: Path, files: TensorFiles) -> str:
    if (directory / "adapter_config.json").is_file():
        return f"{directory} is a LoRA adapter, expected a whole model; load the base model and add the adapter to it"
    found = resemblance({key: entry.shape for key, entry in files.entries.items()})
    hint = f" (these look like {found})" if found else ""
    return f"{directory} has no config.json beside the weights{hint}; put it there or name the variant"


def _open_npz(path: Path, variant_name: str | None) -> Opened:
    files = _npz_files(path) if path.is_dir() else [path]
    stacks = big_vision.read_stacks(files, str(path))
    if variant_name is not None:
        embedding = stacks.get("llm/embedder/input_embedding")
        sidecar = big_vision.Sidecar(_variant_with_rows(variant_name, embedding.shape[0] if embedding else 0))
    else:
        beside = [files[0].with_suffix(".json"), files[0].with_name("config.json")]
        found = next((file for file in beside if file.is_file()), None)
        if found is None:
            sidecar = big_vision.Sidecar(big_vision.infer_config(stacks, str(path)))
        else:
            sidecar = big_vision.read_sidecar(found, stacks, str(path))
    config = sidecar.config
    return Opened(
        tensors=_checked(big_vision.NpzTensors(stacks, config, str(path)), config, variant_name),
        config=config,
        path=path,
        format="big_vision",
        image_token_id=sidecar.image_token_id,
        image=ImageSettings(config.vision.image_size_px, sidecar.resize),
        tokenizer_path=hub.tokenizer_beside(path),
        name=_name(path, config),
    )


def _variant_with_rows(name: str, rows: int) -> Config:
    """The named architecture with the padding rows this file has."""
    config = variant(name).config
    vocab_size, padding_rows = split_vocabulary(rows, config.text.vocab_size)
    return config.with_padding_rows(padding_rows if vocab_size == config.text.vocab_size else 0)


def _name(path: Path, config: Config) -> str | None:
    """The published variant a path names, if the architecture is that variant's too."""
    names = [path.name.split(".")[0], path.name, path.parent.name if path.is_file() else ""]
    names += [part.name.removeprefix("models--google--") for part in path.parents if part.name.startswith("models--")]
    for name in names:
        short = name.removesuffix("-jax")
        if short in VARIANTS and same_architecture(VARIANTS[short].config, config):
            return short
    return None
