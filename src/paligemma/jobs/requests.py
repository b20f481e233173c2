"""One input of a job: a request that can be asked, or a line that cannot, with the reason.

In: the keys of a JSONL line or CSV row (or just the path of a picture) and what the command gives to all of them. Out:
an `Item`. Nothing is opened here, and no model is needed.

    {"image": "a.jpg", "task": "ask", "question": "how many?", "id": 17}
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paligemma.config import did_you_mean
from paligemma.errors import InputError, PaliGemmaError

# The words that each task takes, the needed one first where there is one.
WORDS: dict[str, tuple[str, ...]] = {
    "caption": ("language", "style"),
    "ask": ("question", "language"),
    "ocr": (),
    "detect": ("objects",),
    "segment": ("objects",),
    "generate": ("prompt",),
}
NEEDED = {"ask": "question", "detect": "objects", "segment": "objects", "generate": "prompt"}
KEYS = ("image", "id", "task", "objects", "question", "prompt", "language", "style")
Words = dict[str, str | list[str]]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a line that does not say it itself is asked.

    Args:
        task: None takes the task that the words belong to.
        words: such as {"objects": "cat; dog"}; a task takes those it knows.
    """

    task: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One input, in its place.

    Args:
        index: place among all inputs, from 0.
        id: the line's own, else its first picture as it was named.
        image: as it was named: a path, or several of one example.
        paths: the same as they can be opened.
        stat: size in bytes and time of change in ns of each picture when the job began, None where it was missing.
        error: why it cannot be asked: {"code", "message"}; then the other fields may be empty.
    """

    index: int
    id: str | int
    image: str | list[str] | None = None
    paths: tuple[str, ...] = ()
    task: str = ""
    words: Words = field(default_factory=dict)
    stat: tuple[tuple[int, int] | None, ...] = ()
    error: dict[str, str] | None = None

    def to_line(self) -> bytes:
        """One line of JSON; `from_line` gives the same item back."""
        return json_line(vars(self))

    @classmethod
    def from_line(cls, line: bytes) -> "Item":
        row = json.loads(line)
        row["paths"] = tuple(row["paths"])
        row["stat"] = tuple(pair and tuple(pair) for pair in row["stat"])
        return cls(**row)


def json_line(row: Mapping[str, Any]) -> bytes:
    """Compact JSON and a newline. File names that are no UTF-8 keep their bytes as `\\udc80`...`\\udcff`."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def item_of(line: Any, index: int, base: str, defaults: Defaults, where: str) -> Item:
    """The item of one line; one that makes no sense is an item with an error, never an exception.

    Args:
        line: what JSON or CSV gave.
        base: directory that the line's paths are relative to.
        where: of the line, such as "line 7 of todo.jsonl"; its id when it has none.
    """
    image: Any = None
    label: str | int = where
    try:
        if not isinstance(line, dict):
            raise InputError(f'{where} is no object; write {{"image": "a.jpg", "task": "caption"}}')
        for key in line:
            if key not in KEYS:
                raise InputError(f"{where} has the unknown key {key!r}{did_you_mean(str(key), list(KEYS))}")
        label, image = _label(line, where), _image(line, where)
        names = [image] if isinstance(image, str) else image
        label = label if "id" in line else names[0]
        task, words = _asked(line, defaults, where)
        paths = tuple(os.path.join(base, name) for name in names)
        return Item(
            index=index, id=label, image=image, paths=paths, task=task, words=words, stat=tuple(map(_stat, paths))
        )
    except PaliGemmaError as error:
        return failed(index, label, error, image)


def failed(index: int, label: str | int, error: PaliGemmaError, image: Any = None) -> Item:
    """An item that cannot be asked."""
    return Item(index=index, id=label, image=image, error={"code": error.code, "message": str(error)})


def _label(line: dict[str, Any], where: str) -> str | int:
    label = line.get("id", where)
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise InputError(f"the id of {where} is {_short(label)}; give text or an integer")
    return label


def _image(line: dict[str, Any], where: str) -> Any:
    image = line.get("image")
    names = image if isinstance(image, list) else [image]
    if not names or not all(isinstance(name, str) and name and "\0" not in name for name in names):
        found = f"has the image {_short(image)}" if "image" in line else "has no image"
        raise InputError(f'{where} {found}; give the path of a picture, as in "image": "a.jpg", or a list of paths')
    return image


def _asked(line: dict[str, Any], defaults: Defaults, where: str) -> tuple[str, Words]:
    """The task of a line and its words.

    Raises:
        InputError: an unknown task, a word the task does not take, or one that is missing or wrong.
    """
    from paligemma.tasks import TASKS

    own: Words = {key: line[key] for key in line if key not in ("image", "id", "task")}
    task = line.get("task") or _task_of(own, defaults)
    if task is None:
        raise InputError(f"{where} does not say what to do; give it a task ({', '.join(WORDS)}), or --task for all")
    if not isinstance(task, str) or task not in WORDS:
        raise InputError(f"{where} has the unknown task {_short(task)}{did_you_mean(str(task), WORDS)}")
    for key, word in own.items():
        if key not in WORDS[task]:
            raise InputError(f"{where} gives {key!r}, which {task} does not take; remove it or change the task")
        if not (isinstance(word, str) or (key == "objects" and _is_names(word))):
            raise InputError(f"{where} has {key} {_short(word)}, expected text; put it in quotes")
        if not _is_utf8(word):
            raise InputError(f"{where} has {key} {_short(word)}, which is no UTF-8 text; save the file as UTF-8")
    words = {key: own.get(key, defaults.words.get(key)) for key in WORDS[task]}
    asked: Words = {key: word for key, word in words.items() if word is not None}
    needed = NEEDED.get(task)
    if needed and needed not in asked:
        raise InputError(f"{where} is to {task} but has no {needed}; give it, or --{needed} for all lines")
    try:
        TASKS[task].prompt(*([asked[needed]] if needed else []), **{k: w for k, w in asked.items() if k != needed})
    except PaliGemmaError as error:
        raise InputError(f"{where}: {error}") from error
    return task, asked


def _task_of(own: Words, defaults: Defaults) -> str | None:
    """The task a line without one means: the common one if it takes the line's words, else the one that does."""
    if defaults.task and all(key in WORDS.get(defaults.task, ()) for key in own):
        return defaults.task
    for words in (own, defaults.words):
        for task, needed in NEEDED.items():
            if needed in words:
                return task
    return "caption" if "style" in own else defaults.task


def _is_names(word: Any) -> bool:
    return isinstance(word, list) and bool(word) and all(isinstance(name, str) for name in word)


def _is_utf8(word: str | list[str]) -> bool:
    return not any("\ud800" <= character <= "\udfff" for text in word for character in text)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _stat(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
