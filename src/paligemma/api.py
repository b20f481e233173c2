"""PaliGemma for people: pictures and words in, `Answer`s out.

    model = paligemma.load()                        # the bundled model, offline
    model.ask("photo.jpg", "how many cats?")        # one picture -> one Answer
    model.detect(["a.jpg", "b.jpg"], "cat; dog")    # a list -> a list of Detections, batched
    model.caption(Images(*frames))                  # several pictures of one example -> one Answer

A picture is a path, bytes, a binary file, a PIL image or a uint8 array. Control tokens and the final newline are put in
here; what a user types never becomes a special token unless `generate` is told so by type. Nothing is downloaded.
"""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from PIL import Image

from paligemma.checkpoints import resolve
from paligemma.checkpoints.load import build_model, open_checkpoint
from paligemma.checkpoints.placement import choose_device, choose_dtype
from paligemma.checkpoints.tensors import common_dtype
from paligemma.config import VARIANTS, Config, Variant, did_you_mean
from paligemma.engine import Engine, Generation, Sampling
from paligemma.errors import CheckpointError, InputError, UsageError
from paligemma.images import Source, open_image
from paligemma.model import PaliGemmaModel
from paligemma.pixels import RESIZES
from paligemma.processor import Encoded, Processor
from paligemma.results import Answer, Corners, Detections, Notice
from paligemma.tasks import TASKS, Prompt, lint, task_of
from paligemma.tasks.segment import REFCOCO
from paligemma.tasks.text import BARE_QUESTIONS
from paligemma.tokenizer import Tokenizer

CHUNKS_AT_ONCE = 4  # batches whose pictures are prepared ahead, so that prompts of like length meet


class Images:
    """The pictures of ONE example, in order: two to compare, or the frames of a clip.

    `Images(*read_frames("clip.mp4"))`; inside a list of examples a plain list does the same.
    """

    def __init__(self, *images: Source):
        self.images = images

    def __repr__(self) -> str:
        return f"Images({len(self.images)})"


One = Source | Images
Many = list[Any] | tuple[Any, ...]


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
    loc_divisor: Literal[1023, 1024]


class CaptionOptions(Options, total=False):
    """`region_xyxyn`: only this part of the picture: left, top, right, bottom as fractions 0..1."""

    region_xyxyn: Corners | None


class FreeOptions(Options, total=False):
    """`start`: the beginning of the answer, to be continued. `allow`: kinds of special tokens that prompt and start may
    spell, such as {"locations"}; by default none, so that what a user typed stays text."""

    start: str
    allow: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Request:
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


class AnswerStream(Iterator[str]):
    """Pieces of text as they are made; `answer` is the whole, once the pieces are through (or runs them through)."""

    def __init__(self, pieces: Iterator[str], finished: "list[Answer]"):
        self._pieces, self._finished = pieces, finished

    def __iter__(self) -> "AnswerStream":
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def answer(self) -> Answer:
        for _ in self._pieces:
            pass
        if not self._finished:
            raise UsageError("this stream was stopped by an error, so it has no answer; ask again")
        return self._finished[0]


