"""One query -> one request the engine can run, and the tokens that come back -> one answer.

In: a `Query` and the model's processor and dialect. Out: `Request` (prompt, pixels, settings, grammar), then `Answer`
or `Detections`. Not done here: batches (`running`), decoding (`engine`), grammar of prompts and answers (`tasks`).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from paligemma.api.detecting import BOX_TASKS, Asked, asked_of, reads_as, scored, with_pixels
from paligemma.api.encoding import Picture
from paligemma.api.options import sampling_of
from paligemma.api.queries import Query
from paligemma.engine import Generation, Sampling
from paligemma.processor import Encoded
from paligemma.results import Answer, Detections, Notice
from paligemma.tasks import TASKS, Prompt, Reading, lint

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
    asked: Asked
    warnings: tuple[Notice, ...]
    preprocess_s: float

    @property
    def has_boxes(self) -> bool:
        return reads_as(self.prompt) in BOX_TASKS


def make_request(model: "PaliGemma", query: Query, pictures: Sequence[Picture], opening_s: float) -> Request:
    """Encodes a checked query about these pictures: its own, or a part of them.

    Raises:
        UsageError: words or options that make no prompt. InputError: too much for this model.
    """
    began = time.perf_counter()
    options, prompt = query.options, prompt_of(model, query)
    start = options.get("start", "")
    given = model.tokenizer.encode(start, allow=prompt.allow) if start else []
    limit = model.config.text.max_positions
    encoded = _continued(model.encoder.row(pictures, prompt, limit - 1), given)
    room = limit - len(encoded.tokens)
    free = prompt.task == "generate"
    return Request(
        prompt=prompt,
        start=start,
        encoded=encoded,
        images=tuple(picture.image for picture in pictures),
        paths=tuple(picture.path for picture in pictures),
        sampling=sampling_of(options, min(_max_tokens(model, prompt), max(1, room))),
        asked=asked_of(model, query, prompt, given),
        warnings=tuple(lint(prompt.text, reads_as(prompt), model.variant, free=free)),
        preprocess_s=opening_s + time.perf_counter() - began,
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


def make_answers(
    model: "PaliGemma", requests: Sequence[Request], generations: Sequence[Generation], generate_s: float
) -> list[Answer]:
    """What the tokens say, in each task's own way of reading; odd things are in `warnings`, never an error.

    Raises:
        CheckpointError: masks came, and the codec's file is damaged.
    """
    raws = [
        request.start + model.tokenizer.decode(generation.tokens)
        for request, generation in zip(requests, generations, strict=True)
    ]
    triples = list(zip(requests, generations, raws, strict=True))
    readings = [_read(model, *triple) for triple in triples]
    readings = with_pixels(model, readings, [request.asked.divisor for request in requests])
    return [_answer(model, *triple, reading, generate_s) for triple, reading in zip(triples, readings, strict=True)]


def _read(model: "PaliGemma", request: Request, generation: Generation, raw: str) -> Reading:
    """Text or boxes, these with their scores."""
    prompt = request.prompt
    reading = TASKS[reads_as(prompt)].parse(
        raw, request.images[0].size, divisor=request.asked.divisor, default_label=prompt.label
    )
    if reading.boxes is None:
        return reading
    return scored(model, reading, generation, request.asked, request.start)


def _answer(
    model: "PaliGemma", request: Request, generation: Generation, raw: str, reading: Reading, generate_s: float
) -> Answer:
    prompt, reason = request.prompt, generation.finish_reason
    warnings = (*request.warnings, *reading.warnings)
    if reason == "length":
        cut = f"the answer was cut at {request.sampling.max_tokens} tokens; raise max_tokens for more"
        warnings += (Notice("truncated", cut),)
    elif reason == "repetition":
        warnings += (Notice("repetition", "the answer ran in circles and was ended; stop_repeats=None lets it run"),)
    fields: dict[str, Any] = {
        "text": reading.text, "raw": raw, "task": prompt.task, "prompt": prompt.text,
        "model": model.name, "finish_reason": reason, "warnings": warnings,
        "score": math.exp(math.fsum(generation.logprobs)) if reason == "stop" else None,
        "image_size_px": request.images[0].size,
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
    if not ids:
        return encoded
    start = torch.tensor(ids, dtype=torch.int64)
    one, zero = torch.ones_like(start), torch.zeros_like(start)
    return replace(
        encoded,
        tokens=torch.cat([encoded.tokens, start]),
        mask_ar=torch.cat([encoded.mask_ar, one]),
        mask_loss=torch.cat([encoded.mask_loss, zero]),
    )
