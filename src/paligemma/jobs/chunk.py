"""Opened inputs -> the lines of `results.jsonl` and `errors.jsonl`: the same bytes whoever makes them, and when.

A chunk is a fixed run of inputs, so which of them meet in a batch depends on their places, the batch size and the
pictures, never on where a job was resumed or on which machine it ran. Numbers are rounded, times are left out.

In: `Opened` items and a model. Out: bytes. Not done here: files, order of chunks.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from paligemma.errors import PaliGemmaError, ResourceError
from paligemma.jobs.pictures import Opened
from paligemma.jobs.requests import Item, json_line
from paligemma.results import Answer

MAX_GROUP_PIXELS = 256_000_000  # of the pictures held at once: 768 MB as RGB
DECIMALS = 6
SCORE_DECIMALS = 4  # of scores and log-probabilities, whose last bits depend on what else is in a batch


class Model(Protocol):
    """What answers: `jobs.model.Answerer`, or a stand-in of the tests."""

    def answer(self, batch: Sequence[Opened], batch_size: int, on_error: str) -> Sequence[Answer | PaliGemmaError]:
        """One answer for each, in order; with on_error="return" the error of one stands in its place."""
        ...


@dataclass(frozen=True)
class Lines:
    """What one chunk adds to a job, and the batch size to go on with."""

    results: bytes
    errors: bytes
    inputs: int
    failed: int
    batch_size: int


def answer_chunk(model: Model, chunk: Iterable[Opened], batch_size: int) -> Lines:
    """Answers the inputs of one chunk.

    The batch size is halved where memory does not suffice. An error of one input is a line of errors.

    Raises:
        ResourceError: memory does not suffice for any input of the chunk.
    """
    results, errors = bytearray(), bytearray()
    inputs = failed = starved = 0
    for group in _groups(chunk):
        answers, batch_size = _answers(model, [opened for opened in group if _is_whole(opened)], batch_size)
        left = iter(answers)
        for opened in group:
            found = next(left) if _is_whole(opened) else opened.error
            inputs += 1
            if isinstance(found, Answer):
                results += result_line(opened.item, found)
            else:
                errors += error_line(opened.item, found)
                failed += 1
                starved += isinstance(found, ResourceError)
    if starved == inputs > 1:
        raise ResourceError(
            f"not enough memory for any of the last {inputs} inputs, even one by one; free some, or use a smaller model"
        )
    return Lines(bytes(results), bytes(errors), inputs, failed, batch_size)


def result_line(item: Item, answer: Answer) -> bytes:
    """One line of results.jsonl: index, id, image, and the answer as `Answer.to_dict` has it, without times."""
    row = answer.to_dict()
    row.pop("timing", None)
    for picture in row.get("images", ()):
        picture.pop("path", None)  # it stands in front, as it was named
    return json_line({"index": item.index, "id": item.id, "image": item.image, "answer": _rounded(row)})


def error_line(item: Item, error: PaliGemmaError | None) -> bytes:
    """One line of errors.jsonl: index, id, image, and the stable code and the sentence of what is wrong."""
    told = item.error if error is None else {"code": error.code, "message": str(error)}
    return json_line({"index": item.index, "id": item.id, "image": item.image, "error": told})


def _is_whole(opened: Opened) -> bool:
    return opened.error is None and opened.item.error is None


def _groups(chunk: Iterable[Opened]) -> Iterator[list[Opened]]:
    """The chunk in as few runs as keep the pictures held at once below `MAX_GROUP_PIXELS`."""
    group: list[Opened] = []
    pixels = 0
    for opened in chunk:
        if group and pixels + opened.pixels > MAX_GROUP_PIXELS:
            yield group
            group, pixels = [], 0
        group.append(opened)
        pixels += opened.pixels
    if group:
        yield group


def _answers(model: Model, group: Sequence[Opened], batch_size: int) -> tuple[Sequence[Answer | PaliGemmaError], int]:
    """The answers of a group and the batch size that memory sufficed for."""
    on_error = "raise"
    while group:
        try:
            return model.answer(group, batch_size, on_error), batch_size
        except Exception as error:
            fault = error
        # outside of `except`, which would keep the tensors of the failed attempt alive
        if batch_size > 1 and out_of_memory(fault):
            batch_size //= 2
        elif on_error == "raise" and isinstance(fault, PaliGemmaError):
            on_error = "return"
        else:
            return _one_by_one(model, group, fault), batch_size
        del fault
    return [], batch_size


def _one_by_one(model: Model, group: Sequence[Opened], error: Exception) -> list[Answer | PaliGemmaError]:
    """After a fault that no input owned up to: finds those that cause it.

    Raises:
        Exception: `error`, where every input of several fails: it is not theirs.
    """
    found: list[Answer | PaliGemmaError] = []
    for opened in group:
        try:
            found += model.answer([opened], 1, "return")
        except Exception as own:
            text = " ".join(str(own).split())[:200]
            if out_of_memory(own):
                found.append(ResourceError("not enough memory for this input alone; shrink it or lower max_tokens"))
            else:
                found.append(_Fault(f"unexpected {type(own).__name__}: {text}; please report it"))
    if len(found) > 1 and all(isinstance(one, _Fault) for one in found):
        raise error
    return found


class _Fault(PaliGemmaError):
    """A fault of ours that one input brings out."""

    code = "bug"


def out_of_memory(error: Exception) -> bool:
    """Memory of the machine or of the accelerator; torch tells the former as a plain RuntimeError."""
    if isinstance(error, ResourceError | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "can't allocate memory" in text)


def _rounded(value: Any, decimals: int = DECIMALS) -> Any:
    """Plain data with rounded numbers; those that are not finite become null."""
    if isinstance(value, Mapping):
        return {
            str(key): _rounded(entry, SCORE_DECIMALS if _is_score(str(key)) else decimals)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_rounded(entry, decimals) for entry in value]
    if isinstance(value, float):
        return (round(value, decimals) + 0.0) if math.isfinite(value) else None  # + 0.0: no -0.0
    return value


def _is_score(key: str) -> bool:
    return key.endswith("score") or key in ("scores", "logprob", "logprobs", "probability")
