"""One query -> one request the engine can run, and the tokens that come back -> one answer.

In: a `Query` and the model's processor and dialect. Out: `Request` (prompt, pixels, settings), then `Answer` or
`Detections`. Not done here: batches (`running`), decoding (`engine`), grammar of prompts and answers (`tasks`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from paligemma.api.options import sampling_of
from paligemma.api.queries import Query
from paligemma.engine import Generation, Sampling
from paligemma.processor import Encoded
from paligemma.results import Answer, Detections, Notice
from paligemma.tasks import TASKS, Prompt, lint, task_of

if TYPE_CHECKING:
    from paligemma.api.model import PaliGemma


@dataclass(frozen=True, kw_only=True)
class Request:
    """One example on its way to an answer."""

    prompt: Prompt
    start: str
    encoded: Encoded
    images: tuple[Image.Image, ...]
    paths: tuple[str | None, ...]
    sampling: Sampling
    loc_divisor: Literal[1023, 1024]
    warnings: tuple[Notice, ...]
    preprocess_s: float


def make_request(model: "PaliGemma", query: Query) -> Request:
    """Opens the pictures of a query and encodes it.

    Raises:
        UsageError: words or options that make no prompt. InputError: no picture, one that cannot be read, or too much
            for this model.
    """
    began = time.perf_counter()
    query.check()
    options, prompt = query.options, prompt_of(model, query)
    pictures = model.encoder.opened(query.images)
    limit = model.config.text.max_positions
    encoded = model.encoder.row(pictures, prompt, limit - 1)
    start = options.get("start", "")
    if start:
        encoded = _continued(encoded, model.tokenizer.encode(start, allow=prompt.allow))
    room = limit - len(encoded.tokens)
    free = prompt.task == "generate"
    warnings = lint(prompt.text, task_of(prompt.text) if free else prompt.task, model.variant, free=free)
    return Request(
        prompt=prompt,
        start=start,
        encoded=encoded,
        images=tuple(picture.image for picture in pictures),
        paths=tuple(picture.path for picture in pictures),
        sampling=sampling_of(options, min(_max_tokens(model, prompt), max(1, room))),
        loc_divisor=options.get("loc_divisor", 1023),
        warnings=tuple(warnings),
        preprocess_s=time.perf_counter() - began,
    )


def prompt_of(model: "PaliGemma", query: Query) -> Prompt:
    """The prompt of a checked query, in the checkpoint's own dialect.

    Raises:
        UsageError: an unknown language or style, an empty question, no object.
    """
    words = dict(query.words)
    if query.task != "generate":
        region = query.options.get("region_xyxyn")
        if region is not None:
            words["region_yxyx_norm"] = tuple(region[i] for i in (1, 0, 3, 2))
        return model.prompt(query.task, **words)
    prompt, allow = words["prompt"], frozenset(query.options.get("allow", ()))
    if isinstance(prompt, Prompt):
        return replace(prompt, allow=prompt.allow | allow)
    return model.prompt("generate", prompt, allow=allow)


def make_answer(model: "PaliGemma", request: Request, generation: Generation, generate_s: float) -> Answer:
    """What the tokens say, in the task's own way of reading; odd things are in `warnings`, never an error."""
    prompt = request.prompt
    raw = request.start + model.tokenizer.decode(generation.tokens)
    size = request.images[0].size
    read_as = task_of(prompt.text) if prompt.task == "generate" else prompt.task
    reading = TASKS[read_as].parse(raw, size, divisor=request.loc_divisor, default_label=prompt.label)
    warnings = (*request.warnings, *reading.warnings)
    if generation.finish_reason == "length":
        cut = f"the answer was cut at {request.sampling.max_tokens} tokens; raise max_tokens for more"
        warnings += (Notice("truncated", cut),)
    fields: dict[str, Any] = {
        "text": reading.text, "raw": raw, "task": prompt.task, "prompt": prompt.text, "model": model.name,
        "finish_reason": generation.finish_reason, "warnings": warnings, "image_size_px": size,
        "tokens": tuple(generation.tokens), "logprobs": tuple(generation.logprobs),
        "timing": {"preprocess": request.preprocess_s, "generate": generate_s},
        "images": request.images, "paths": request.paths,
    }  # fmt: skip
    return Answer(**fields) if reading.boxes is None else Detections(**fields, boxes=reading.boxes)


def _max_tokens(model: "PaliGemma", prompt: Prompt) -> int:
    """The prompt's or task's own limit, and no longer than the texts this checkpoint was trained with."""
    limit = prompt.max_tokens or TASKS[prompt.task].max_tokens
    trained = model.variant.text_length if model.variant else None
    return min(limit, trained or limit)


def _continued(encoded: Encoded, ids: Sequence[int]) -> Encoded:
    """The row with the given start of the answer behind it, which sees backwards only, as in training."""
    start = torch.tensor(ids, dtype=torch.int64)
    one, zero = torch.ones_like(start), torch.zeros_like(start)
    return replace(
        encoded,
        tokens=torch.cat([encoded.tokens, start]),
        mask_ar=torch.cat([encoded.mask_ar, one]),
        mask_loss=torch.cat([encoded.mask_loss, zero]),
    )
