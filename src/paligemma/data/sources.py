"""What people name -> a source of examples: one table of kinds, asked in order.

    scenes  scenes:text  digits  hub:NAME  hub+stream:NAME  shards-{0000..0010}.tar  rows.jsonl  captions.csv  folder/

Behind a name may stand options, `scenes?languages=en,de`, `hub:NAME?suffix=answer`, `coco/?task=segment`. A file or
folder that is none of the other kinds is labelled data in one of `data.formats`. Nothing here uses the network except
`hub+stream:`. Not done here: mixing (`mixture`), judging rows (`check`).
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from paligemma.config import did_you_mean
from paligemma.data.convert import Ask, Order, PromptPer, Rules, Task
from paligemma.data.digits import DigitsSource
from paligemma.data.example import Source
from paligemma.data.formats.jsonl import first_row
from paligemma.data.formats.reading import SPLITS, label_files
from paligemma.data.hub import open_dataset
from paligemma.data.labelled_source import open_labelled
from paligemma.data.listed import ListedSource
from paligemma.data.scenes import STARTS, SceneSource
from paligemma.data.shards import ShardSource
from paligemma.errors import InputError, UsageError

if TYPE_CHECKING:
    from paligemma.model.mask_codec import MaskCodec

TEXT_TOKENS = 128  # of a row: as published for 224 px
DRAWN_TEXT_TOKENS = 256  # four masks in the bundled model's tokens take 182 with their prompt; 154 were seen
LISTS = (".jsonl", ".ndjson")
_DATASET_FILES = ("state.json", "dataset_dict.json")
_RULES = {  # options of labelled data, and what they may say
    "task": get_args(Task), "per": get_args(PromptPer), "ask": get_args(Ask), "order": get_args(Order),
}  # fmt: skip
_FILES = (*LISTS, ".csv", ".tsv", ".tar", ".json", ".parquet")
_STREAM, _HUB = "hub+stream:", "hub:"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A name taken apart, with everything a source may need."""

    path: str
    options: Mapping[str, str]
    split: str
    prefix: str | None
    name: str
    image_size_px: int
    codec: "MaskCodec | None"

    def only(self, *known: str) -> Mapping[str, str]:
        """The options, where all of them are known.

        Raises:
            UsageError: one is not.
        """
        for key in self.options:
            if key not in known:
                found = did_you_mean(key, list(known)) if known else "; it takes none"
                raise UsageError(f"unknown option {key!r} of {self.path}{found}")
        return self.options