class PaliGemma:
    """A model that answers about pictures; made by `load`.

    Every verb takes one picture (or `Images`) and gives one answer, or a list and gives a list. Further keywords are
    those of `Options`.

    Args:
        notes: what `load` had to say, such as a changed number type.
    """

    def __init__(
        self,
        model: PaliGemmaModel,
        processor: Processor,
        *,
        name: str,
        variant: Variant | None = None,
        notes: Sequence[Notice] = (),
    ):
        self.model, self.processor, self.name, self.variant = model, processor, name, variant
        self.notes = tuple(notes)
        text, tokenizer = model.config.text, processor.tokenizer
        # Ids without a meaning in the tokenizer's file, and Hugging Face's `<image>`, must never be produced.
        unspoken = {*range(tokenizer.vocab_size, text.vocab_size)}
        if tokenizer.image_id is not None and tokenizer.image_id < text.embedding_rows:
            unspoken.add(tokenizer.image_id)
        self.engine = Engine(model, eos_id=tokenizer.eos_id, forbidden_ids=sorted(unspoken))

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        return self.model.projector.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.projector.weight.dtype

    def __repr__(self) -> str:
        return f"PaliGemma({self.name!r}, device={str(self.device)!r}, dtype={str(self.dtype)!r})"

    @overload
    def caption(
        self, images: One, language: str = "en", style: str = "caption", **options: Unpack[CaptionOptions]
    ) -> Answer: ...
    @overload
    def caption(
        self, images: Many, language: str = "en", style: str = "caption", **options: Unpack[CaptionOptions]
    ) -> list[Answer]: ...
    def caption(
        self, images: Any, language: str = "en", style: str = "caption", **options: Unpack[CaptionOptions]
    ) -> Any:
        """Says what is in the picture.

        Args:
            language: code such as "de".
            style: "caption" one sentence, "cap" short and raw, "describe" longer.

        Raises:
            UsageError: unknown language, style or option.
            InputError: no picture, or one that cannot be read.
        """
        given = options.pop("region_xyxyn", None)
        region = None if given is None else tuple(given[i] for i in (1, 0, 3, 2))
        return self._run(images, self.prompt("caption", language, style, region), options)

    @overload
    def ask(self, images: One, question: str, language: str = "en", **options: Unpack[Options]) -> Answer: ...
    @overload
    def ask(self, images: Many, question: str, language: str = "en", **options: Unpack[Options]) -> list[Answer]: ...
    def ask(self, images: Any, question: str, language: str = "en", **options: Unpack[Options]) -> Any:
        """Answers a question; `language` is that of the answer.

        Raises:
            UsageError: an empty question, unknown language or option.
            InputError: no picture, or one that cannot be read.
        """
        return self._run(images, self.prompt("ask", question, language), options)

    @overload
    def ocr(self, images: One, **options: Unpack[Options]) -> Answer: ...
    @overload
    def ocr(self, images: Many, **options: Unpack[Options]) -> list[Answer]: ...
    def ocr(self, images: Any, **options: Unpack[Options]) -> Any:
        """Reads all text in the picture. Raises as `ask` does."""
        return self._run(images, self.prompt("ocr"), options)

    @overload
    def detect(self, images: One, objects: str | Sequence[str], **options: Unpack[Options]) -> Detections: ...
    @overload
    def detect(self, images: Many, objects: str | Sequence[str], **options: Unpack[Options]) -> list[Detections]: ...
    def detect(self, images: Any, objects: str | Sequence[str], **options: Unpack[Options]) -> Any:
        """Finds things: `"cat; dog"` or `["cat", "dog"]`. What could not be read is in the answer's `warnings`.

        Raises:
            UsageError: no object named, or an unknown option.
            InputError: no picture, or one that cannot be read.
        """
        return self._run(images, self.prompt("detect", objects), options)

    @overload
    def segment(self, images: One, objects: str | Sequence[str], **options: Unpack[Options]) -> Detections: ...
    @overload
    def segment(self, images: Many, objects: str | Sequence[str], **options: Unpack[Options]) -> list[Detections]: ...
    def segment(self, images: Any, objects: str | Sequence[str], **options: Unpack[Options]) -> Any:
        """Finds things with masks, kept as 16 codes per box (`Box.mask_codes`), not pixels. Raises as `detect`."""
        return self._run(images, self.prompt("segment", objects), options)

    @overload
    def generate(self, images: One, prompt: str | Prompt, **options: Unpack[FreeOptions]) -> Answer: ...
    @overload
    def generate(self, images: Many, prompt: str | Prompt, **options: Unpack[FreeOptions]) -> list[Answer]: ...
    def generate(self, images: Any, prompt: str | Prompt, **options: Unpack[FreeOptions]) -> Any:
        """Sends any prompt; the answer to one that begins with `detect` or `segment` comes as `Detections`.

        Raises:
            UsageError: an empty prompt, or an unknown option.
            InputError: no picture, or one that cannot be read.
        """
        start, allow = options.pop("start", ""), options.pop("allow", frozenset())
        return self._run(images, self._free(prompt, allow), options, start)

    def stream(self, images: One, prompt: str | Prompt, **options: Unpack[FreeOptions]) -> AnswerStream:
        """The same answer as `generate` for one example, piece by piece; for a verb give `model.prompt("ask", ...)`.

        Raises:
            UsageError: several examples, beams, an empty prompt, or an unknown option.
            InputError: no picture, or one that cannot be read.
        """
        start, allow = options.pop("start", ""), options.pop("allow", frozenset())
        many, examples = _examples(images)
        if many:
            raise UsageError(
                "a stream answers one example; give one picture, or Images(...) for several of one example"
            )
        request = self._request(examples[0], self._free(prompt, allow), options, start)
        tokens = self.engine.stream(request.encoded, request.sampling)
        finished: list[Answer] = []

        def pieces() -> Iterator[str]:
            began = time.perf_counter()
            decoder = self.tokenizer.stream()
            ids: list[int] = []
            logprobs: list[float] = []
            reason: Literal["stop", "length"] = "length"
            for token in tokens:
                logprobs.append(token.logprob)
                reason = token.finish_reason or reason
                if token.finish_reason != "stop":
                    ids.append(token.id)
                    if piece := decoder.push(token.id):
                        yield piece
            if piece := decoder.flush():
                yield piece
            generation = Generation(tokens=ids, logprobs=logprobs, finish_reason=reason, score=sum(logprobs))
            finished.append(self._answer(request, generation, time.perf_counter() - began))

        return AnswerStream(pieces(), finished)

    def prompt(self, task: str, *words: Any, **more: Any) -> Prompt:
        """The prompt of a verb in this checkpoint's own dialect: `model.prompt("ask", "how many?", language="de")`.

        Raises:
            UsageError: unknown verb, or words it does not take.
        """
        if task not in TASKS:
            raise UsageError(f"unknown task {task!r}{did_you_mean(task, TASKS)}")
        trained_on = self.variant.task if self.variant else None
        if (task == "ask" and trained_on in BARE_QUESTIONS) or (task == "segment" and trained_on == REFCOCO):
            more["bare"] = True
        return TASKS[task].prompt(*words, **more)

    # --- from pictures and a prompt to answers ---

    def _free(self, prompt: str | Prompt, allow: frozenset[str]) -> Prompt:
        if isinstance(prompt, Prompt):
            return replace(prompt, allow=prompt.allow | frozenset(allow))
        return self.prompt("generate", prompt, allow=frozenset(allow))

    def _run(self, images: Any, prompt: Prompt, options: Options, start: str = "") -> Any:
        many, examples = _examples(images)
        batch_size = options.get("batch_size", 8)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size is {batch_size!r}; give an integer from 1")
        answers: list[Answer] = []
        for first in range(0, len(examples), CHUNKS_AT_ONCE * batch_size):
            chunk = examples[first : first + CHUNKS_AT_ONCE * batch_size]
            requests = [self._request(example, prompt, options, start) for example in chunk]
            began = time.perf_counter()
            samplings = [request.sampling for request in requests]
            generations = self.engine.generate(
                [request.encoded for request in requests], samplings, batch_size=batch_size
            )
            seconds = time.perf_counter() - began
            answers += [self._answer(*pair, seconds) for pair in zip(requests, generations, strict=True)]
        return answers if many else answers[0]

    def _request(self, sources: Sequence[Source], prompt: Prompt, options: Options, start: str) -> _Request:
        """Opens the pictures of one example and encodes it."""
        began = time.perf_counter()
        pictures = tuple(open_image(source) for source in sources)
        limit = self.config.text.max_positions
        encoded = self.processor.encode(pictures, prompt.text, allow=prompt.allow, max_tokens=limit - 1)
        if start:
            encoded = _continued(encoded, self.tokenizer.encode(start, allow=prompt.allow))
        room = limit - len(encoded.tokens)
        free = prompt.task == "generate"
        warnings = lint(prompt.text, task_of(prompt.text) if free else prompt.task, self.variant, free=free)
        return _Request(
            prompt=prompt,
            start=start,
            encoded=encoded,
            images=pictures,
            paths=tuple(_path(source) for source in sources),
            sampling=_sampling(options, min(self._max_tokens(prompt), max(1, room))),
            loc_divisor=options.get("loc_divisor", 1023),
            warnings=tuple(warnings),
            preprocess_s=time.perf_counter() - began,
        )

    def _max_tokens(self, prompt: Prompt) -> int:
        """The prompt's or task's own limit, and no longer than the texts this checkpoint was trained with."""
        limit = prompt.max_tokens or TASKS[prompt.task].max_tokens
        trained = self.variant.text_length if self.variant else None
        return min(limit, trained or limit)

    def _answer(self, request: _Request, generation: Generation, generate_s: float) -> Answer:
        prompt = request.prompt
        raw = request.start + self.tokenizer.decode(generation.tokens)
        size = request.images[0].size
        read_as = task_of(prompt.text) if prompt.task == "generate" else prompt.task
        reading = TASKS[read_as].parse(raw, size, divisor=request.loc_divisor, default_label=prompt.label)
        warnings = (*request.warnings, *reading.warnings)
        if generation.finish_reason == "length":
            cut = f"the answer was cut at {request.sampling.max_tokens} tokens; raise max_tokens for more"
            warnings += (Notice("truncated", cut),)
        fields: dict[str, Any] = {
            "text": reading.text, "raw": raw, "task": prompt.task, "prompt": prompt.text, "model": self.name,
            "finish_reason": generation.finish_reason, "warnings": warnings, "image_size_px": size,
            "tokens": tuple(generation.tokens), "logprobs": tuple(generation.logprobs),
            "timing": {"preprocess": request.preprocess_s, "generate": generate_s},
            "images": request.images, "paths": request.paths,
        }  # fmt: skip
        return Answer(**fields) if reading.boxes is None else Detections(**fields, boxes=reading.boxes)


