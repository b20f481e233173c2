"""What the verbs take besides pictures and words: typed for the reader, checked when used.

In: a verb's keywords. Out: the engine's `Sampling`. An unknown keyword is an error with a suggestion.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from paligemma.api.tiling import Tiles
from paligemma.config import did_you_mean
from paligemma.engine import Sampling
from paligemma.errors import UsageError
from paligemma.results import Corners


class Options(TypedDict, total=False):
    """What every verb takes besides its own words; see `Sampling` for the meaning of most.

    `max_tokens` defaults by task, `seed` to a new one per call. `batch_size` counts prompts run together.
    `loc_divisor`: boxes are bins / 1023 as in the reference, or / 1024 as in Hugging Face's documentation.
    """

    max_tokens: int | None
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int | None
    num_beams: int
    beam_scoring: Literal["hf", "big_vision"]
    length_penalty: float
    batch_size: int
    stop_repeats: int | None
    loc_divisor: Literal[1023, 1024]


class BoxOptions(Options, total=False):
    """What `detect` and `segment` take as well.

    `conf`: only boxes whose score is at least this, 0..1; the raw text keeps all.
    `grammar`: False lets the model write what it likes; by default malformed answers cannot happen.
    `any_label`: True lets boxes carry other labels than those asked for, for fine-tuned models with names of their own.
    `max_objects`: the list ends after so many. `duplicates`: True lets a box repeat an earlier one of its label.
    `refine`: True moves each edge to the median of the model's distribution over bins, where there is no mask: tighter
    on average; `Box.loc` stays as written.
    `tiles`: True, (rows, cols) or `Tiles(...)`: asks overlapping windows of a large picture, for small objects.
    """

    conf: float
    grammar: bool
    any_label: bool
    max_objects: int | None
    duplicates: bool
    refine: bool
    tiles: bool | tuple[int, int] | Tiles | None


class CaptionOptions(Options, total=False):
    """`region_xyxyn`: only this part of the picture: left, top, right, bottom as fractions 0..1."""

    region_xyxyn: Corners | None


class FreeOptions(BoxOptions, total=False):
    """`start`: the beginning of the answer, to be continued. `allow`: kinds of special tokens that prompt and start may
    spell, such as {"locations"}; by default none, so that what a user typed stays text. The grammar of boxes is off
    for prompts that were typed whole, and on for those of `PaliGemma.prompt`."""

    start: str
    allow: frozenset[str]


OPTIONS: dict[str, type] = {
    "caption": CaptionOptions, "ask": Options, "ocr": Options, "detect": BoxOptions, "segment": BoxOptions,
    "generate": FreeOptions,
}  # fmt: skip
_OF_SAMPLING = (
    "max_tokens", "temperature", "top_k", "top_p", "seed", "num_beams", "beam_scoring", "length_penalty",
    "stop_repeats",
)  # fmt: skip


def known_options(task: str) -> list[str]:
    """Names of the options a verb takes."""
    return list(OPTIONS[task].__annotations__)


def check_options(task: str, options: Mapping[str, Any]) -> None:
    """
    Raises:
        UsageError: a keyword this verb does not know, or a value out of range (the rest is `Sampling`'s to check).
    """
    known = known_options(task)
    for name in options:
        if name not in known:
            raise UsageError(f"unknown option {name!r}{did_you_mean(name, known)}")
    if options.get("loc_divisor", 1023) not in (1023, 1024):
        raise UsageError(f"loc_divisor is {options['loc_divisor']!r}; give 1023 (reference) or 1024 (Hugging Face)")
    conf = options.get("conf", 0.0)
    if isinstance(conf, bool) or not isinstance(conf, int | float) or not 0 <= conf <= 1:
        raise UsageError(f"conf is {conf!r}; give the least score of a box to keep, from 0 to 1")
    most = options.get("max_objects")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise UsageError(f"max_objects is {most!r}; give an integer from 1, or None")
    for name in ("grammar", "any_label", "duplicates", "refine"):
        if not isinstance(options.get(name, True), bool):
            raise UsageError(f"{name} is {options[name]!r}; give True or False")


def check_batch_size(batch_size: Any) -> int:
    """
    Raises:
        UsageError: no integer from 1.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise UsageError(f"batch_size is {batch_size!r}; give an integer from 1")
    return batch_size


def sampling_of(options: Mapping[str, Any], max_tokens: int) -> Sampling:
    """The engine's settings; `max_tokens` where the options name none, and a seed of their own.

    Raises:
        UsageError: a value out of range.
    """
    given: dict[str, Any] = {name: options[name] for name in _OF_SAMPLING if name in options}
    if given.get("max_tokens") is None:
        given["max_tokens"] = max_tokens
    if given.get("seed") is None:
        given["seed"] = secrets.randbits(31)
    return Sampling(**given)