def usual_text_tokens(sources: Iterable[Source]) -> int:
    """How many text tokens rows of some sources may have, where nothing else is said."""
    return DRAWN_TEXT_TOKENS if any(isinstance(source, SceneSource) for source in sources) else TEXT_TOKENS


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of source: how it is recognised, and opened."""

    name: str
    fits: Callable[[str], bool]
    open: Callable[[Request], Source]


def open_source(
    path: "str | Path", *, split: str = "train", prefix: str | None = None, name: str | None = None,
    image_size_px: int = 224, codec: "MaskCodec | None" = None,
) -> Source:  # fmt: skip
    """The source of examples that a path or name stands for; see the module.

    Args:
        split: `train`, `validation` or `test`, where the data has several.
        prefix: prompt of examples that have none; of tables, `{column}` in it is filled in.
        name: in figures; by default made from the path.
        image_size_px: side of pictures that are drawn for it.
        codec: spells masks; without it none are made.

    Raises:
        InputError: nothing is there, or it cannot be read. UnavailableError: a library or data set is missing.
        UsageError: an unknown option, split or kind.
    """
    given = os.fspath(path)
    plain, options = _taken_apart(given)
    request = Request(
        path=plain, options=options, split=split, prefix=prefix, name=name or _name_of(plain),
        image_size_px=image_size_px, codec=codec,
    )  # fmt: skip
    return next(kind for kind in KINDS if kind.fits(plain)).open(request)


def _taken_apart(given: str) -> tuple[str, dict[str, str]]:
    path, mark, tail = given.rpartition("?")
    if not mark or os.path.exists(given):
        return given, {}
    options: dict[str, str] = {}
    for pair in tail.split("&"):
        key, equals, value = pair.partition("=")
        if not (key and equals and value) or key in options:
            raise UsageError(f"the options of {given} cannot be read at {pair!r}; write NAME?key=value&key=value")
        options[key] = value
    return path, options


def _name_of(path: str) -> str:
    """`data/birds/train.jsonl` -> `birds/train`; drawn and hub names as they are."""
    if ":" in path and not os.path.exists(path):
        return path.partition(":")[2] if path.startswith((_STREAM, _HUB)) else path
    parts = Path(path).parts
    stem = Path(path).stem if Path(path).suffix.lower() in _FILES else Path(path).name
    generic = stem.strip("_").partition(".")[0] in ("annotations", "metadata", *SPLITS)
    return f"{parts[-2]}/{stem}" if generic and len(parts) > 1 else stem or path


# --- one function per kind -------------------------------------------------------------------------------------------


def _scenes(request: Request) -> Source:
    options = request.only("languages", "asks", "start")
    if request.split not in STARTS:
        raise UsageError(f"unknown split {request.split!r} of the scenes{did_you_mean(request.split, list(STARTS))}")
    if request.prefix is not None:
        raise UsageError("the scenes ask their own questions; leave prefix out, or choose with scenes?asks=caption")
    lists = {key: options[key].split(",") for key in ("languages", "asks") if key in options}
    return SceneSource(
        start=STARTS[request.split] + _number(request, "start", 0),
        kind=request.path.partition(":")[2] or None,
        languages=lists.get("languages"), asks=lists.get("asks"),
        codec=request.codec, side_px=request.image_size_px, name=request.name,
    )  # fmt: skip


def _digits(request: Request) -> Source:
    options = request.only("answers", "side")
    answers = options.get("answers", "words")
    if answers not in ("words", "numerals"):
        raise UsageError(f"unknown answers {answers!r} of the digits{did_you_mean(answers, ['words', 'numerals'])}")
    return DigitsSource(
        split=request.split, name=request.name, prefix=request.prefix, words=answers == "words",
        side_px=_number(request, "side", request.image_size_px),
    )  # fmt: skip


def _number(request: Request, key: str, default: int) -> int:
    value = request.options.get(key, str(default))
    if not value.isascii() or not value.isdecimal() or len(value) > 12:
        raise UsageError(f"found {key}={value} in the options of {request.path}, expected a whole number")
    return int(value)


def _hub(request: Request) -> Source:
    streaming = request.path.startswith(_STREAM)
    return open_dataset(
        request.path.removeprefix(_STREAM if streaming else _HUB), split=request.split, name=request.name,
        prefix=request.prefix, streaming=streaming, options=request.options,
    )  # fmt: skip


def _dataset_folder(request: Request) -> Source:
    return open_dataset(
        request.path, split=request.split, name=request.name, prefix=request.prefix, options=request.options
    )


def _shards(request: Request) -> Source:
    request.only()
    return ShardSource(request.path, name=request.name, prefix=request.prefix)


def _list(request: Request) -> Source:
    request.only()
    file = Path(request.path)
    if file.is_dir():
        found = dict(label_files(file, LISTS))
        split = SPLITS.get(request.split, request.split)
        alone = len(found) == 1 and (split == "train" or "" in found)
        if split not in found and not alone:
            raise InputError(
                f"there is no split {split!r} in {file}, found {', '.join(sorted(found))}; name one of them"
            )
        file = next(iter(found.values())) if alone else found[split]
    return ListedSource(file, name=request.name, prefix=request.prefix)


def _labelled(request: Request) -> Source:
    options = request.only(*_RULES)
    for key, value in options.items():
        if value not in _RULES[key]:
            raise UsageError(f"unknown {key} {value!r} of {request.path}{did_you_mean(value, list(_RULES[key]))}")
    rules: Any = {("one_prompt_per" if key == "per" else key): value for key, value in options.items()}
    return open_labelled(
        Path(request.path), split=request.split, name=request.name, prefix=request.prefix, rules=Rules(**rules),
        codec=request.codec,
    )  # fmt: skip


# --- the table -------------------------------------------------------------------------------------------------------


def _is_shards(path: str) -> bool:
    return path.endswith(".tar") or (os.path.isdir(path) and _holds(path, ".tar"))


def _is_dataset(path: str) -> bool:
    if path.endswith(".parquet"):
        return True
    return os.path.isdir(path) and (
        any(os.path.isfile(os.path.join(path, file)) for file in _DATASET_FILES) or _holds(path, ".parquet")
    )


def _is_list(path: str) -> bool:
    row = first_row(Path(path))
    return row is not None and "boxes" not in row


def _holds(folder: str, *suffixes: str) -> bool:
    return any(name.lower().endswith(suffixes) and not name.startswith(".") for name in os.listdir(folder))


KINDS = (
    Kind(name="scenes", fits=lambda path: path == "scenes" or path.startswith("scenes:"), open=_scenes),
    Kind(name="digits", fits=lambda path: path == "digits", open=_digits),
    Kind(name="hub", fits=lambda path: path.startswith((_HUB, _STREAM)), open=_hub),
    Kind(name="shards", fits=_is_shards, open=_shards),
    Kind(name="dataset", fits=_is_dataset, open=_dataset_folder),
    Kind(name="list", fits=_is_list, open=_list),
    Kind(name="labelled", fits=lambda path: True, open=_labelled),
)