def load(
    name: str | os.PathLike[str] = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    resize: str | None = None,
) -> PaliGemma:
    """A model ready to answer: the bundled one, a directory or file, or a hub name that was pulled before.

    Never uses the network. Published names need no `google/`.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; by default the best there is.
        dtype: "float32", "bfloat16", "float16"; by default as stored, and safely where that is float16.
        revision: of a hub name, default `main`.
        tokenizer: model, file or directory to take it from, for checkpoints without (big_vision's npz).
        resize: one of `pixels.RESIZES`; by default what the checkpoint says.

    Raises:
        UnavailableError: not on this machine; says how to get it.
        CheckpointError: damaged, incomplete or not a PaliGemma.
        UsageError: unknown device, type or resizer. ResourceError: out of memory.
    """
    place = choose_device(device)
    path = resolve(os.fspath(name), revision)
    opened = open_checkpoint(path)
    chosen, notes = choose_dtype(dtype, common_dtype(opened.tensors), place, opened.config)
    words = resolve(os.fspath(tokenizer)) if tokenizer is not None else opened.tokenizer_path
    if words is None:
        raise CheckpointError(
            f"{path} comes without a tokenizer; put tokenizer.json or tokenizer.model beside it, or give tokenizer=PATH"
        )
    vision, text = opened.config.vision, opened.config.text
    # the file's "bilinear" is Pillow's, which averages when it shrinks; the one of RESIZES is big_vision's without
    stored_resize = {"bilinear": "bilinear-antialias"}.get(opened.image.resize, opened.image.resize)
    processor = Processor(
        Tokenizer.load(words), image_size_px=vision.image_size_px, num_image_tokens=vision.num_image_tokens,
        resize=resize or stored_resize,
    )  # fmt: skip
    if processor.resize not in RESIZES:
        raise UsageError(f"unknown resize {processor.resize!r}{did_you_mean(processor.resize, RESIZES)}")
    if processor.tokenizer.vocab_size > text.embedding_rows:
        raise CheckpointError(
            f"the tokenizer at {words} has {processor.tokenizer.vocab_size} ids, but the model only "
            f"{text.embedding_rows} rows; use the tokenizer that belongs to this model"
        )
    model = build_model(opened, chosen, place)
    return PaliGemma(
        model, processor, name=opened.name or str(name), variant=VARIANTS.get(opened.name or ""), notes=notes
    )


