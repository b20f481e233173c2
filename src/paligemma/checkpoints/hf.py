"""Hugging Face directories: safetensors in every key layout, with their side files, both ways.

Layouts by the transformers release that made them:

    hub     vision_tower.vision_model.*        multi_modal_projector.linear.*        language_model.model.*
    4.5x    model.vision_tower.vision_model.*  model.multi_modal_projector.linear.*  model.language_model.*
    5.23    model.vision_tower.*               model.multi_modal_projector.linear.*  model.language_model.*

Reading takes any mixture of them (`save_pretrained` of 5.23 writes one). The head is tied: a stored `lm_head` must
equal the embedding. The same HF name means different norms in the two generations: `post_attention_layernorm` is
`pre_ffw_norm` in Gemma 1, `post_attention_norm` in Gemma 2.
"""

import json
import math
import re
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from paligemma.checkpoints.hf_config import ImageSettings, config_json, preprocessor_json
from paligemma.checkpoints.hub import TOKENIZER_FILES
from paligemma.checkpoints.safetensors_io import TORCH_TYPES, TensorFiles, write_sharded
from paligemma.checkpoints.tensors import Shape, TensorSource, look_alike, parameter_shapes, quantised
from paligemma.config import Config
from paligemma.errors import CheckpointError

LAYOUTS = {  # (image encoder, projector, decoder)
    "hub": ("vision_tower.vision_model.", "multi_modal_projector.linear.", "language_model.model."),
    "4.5x": ("model.vision_tower.vision_model.", "model.multi_modal_projector.linear.", "model.language_model."),
    "5.23": ("model.vision_tower.", "model.multi_modal_projector.linear.", "model.language_model."),
}
HEAD = "lm_head.weight"
EMBEDDING = "language_model.embed_tokens.weight"
_BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|position_ids)$")  # constants that old files carry along
_VISION_NAMES = (
    ("patch_embedding.", "embeddings.patch_embedding."),
    ("position_embedding", "embeddings.position_embedding.weight"),
    ("layers.", "encoder.layers."),
)
_NORMS = {  # ours -> theirs, Gemma 1 and Gemma 2
    False: {"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"},
    True: {
        "pre_attention_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "pre_ffw_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}


def hf_key(name: str, post_norms: bool, layout: str = "hub") -> str:
    """What a file in `layout` calls our parameter."""
    vision, projector, text = LAYOUTS[layout]
    tower, _, rest = name.partition(".")
    if tower == "projector":
        return projector + rest
    if tower == "vision_tower":
        for ours, theirs in _VISION_NAMES:
            if rest.startswith(ours):
                return vision + theirs + rest.removeprefix(ours)
        return vision + rest
    *path, leaf = rest.split(".")
    return text + ".".join([_NORMS[post_norms].get(part, part) for part in path] + [leaf])


def normalise(key: str) -> str:
    """The key without what the layouts disagree about."""
    key = key.removeprefix("model.")
    key = key.replace("vision_tower.vision_model.", "vision_tower.", 1)
    key = key.replace("language_model.model.", "language_model.", 1)
    return HEAD if key == f"language_model.{HEAD}" else key


def resemblance(shapes: dict[str, Shape]) -> str | None:
    """The published model with these shapes, whatever the layout of their keys."""
    shapes = {normalise(key): shape for key, shape in shapes.items()}
    embedding = shapes.get(EMBEDDING, ())
    position = shapes.get("vision_tower.embeddings.position_embedding.weight", ())
    patch = shapes.get("vision_tower.embeddings.patch_embedding.weight", ())
    if (len(embedding), len(position), len(patch)) != (2, 2, 4):
        return None
    return look_alike(
        vision_width=position[1],
        text_width=embedding[1],
        text_depth=len({key.split(".")[2] for key in shapes if key.startswith("language_model.layers.")}),
        image_size_px=math.isqrt(position[0]) * patch[3],
    )


@dataclass
class HFTensors:
    """The tensors of safetensors files by our names."""

    files: TensorFiles
    config: Config
    where: str
    layout: str = "hub"
    keys: dict[str, str] = field(default_factory=dict)  # ours -> the file's
    unknown: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        post_norms = self.config.text.post_norms
        ours = {normalise(hf_key(name, post_norms)): name for name in parameter_shapes(self.config)}
        found: dict[str, str] = {}
        for key in self.files.entries:
            name = normalise(key)
            if name in found:
                raise CheckpointError(
                    f"{self.where} holds both {found[name]} and {key}, the same tensor; keep one of them"
                )
            if not _BUFFERS.search(key):
                found[name] = key
        head = found.pop(HEAD, None)
        if head is not None:
            embedding = found.setdefault(normalise(hf_key(EMBEDDING, post_norms)), head)
            self._check_tied(head, embedding)
        self.keys = {name: found.pop(normal) for normal, name in ours.items() if normal in found}
        self.unknown = sorted(found.values())
        for key in self.keys.values():
            stored = self.files.entries[key].stored
            if stored not in TORCH_TYPES:
                raise quantised(self.where, key, stored)
        self.layout = self._detect()

    def looks_like(self) -> str | None:
        return resemblance({key: entry.shape for key, entry in self.files.entries.items()})

    def _detect(self) -> str:
        some = next(iter(self.keys.values()), "")
        if not some.startswith("model."):
            return "hub"
        return "4.5x" if any(".vision_model." in key for key in self.keys.values()) else "5.23"

    def _check_tied(self, head: str, embedding: str) -> None:
        if head == embedding:
            return
        one, other = self.files.entries[head], self.files.entries[embedding]
        dtype = TORCH_TYPES.get(one.stored, torch.float32)
        same = one.shape == other.shape and one.stored == other.stored
        if not same or not torch.equal(self.files.read(head, dtype), self.files.read(embedding, dtype)):
            raise CheckpointError(
                f"{self.where} has a {head} that differs from {embedding}, expected one tied table; "
                "this architecture has no separate head, so do not use this file"
            )

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        return {name: self.files.entries[key].shape for name, key in self.keys.items()}

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: self.files.entries[key].dtype for name, key in self.keys.items()}

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        return self.files.read(self.keys[name], dtype)

    def key(self, name: str) -> str:
        return self.keys.get(name) or hf_key(name, self.config.text.post_norms, self.layout)


