"""`PaliGemma`: a model with one method for each verb; all of them are queries on their way through `run`.

A picture is a path, bytes, a binary file, a PIL image or a uint8 array. Control tokens and the final newline are put in
here; what a user types never becomes a special token unless `generate` is told so by type. Nothing is downloaded.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import torch

from paligemma.api.detecting import watched_ranges
from paligemma.api.encoding import ImageEncoder
from paligemma.api.options import BoxOptions, CaptionOptions, FreeOptions, Options, check_batch_size
from paligemma.api.pictures import EncodedImage, Many, One, examples_of
from paligemma.api.queries import Query
from paligemma.api.ranking import Ranked, rank
from paligemma.api.running import OnError, answers
from paligemma.api.stream import AnswerStream, stream_answer
from paligemma.api.tiled import make_work
from paligemma.checkpoints import load_codec
from paligemma.checkpoints.pack_report import PackReport
from paligemma.config import Config, Variant, did_you_mean
from paligemma.engine import Engine
from paligemma.errors import PaliGemmaError, UsageError
from paligemma.metrics.calibration import Calibration
from paligemma.model import PaliGemmaModel
from paligemma.model.mask_codec import MaskCodec
from paligemma.processor import Processor
from paligemma.results import Answer, Detections, Notice
from paligemma.tasks import TASKS, Prompt
from paligemma.tasks.segment import REFCOCO
from paligemma.tasks.text import BARE_QUESTIONS
from paligemma.tokenizer import Tokenizer

IMAGE_CACHE = 64  # pictures remembered unless told otherwise


class PaliGemma:
    """A model that answers about pictures; made by `load`.

    Every verb takes one picture (or `Images`) and gives one answer, or a list and gives a list. Further keywords are
    those of `Options`.

    Args:
        notes: what `load` had to say, such as a changed number type.
        image_cache: how many pictures' features to remember; 0 none.
        codec_path: the mask codec's npz file, opened when the first mask is decoded.
        calibration: makes the boxes' scores mean what they say; None leaves them as they are.
        adapter_path: where the adapter on `model` was loaded from, if it has one.
        packed: which matrices are in few bits, and how far they are off.
        invariant: an answer has the same bits whoever is answered beside it; see `Engine`.
    """

    def __init__(
        self,
        model: PaliGemmaModel,
        processor: Processor,
        *,
        name: str,
        variant: Variant | None = None,
        notes: Sequence[Notice] = (),
        image_cache: int = IMAGE_CACHE,
        codec_path: Path | None = None,
        calibration: Calibration | None = None,
        adapter_path: Path | None = None,
        packed: PackReport | None = None,
        invariant: bool = False,
    ):
        self.model, self.processor, self.name, self.variant = model, processor, name, variant
        self.codec_path, self.calibration, self.adapter_path = codec_path, calibration, adapter_path
        self.notes, self.packed = tuple(notes), packed
        text, tokenizer = model.config.text, processor.tokenizer
        # Ids without a meaning in the tokenizer's file, and Hugging Face's `<image>`, must never be produced.
        unspoken = {*range(tokenizer.vocab_size, text.vocab_size)}
        if tokenizer.image_id is not None and tokenizer.image_id < text.embedding_rows:
            unspoken.add(tokenizer.image_id)
        self.engine = Engine(
            model, eos_id=tokenizer.eos_id, forbidden_ids=sorted(unspoken), fine=watched_ranges(tokenizer),
            invariant=invariant,
        )  # fmt: skip
        self.encoder = ImageEncoder(self, image_cache)

    @property
    def config(self) -> Config:
        return self.model.config

    @cached_property
    def mask_codec(self) -> MaskCodec | None:
        """What makes pixels of mask codes; None where none lies beside the model and none was pulled.

        Raises:
            CheckpointError: its file is damaged.
        """
        return None if self.codec_path is None else load_codec(self.codec_path, self.device)

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
        adapter = f", adapter={str(self.adapter_path)!r}" if self.adapter_path else ""
        return f"PaliGemma({self.name!r}, device={str(self.device)!r}, dtype={str(self.dtype)!r}{adapter})"

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
        return self._verb(images, "caption", {"language": language, "style": style}, options)

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
        return self._verb(images, "ask", {"question": question, "language": language}, options)

    @overload
    def ocr(self, images: One, **options: Unpack[Options]) -> Answer: ...
    @overload
    def ocr(self, images: Many, **options: Unpack[Options]) -> list[Answer]: ...
    def ocr(self, images: Any, **options: Unpack[Options]) -> Any:
        """Reads all text in the picture. Raises as `ask` does."""
        return self._verb(images, "ocr", {}, options)

    @overload
    def detect(self, images: One, objects: str | Sequence[str], **options: Unpack[BoxOptions]) -> Detections: ...
    @overload
    def detect(self, images: Many, objects: str | Sequence[str], **options: Unpack[BoxOptions]) -> list[Detections]: ...
    def detect(self, images: Any, objects: str | Sequence[str], **options: Unpack[BoxOptions]) -> Any:
        """Finds things, `"cat; dog"` or `["cat", "dog"]`, each with a score; see `BoxOptions` for `conf`, `tiles` etc.

        Raises:
            UsageError: no object named, or an unknown option.
            InputError: no picture, or one that cannot be read.
        """
        return self._verb(images, "detect", {"objects": objects}, options)

    @overload
    def segment(self, images: One, objects: str | Sequence[str], **options: Unpack[BoxOptions]) -> Detections: ...
    @overload
    def segment(
        self, images: Many, objects: str | Sequence[str], **options: Unpack[BoxOptions]
    ) -> list[Detections]: ...
    def segment(self, images: Any, objects: str | Sequence[str], **options: Unpack[BoxOptions]) -> Any:
        """Finds things with masks (`Box.mask`), by the model's mask codec; without one they stay codes, which is said.

        Raises:
            UsageError, InputError: as `detect`. CheckpointError: the codec's file is damaged.
        """
        return self._verb(images, "segment", {"objects": objects}, options)

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
        return self._verb(images, "generate", {"prompt": prompt}, options)

    def stream(self, images: One, prompt: str | Prompt, **options: Unpack[FreeOptions]) -> AnswerStream:
        """The same answer as `generate` for one example, piece by piece; for a verb give `model.prompt("ask", ...)`.

        Raises:
            UsageError: several examples, beams, an empty prompt, or an unknown option.
            InputError: no picture, or one that cannot be read.
        """
        many, examples = examples_of(images)
        if many:
            raise UsageError(
                "a stream answers one example; give one picture, or Images(...) for several of one example"
            )
        if options.get("conf"):
            raise UsageError("conf was given to a stream, whose boxes have no scores; use detect, segment or generate")
        options.pop("batch_size", None)  # there is one row
        return stream_answer(self, make_work(self, Query(examples[0], "generate", {"prompt": prompt}, options)))

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

    # --- many questions ---

    @overload
    def encode(self, images: One) -> EncodedImage: ...
    @overload
    def encode(self, images: Many) -> list[EncodedImage]: ...
    def encode(self, images: Any) -> Any:
        """Runs the vision tower alone; every verb takes the result in place of the picture, and skips the tower.

        Raises:
            InputError: no picture, or one that cannot be read. ResourceError: out of memory.
        """
        many, examples = examples_of(images)
        encoded = self.encoder.encode(examples)
        return encoded if many else encoded[0]

    @overload
    def run(
        self, queries: Iterable[Query], *, batch_size: int = 8, on_error: Literal["raise"] = "raise"
    ) -> list[Answer]: ...
    @overload
    def run(
        self, queries: Iterable[Query], *, batch_size: int = 8, on_error: Literal["return"]
    ) -> list[Answer | PaliGemmaError]: ...
    def run(self, queries: Iterable[Query], *, batch_size: int = 8, on_error: OnError = "raise") -> Any:
        """Answers to any mix of queries, in their order; rows of like length run together, whatever their task.

        Args:
            batch_size: rows decoded together.
            on_error: "return" puts a failed query's `PaliGemmaError` in its place and goes on with the others.

        Raises:
            PaliGemmaError: with on_error="raise", the first error of any query.
        """
        return list(self.answers(queries, batch_size=batch_size, on_error=on_error))

    def answers(
        self, queries: Iterable[Query], *, batch_size: int = 8, on_error: OnError = "raise"
    ) -> Iterator[Answer | PaliGemmaError]:
        """`run` one by one, for endless queries: reads ahead, and keeps in memory, a window of a few batches only."""
        return answers(self, queries, check_batch_size(batch_size), on_error)

    @overload
    def score(
        self, images: One, prompt: str | Prompt, candidates: Sequence[str], *,
        allow: frozenset[str] = frozenset(), batch_size: int = 8,
    ) -> list[Ranked]: ...  # fmt: skip
    @overload
    def score(
        self, images: Many, prompt: str | Prompt, candidates: Sequence[str], *,
        allow: frozenset[str] = frozenset(), batch_size: int = 8,
    ) -> list[list[Ranked]]: ...  # fmt: skip
    def score(
        self, images: Any, prompt: str | Prompt, candidates: Sequence[str], *,
        allow: frozenset[str] = frozenset(), batch_size: int = 8,
    ) -> Any:  # fmt: skip
        """How likely each of these answers is, likeliest first: `score(image, "answer en which?", ["cat", "dog"])`.

        Args:
            prompt: as for `generate`; that of a verb is `model.prompt("ask", "cat or dog?")`.
            allow: kinds of special tokens that prompt and candidates may spell, such as {"locations"}.

        Raises:
            UsageError: no candidate, one that is empty or stands twice, or one that spells a special token.
            InputError: no picture, or one that cannot be read.
        """
        many, examples = examples_of(images)
        found = rank(self, examples, prompt, candidates, allow, check_batch_size(batch_size))
        return found if many else found[0]

    def _verb(self, images: Any, task: str, words: dict[str, Any], options: Any) -> Any:
        """One answer for one example, a list for a list."""
        many, examples = examples_of(images)
        batch_size = options.pop("batch_size", 8)
        found = self.run((Query(example, task, words, options) for example in examples), batch_size=batch_size)
        return found if many else found[0]