def _examples(images: Any) -> tuple[bool, list[tuple[Source, ...]]]:
    """Whether a list was given, and the pictures of each example.

    Raises:
        InputError: an example without a picture.
    """
    many = isinstance(images, (list, tuple)) or (isinstance(images, Iterator) and not hasattr(images, "read"))
    examples = [_pictures(example) for example in (images if many else [images])]
    for i, example in enumerate(examples):
        if not example or any(picture is None for picture in example):
            where = f"example {i} has" if many else "this is a prompt with"
            raise InputError(f"{where} no picture; PaliGemma answers about pictures, so give at least one")
    return many, examples


def _pictures(example: Any) -> tuple[Source, ...]:
    if isinstance(example, Images):
        return example.images
    return tuple(example) if isinstance(example, (list, tuple)) else (example,)


def _path(source: Source) -> str | None:
    return os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else None


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


def _sampling(options: Options, max_tokens: int) -> Sampling:
    """The engine's settings out of a verb's keywords.

    Raises:
        UsageError: an unknown keyword, or a value out of range.
    """
    for name in options:
        if name not in Options.__annotations__:
            raise UsageError(f"unknown option {name!r}{did_you_mean(name, Options.__annotations__)}")
    if options.get("loc_divisor", 1023) not in (1023, 1024):
        raise UsageError(f"loc_divisor is {options['loc_divisor']!r}; give 1023 (reference) or 1024 (Hugging Face)")
    given: dict[str, Any] = {k: v for k, v in options.items() if k not in ("batch_size", "loc_divisor")}
    if given.get("max_tokens") is None:
        given["max_tokens"] = max_tokens
    if given.get("seed") is None:
        given["seed"] = secrets.randbits(31)
    return Sampling(**given)