# --- writing ---------------------------------------------------------------------------------------------------------


def padded_for_image_token(config: Config, image_token_id: int | None) -> tuple[Config, int]:
    """The architecture with an embedding row for `<image>`, which Hugging Face's files need, and that row's number.

    Without a given id it is the first row behind the vocabulary; rows are then padded to a multiple of 64 (257,152 rows
    become the 257,216 of the released files).
    """
    token = config.text.vocab_size if image_token_id is None else image_token_id
    if token < config.text.embedding_rows:
        return config, token
    rows = -(-(token + 1) // 64) * 64
    return config.with_padding_rows(rows - config.text.vocab_size), token


def pad_rows(embedding: Tensor, rows: int) -> Tensor:
    """`embedding` with rows up to `rows`. New rows are the mean of all others: their logit is the mean logit, so
    they never win an argmax in software that does not mask them."""
    if rows == len(embedding):
        return embedding
    mean = embedding.mean(0, dtype=torch.float32).to(embedding.dtype)
    return torch.cat([embedding, mean.expand(rows - len(embedding), -1)])


def write_hf(
    source: TensorSource,
    config: Config,
    directory: Path,
    *,
    dtype: torch.dtype,
    layout: str,
    shard_bytes: int,
    image_token_id: int | None,
    image: ImageSettings,
    tokenizer_path: Path | None,
) -> list[Path]:
    """A directory transformers loads; one tensor in memory at a time. Returns the files written."""
    padded, _ = padded_for_image_token(config, image_token_id)
    names = {hf_key(name, config.text.post_norms, layout): name for name in parameter_shapes(config)}
    shapes = {key: source.shapes[name] for key, name in names.items()}
    embedding = hf_key(EMBEDDING, config.text.post_norms, layout)
    shapes[embedding] = (padded.text.embedding_rows, padded.text.width)

    def read(key: str) -> Tensor:
        tensor = source.read(names[key], dtype)
        return pad_rows(tensor, padded.text.embedding_rows) if key == embedding else tensor

    directory.mkdir(parents=True, exist_ok=True)
    files = write_sharded(directory, shapes, dtype, read, shard_bytes)
    return files + write_side_files(
        directory, config, dtype=dtype, image_token_id=image_token_id, image=image, tokenizer_path=tokenizer_path
    )


def write_side_files(
    directory: Path, config: Config, *, dtype: torch.dtype, image_token_id: int | None, image: ImageSettings,
    tokenizer_path: Path | None,
) -> list[Path]:  # fmt: skip
    """What transformers wants beside the weights of `config`; arguments as for `write_hf`."""
    padded, token = padded_for_image_token(config, image_token_id)
    side_files = {
        "config.json": config_json(padded, dtype, token),
        "generation_config.json": {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        "preprocessor_config.json": preprocessor_json(config, image),
    }
    for name, content in side_files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
    return [directory / name for name in side_files] + copy_tokenizer(tokenizer_path, directory)


def copy_tokenizer(source: Path | None, directory: Path) -> list[Path]:
    """Copies the tokenizer's files (of a directory, or one file) beside the weights."""
    if source is None:
        return []
    candidates = [source] if source.is_file() else [source / name for name in TOKENIZER_FILES]
    copied = []
    for path in candidates:
        target = directory / path.name
        if path.is_file() and path.resolve() != target.resolve():
            shutil.copyfile(path, target)
            copied.append(target)
    return copied
