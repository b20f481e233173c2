"""Hugging Face data sets (a folder, the cache, or a stream) -> examples by number.

`hub:NAME` takes what lies in the cache and never touches the network; `hub+stream:NAME` reads from the hub row by row,
which is the only name here that does. Which columns are picture, prompt and answer is guessed from types and usual
names, or said: `hub:NAME?image=photo&prefix=question&suffix=label`. A given prompt may take words out of columns:
`answer en {question}`. Source of the behaviours relied upon: datasets 5.2.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paligemma.config import did_you_mean
from paligemma.data.example import ENDLESS, Example, Picture
from paligemma.data.listed import BadRow
from paligemma.errors import InputError, PaliGemmaError, UnavailableError, UsageError

OPTIONS = ("image", "prefix", "suffix", "config")
_USUAL = {
    "image": ("image", "images", "img", "picture", "photo", "jpg", "png"),
    "prefix": ("prefix", "prompt", "question", "query"),
    "suffix": ("suffix", "answer", "caption", "text", "label"),
}
_BATCH = 10_000
_COLUMN = re.compile(r"\{(\w+)\}")


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UnavailableError(
            "data sets of the hub need the datasets library; pip install 'paligemma[train]'"
        ) from error
    return datasets


@contextmanager
def _offline(library: Any) -> Iterator[None]:
    """No look at the network meanwhile, whatever the environment says."""
    from huggingface_hub import constants

    places = [(library.config, "HF_HUB_OFFLINE"), (constants, "HF_HUB_OFFLINE")]
    before = [getattr(place, name) for place, name in places]
    for place, name in places:
        setattr(place, name, True)
    try:
        yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)


def open_dataset(
    path: str, *, split: str = "train", name: str, prefix: str | None = None, streaming: bool = False,
    options: Mapping[str, str] | None = None,
) -> "DatasetSource | StreamSource":  # fmt: skip
    """A data set of the hub's cache, a folder that `save_to_disk` wrote, a folder or file of parquet, or a stream.

    Args:
        options: some of `OPTIONS`: which columns are image, prefix and suffix, and the data set's configuration.

    Raises:
        UnavailableError: not on this machine, no `datasets`, or a stream while HF_HUB_OFFLINE is set.
        UsageError: an unknown option, column or split. InputError: it cannot be read.
    """
    options = dict(options or {})
    for key in options:
        if key not in OPTIONS:
            raise UsageError(f"unknown option {key!r} of a data set{did_you_mean(key, list(OPTIONS))}")
    library = _library()
    local = os.path.exists(path)
    if streaming and not local and library.config.HF_HUB_OFFLINE:
        raise UnavailableError(f"{path} is to be streamed, but HF_HUB_OFFLINE is set; unset it, or take hub:{path}")
    try:
        if streaming and not local:
            rows = library.load_dataset(path, options.get("config"), split=split, streaming=True)
        else:
            with _offline(library):
                rows = _load(library, path, options.get("config"), split, streaming)
    except PaliGemmaError:
        raise
    except Exception as error:  # the library raises dozens of kinds
        raise _told(path, split, local, error) from error
    columns = _columns(library, rows.features or {}, path, options, prefix)
    rows = _undecoded(library, rows, columns["image"])
    kind = StreamSource if streaming else DatasetSource
    return kind(rows, columns, path=path, split=split, name=name, prefix=prefix)


def _load(library: Any, path: str, config: str | None, split: str, streaming: bool) -> Any:
    folder = Path(path)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        found = library.load_from_disk(path)
        if isinstance(found, library.DatasetDict):
            if split not in found:
                raise UsageError(f"{path} has no split {split!r}{did_you_mean(split, list(found))}")
            found = found[split]
        return found.to_iterable_dataset() if streaming else found
    if folder.is_file():
        return library.load_dataset("parquet", data_files=path, split="train", streaming=streaming)
    return library.load_dataset(path, config, split=split, streaming=streaming)


def _told(path: str, split: str, local: bool, error: Exception) -> PaliGemmaError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if "split" in reason.lower() and split in reason:
        return UsageError(f"{path} has no split {split!r} ({reason}); name another with split:")
    if local:
        return InputError(f"{path} cannot be read as a data set ({reason}); check the folder")
    return UnavailableError(
        f"the data set {path} is not in the cache ({reason}); fetch it once with datasets.load_dataset({path!r}) on a "
        f"machine with network, or stream it with hub+stream:{path}"
    )


# --- columns ---------------------------------------------------------------------------------------------------------


def _columns(
    library: Any, features: Mapping[str, Any], path: str, options: Mapping[str, str], prefix: str | None
) -> dict[str, str | None]:
    """Which column is picture, prompt and answer."""
    pictures = [name for name, feature in features.items() if _is_image(library, feature)]
    found: dict[str, str | None] = {}
    for role, usual in _USUAL.items():
        given = options.get(role)
        if given is not None and given not in features:
            raise UsageError(f"{path} has no column {given!r}{did_you_mean(given, list(features))}")
        named = [name for name in usual if name in features]
        found[role] = given or (pictures[0] if role == "image" and pictures else named[0] if named else None)
    if prefix is not None and "prefix" not in options:
        found["prefix"] = None  # the prompt that was given is for every row
    for role in ("image", "suffix", *([] if prefix is not None else ["prefix"])):
        if found[role] is None:
            known = ", ".join(features)
            how = f"?{role}=COLUMN" + (", or give prefix=" if role == "prefix" else "")
            raise UsageError(f"which column of {path} is the {role}? it has {known}; say it with {how}")
    return found


def _is_image(library: Any, feature: Any) -> bool:
    inner = getattr(feature, "feature", None)
    return isinstance(feature, library.Image) or isinstance(inner, library.Image)


def _undecoded(library: Any, rows: Any, column: str | None) -> Any:
    """The rows with pictures as files or bytes: they are opened by us, with our limits."""
    feature = rows.features[column]
    if isinstance(feature, library.Image):
        return rows.cast_column(column, library.Image(decode=False))
    if isinstance(getattr(feature, "feature", None), library.Image):
        return rows.cast_column(column, library.List(library.Image(decode=False)))
    return rows


class _Rows:
    """What both kinds share: a row of columns -> an example."""

    def __init__(self, rows: Any, columns: dict[str, str | None], *, path: str, split: str, name: str, prefix: Any):
        self._rows, self._columns, self._prefix = rows, columns, prefix
        self._path, self._split, self.name = path, split, name
        self._words: dict[str, Callable[[int], str]] = {
            key: feature.int2str for key, feature in rows.features.items() if hasattr(feature, "int2str")
        }

    def _example(self, row: Mapping[str, Any], index: int) -> Example:
        where = f"{self.name}:{index}"
        field = "image"
        try:
            images = _pictures(row[self._columns["image"] or ""])
            field = "prefix"
            texts = {key: self._word(key, value) for key, value in row.items() if key != self._columns["image"]}
            prefix = _filled(self._prefix, texts) if self._columns["prefix"] is None else texts[self._columns["prefix"]]
            prefix = _a_text(prefix)
            field = "suffix"
            suffix = _a_text(texts[self._columns["suffix"] or ""])
        except InputError as error:
            raise BadRow(where, field, str(error)) from error
        return Example(id=where, images=images, prefix=prefix, suffix=suffix, source=self.name)

    def _word(self, key: str, value: Any) -> Any:
        if key in self._words and isinstance(value, int):
            return self._words[key](value)
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _a_text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"found {str(value)[:60]!r}, expected a text; name another column")
    return value


def _pictures(value: Any) -> tuple[Picture, ...]:
    given = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    found: list[Picture] = []
    for one in given:
        if isinstance(one, Mapping) and one.get("bytes"):
            found.append(bytes(one["bytes"]))
        elif isinstance(one, Mapping) and one.get("path") and os.path.isfile(one["path"]):
            found.append(Path(one["path"]))
        elif isinstance(one, bytes):
            found.append(one)
        else:
            raise InputError(f"found {str(one)[:60]!r}, expected a picture; cast the column to datasets.Image")
    if not found:
        raise InputError("found no picture, expected at least one; leave the row out")
    return tuple(found)


def _filled(prefix: str | None, row: Mapping[str, Any]) -> str | None:
    """The prompt with `{column}` replaced by what stands in that column.

    Raises:
        InputError: a column that is not there, or holds no text or number.
    """
    if prefix is None:
        return None

    def cell(match: "re.Match[str]") -> str:
        name = match.group(1)
        if name not in row:
            raise InputError(f"the prompt {prefix!r} asks for the column {name!r}{did_you_mean(name, list(row))}")
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f"column {name!r} holds {str(value)[:40]!r}, expected a text for the prompt {prefix!r}")
        return str(value)

    return _COLUMN.sub(cell, prefix)


class DatasetSource(_Rows):
    """Rows of a data set on this machine, by number."""

    def __init__(self, rows: Any, columns: dict[str, str | None], **facts: Any):
        super().__init__(rows, columns, **facts)
        digest = hashlib.sha256(json.dumps([self._columns, self._prefix, len(rows)]).encode())
        texts = [column for column in rows.column_names if column != columns["image"]]
        for batch in rows.select_columns(texts).with_format("arrow").iter(_BATCH):
            digest.update(json.dumps(batch.to_pylist(), default=str, sort_keys=True).encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """
        Raises:
            BadRow: no picture or text in a column.
        """
        return self._example(self._rows[index], index)


class StreamSource(_Rows):
    """Rows that arrive one after another and begin again at the end; quick where numbers rise, as endless ones do.

    Asking for a number behind the last one starts the stream anew.
    """

    def __init__(self, rows: Any, columns: dict[str, str | None], **facts: Any):
        super().__init__(rows, columns, **facts)
        self._stream: Iterator[Mapping[str, Any]] | None = None
        self._next = self._opened_at = 0
        self._count: int | None = None
        told = [self._path, self._split, self._columns, self._prefix, str(rows.features)]
        self.fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Example:
        """
        Raises:
            BadRow: no picture or text in a column. InputError: the stream is empty.
        """
        wanted = index if self._count is None else index % self._count
        if self._stream is None or wanted < self._next:
            self._stream, self._next, self._opened_at = iter(self._rows.skip(wanted)), wanted, wanted
        for row in self._stream:
            self._next += 1
            if self._next > wanted:
                return self._example(row, wanted)
        # the end; how many rows there are is only known if it was opened before it
        self._count = self._next if self._next > self._opened_at else sum(1 for _ in self._rows)
        if self._count == 0:
            raise InputError(f"{self._path} is an empty stream; name another split")
        self._stream = None
        return self[index]
