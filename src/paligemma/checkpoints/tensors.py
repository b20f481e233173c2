"""Named tensors that are read one by one, whatever file they come from, and the strict comparison with an architecture.

Names are the model's own (`language_model.layers.0.mlp.up_proj.weight`); what a file calls them stays in the readers.
Not done here: any file format.
"""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from paligemma.config import HF_PADDING_ROWS, VARIANTS, VOCAB_SIZE, Config, did_you_mean
from paligemma.errors import CheckpointError, UsageError
from paligemma.model import PaliGemmaModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHORT = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "fp32": "float32", "fp16": "float16"}
SHOWN = 10  # names an error message lists

Shape = tuple[int, ...]


class TensorSource(Protocol):
    """Tensors by our name. Names and shapes are known without reading any of them."""

    @property
    def where(self) -> str:
        """The file or directory, for messages."""

    @property
    def shapes(self) -> dict[str, Shape]: ...

    @property
    def dtypes(self) -> dict[str, torch.dtype]: ...

    @property
    def unknown(self) -> list[str]:
        """Keys of the file that belong to no parameter."""

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor on the CPU in `dtype`. Cheapest in the order of `shapes`."""

    def key(self, name: str) -> str:
        """What the file calls, or would call, this parameter."""

    def looks_like(self) -> str | None:
        """The published model these tensors resemble, see `look_alike`."""


@dataclass(frozen=True)
class ModelTensors:
    """A model in memory as a `TensorSource`."""

    model: PaliGemmaModel
    where: str = "the model in memory"

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        return {name: tuple(tensor.shape) for name, tensor in self._state.items()}

    @cached_property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: tensor.dtype for name, tensor in self._state.items()}

    @property
    def unknown(self) -> list[str]:
        return []

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        return self._state[name].detach().to("cpu", dtype).contiguous()

    def key(self, name: str) -> str:
        return name

    def looks_like(self) -> str | None:
        return None


def as_dtype(dtype: "str | torch.dtype | None") -> torch.dtype | None:
    """`torch.bfloat16` of "bfloat16", "bf16" or itself; None stays None.

    Raises:
        UsageError: not one of the three floating-point types checkpoints are kept in.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name not in DTYPES:
        raise UsageError(f"unknown weight type {str(dtype)!r}{did_you_mean(name, DTYPES)}")
    return DTYPES[name]


def common_dtype(source: TensorSource) -> torch.dtype:
    """The narrowest type that holds every tensor of a file without loss."""
    found = set(source.dtypes.values())
    return found.pop() if len(found) == 1 else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class WithoutDrawing(TorchFunctionMode):
    """Skips initial values: on the meta device the first normal_() alone imports 800 modules, seconds for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def empty_model(config: Config) -> PaliGemmaModel:
    """The architecture without memory: every parameter on the meta device."""
    with torch.device("meta"), WithoutDrawing():
        return PaliGemmaModel(config).eval()


@lru_cache(maxsize=8)
def parameter_shapes(config: Config) -> Mapping[str, Shape]:
    """The shape of every parameter, in the model's order."""
    return MappingProxyType({name: tuple(t.shape) for name, t in empty_model(config).state_dict().items()})


def split_vocabulary(rows: int, meaningful: int | None = None) -> tuple[int, int]:
    """(vocab_size, padding_rows) of an embedding with `rows` rows.

    `meaningful` is what a file says of itself. A file with more rows than Hugging Face pads to has had tokens added
    behind the padding by a fine-tune; then every row counts.
    """
    padded = VOCAB_SIZE + HF_PADDING_ROWS
    if rows == padded:
        return VOCAB_SIZE, HF_PADDING_ROWS
    grown = meaningful == VOCAB_SIZE and rows > padded
    if meaningful is not None and meaningful < rows and not grown:
        return meaningful, rows - meaningful
    return rows, 0


def same_architecture(a: Config, b: Config) -> bool:
    """Equal in everything but padding rows; `query_scale_dim=None` equals its value, head_dim."""

    def plain(config: Config) -> tuple[object, ...]:
        text = config.text
        fields = {**vars(text), "padding_rows": 0, "query_scale_dim": float(text.query_scale_dim or text.head_dim)}
        return (config.vision, tuple(sorted(fields.items())))

    return plain(a) == plain(b)


def look_alike(*, vision_width: int, text_width: int, text_depth: int, image_size_px: int) -> str | None:
    """The published family and size with these dimensions, and the resolution: `paligemma2-3b at 448 px`."""
    for variant in VARIANTS.values():
        vision, text = variant.config.vision, variant.config.text
        if (vision.width, text.width, text.depth) == (vision_width, text_width, text_depth):
            stem = "nano" if variant.kind == "nano" else "-".join(variant.name.split("-")[:2])
            return f"{stem} at {image_size_px} px"
    return None


def check_strictly(expected: Mapping[str, Shape], source: TensorSource, architecture: str) -> None:
    """Every expected tensor is there in its shape, and nothing else.

    Raises:
        CheckpointError: naming the first ten that differ, and the published model whose shapes these are.
    """
    missing = [source.key(name) for name in expected if name not in source.shapes]
    misshapen = [
        f"{source.key(name)} {list(source.shapes[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in source.shapes and source.shapes[name] != shape
    ]
    differ = told({"missing": missing, "unknown": source.unknown, "of another shape": misshapen})
    if not differ:
        return
    found = source.looks_like()
    hint = (
        f"these look like {found}; use the config.json or variant that belongs to them"
        if found
        else "use the configuration that belongs to these weights"
    )
    raise CheckpointError(f"{source.where} does not fit {architecture}: tensors {differ}; {hint}")


def told(kinds: Mapping[str, Sequence[str]]) -> str:
    """`2 missing (a, b); 1 unknown (c)`: the first ten names in all; empty where there is none."""
    kinds = {what: names for what, names in kinds.items() if names}
    share = -(-SHOWN // max(1, len(kinds)))
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:share])}{', ...' if len(names) > share else ''})"
        for what, names in kinds.items()
    )


def scratch(count: int, dtype: torch.dtype) -> Tensor:
    """Temporary memory that goes back to the system at once.

    From the heap, buffers between weights that stay leave holes: 1.1 GB beside 6.1 GB of weights were measured.
    """
    memory = mmap.mmap(-1, max(1, count * dtype.itemsize))
    return torch.frombuffer(memory, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def raw_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, to read from or into."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy().data)


def quantised(where: str, key: str, stored: str) -> CheckpointError:
    return CheckpointError(
        f"{where} stores {key} as {stored}, expected float32, bfloat16 or float16; "
        "take the unquantised weights and quantise while loading"
    )
