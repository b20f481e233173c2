"""From what stands in the page's fields to an answer, and from an answer to what the page shows.

In: pictures as bytes or PIL, words, numbers. Out: pieces of text and one `Answer`; a `Shown` of plain strings, rows and
files. All logic of the tasks is `api`'s; nothing here knows Gradio. Whatever a model or a user wrote is escaped before
it becomes HTML.
"""

import html
import io
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from paligemma.errors import PaliGemmaError, UsageError
from paligemma.images import open_image
from paligemma.interfaces.webui.words import Words
from paligemma.results import Answer, Detections
from paligemma.tasks import task_of

if TYPE_CHECKING:
    from paligemma.api import PaliGemma

IN_BOXES = ("detect", "segment")
MAX_WORDS = 8192  # characters of a question or prompt


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as the fields hold it.

    Args:
        picture: the uploaded file's bytes, or a drawing.
        words: question, names of things or prompt, as the task needs.
        max_tokens: 0 lets the task decide.
    """

    task: str
    picture: bytes | Image.Image | None
    words: str = ""
    language: str = "en"
    style: str = "caption"
    max_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows of an answer.

    Args:
        text: the answer in words; empty for boxes.
        status: HTML: how many were found, time, warnings.
        drawn: the picture with the answer in it.
        rows: of the table of boxes: label, score, left, top, right, bottom in pixels.
        in_boxes: whether it is a list of boxes, and `has_scores` whether a minimum score means anything.
    """

    text: str = ""
    status: str = ""
    drawn: Image.Image | None = None
    rows: list[list[str | int | float]] = field(default_factory=list)
    raw: str = ""
    json: str = ""
    in_boxes: bool = False
    has_scores: bool = False


class NothingToAsk(UsageError):
    """A field that must be filled is empty; the sentence is in the page's language."""


class Asker:
    """Asks one model, one step at a time: two pages take turns, and a page that went away holds nothing up."""

    def __init__(self, model: "PaliGemma"):
        self.model = model
        self._turn = threading.Lock()

    def __call__(self, asked: Asked, words: Words) -> Iterator[str | Answer]:
        """Pieces of the answer's text as they are made, where it is text, and at last the whole answer.

        Raises:
            NothingToAsk: no picture or no words.
            PaliGemmaError: as the verb does.
        """
        if asked.picture is None:
            raise NothingToAsk(words.no_picture)
        if asked.task in words.no_words and not asked.words.strip(" \t\r\n;"):
            raise NothingToAsk(words.no_words[asked.task])
        if len(asked.words) > MAX_WORDS:
            raise UsageError(
                f"the words are {len(asked.words)} characters long, the limit is {MAX_WORDS}; shorten them"
            )
        with self._turn:
            picture = open_image(asked.picture)
        limit = int(asked.max_tokens) or None
        if asked.task in IN_BOXES or (asked.task == "generate" and task_of(asked.words.strip()) in IN_BOXES):
            with self._turn:
                yield getattr(self.model, asked.task)(picture, asked.words, max_tokens=limit)
            return
        prompt = self.model.prompt(asked.task, *_words_of(asked))
        with self._turn:
            stream = self.model.stream(picture, prompt, max_tokens=limit)
        while True:
            with self._turn:  # a step, not the whole answer: whoever waits gets in between
                piece = next(stream, None)
            if piece is None:
                break
            yield piece
        yield stream.answer


def _words_of(asked: Asked) -> tuple[str, ...]:
    return {
        "caption": (asked.language, asked.style),
        "ask": (asked.words, asked.language),
        "ocr": (),
        "generate": (asked.words,),
    }[asked.task]


def show(answer: Answer, least: float, words: Words) -> Shown:
    """What the page shows, with boxes of a score below `least` left out; boxes without a score stay."""
    in_boxes = isinstance(answer, Detections)
    has_scores = isinstance(answer, Detections) and any(box.score is not None for box in answer)
    shown = answer
    if isinstance(answer, Detections) and has_scores:
        shown = answer[[i for i, box in enumerate(answer) if box.score is None or box.score >= least]]
    return Shown(
        text="" if in_boxes else answer.text,
        status=_status(answer, shown, words),
        drawn=shown.plot() if shown.images else None,
        rows=_rows(shown) if isinstance(shown, Detections) else [],
        raw=answer.raw,
        json=shown.to_json(indent=2) + "\n",
        in_boxes=in_boxes,
        has_scores=has_scores,
    )


def _rows(found: Detections) -> list[list[str | int | float]]:
    return [
        [box.label or "-", "-" if box.score is None else f"{box.score:.2f}", *(round(edge) for edge in box.xyxy)]
        for box in found
    ]


def _status(answer: Answer, shown: Answer, words: Words) -> str:
    facts = []
    if isinstance(answer, Detections) and isinstance(shown, Detections):
        count = {0: words.found_none, 1: words.found_one}.get(len(shown), words.found)
        facts.append(f"<b>{html.escape(count.format(len(shown)))}</b>")
        if len(shown) < len(answer):
            facts.append(html.escape(words.hidden.format(len(answer) - len(shown))))
    elif (probability := getattr(answer, "score", None)) is not None:
        facts.append(html.escape(words.probability.format(f"{probability:.2f}")))
    if answer.tokens is not None:
        count = words.tokens_one if len(answer.tokens) == 1 else words.tokens
        facts.append(html.escape(count.format(len(answer.tokens))))
    if answer.timing:
        facts.append(html.escape(words.seconds.format(f"{sum(answer.timing.values()):.2f}")))
    line = " &middot; ".join(facts)
    warnings = "".join(f"<li>{html.escape(text)}</li>" for text in _warnings(answer, words))
    return f'<p role="status">{line}</p>' + (f'<ul class="warnings">{warnings}</ul>' if warnings else "")


def _warnings(answer: Answer, words: Words) -> list[str]:
    """The answer's notices, in the page's language where there is a translation; each once."""
    count = str(len(answer.tokens or ()))
    translated = {code: text.replace("{}", count) for code, text in words.notices.items()}
    return list(dict.fromkeys(translated.get(notice.code, str(notice)) for notice in answer.warnings))


def show_error(error: Exception, words: Words) -> Shown:
    """One sentence; of errors that are our own bug the place is told on the terminal."""
    if isinstance(error, NothingToAsk):
        sentence = str(error)
    elif isinstance(error, PaliGemmaError):
        sentence = words.error.format(str(error))
    else:
        traceback.print_exception(error)
        sentence = words.bug.format(type(error).__name__)
    return Shown(status=f'<p role="alert" class="error">{html.escape(sentence)}</p>')


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
