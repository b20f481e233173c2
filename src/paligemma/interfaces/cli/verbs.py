"""The verbs: caption, ask, ocr, detect, segment, generate.

Each takes pictures, loads one model, and answers picture by picture. What a verb adds to the shared options is here;
the work is done in `answering`.
"""

from typing import Literal

from paligemma.interfaces.cli.answering import run
from paligemma.interfaces.cli.options import (
    AnswerOptions,
    BoxOptions,
    Flag,
    Images,
    ModelOptions,
    OutputOptions,
    SourceOptions,
)

_SOURCE, _MODEL, _ANSWER, _OUTPUT, _BOXES = (
    SourceOptions(), ModelOptions(), AnswerOptions(), OutputOptions(), BoxOptions(),
)  # fmt: skip


def caption(
    images: Images,
    /,
    *,
    lang: str = "en",
    style: Literal["caption", "cap", "describe"] = "caption",
    source: SourceOptions = _SOURCE,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Say what a picture shows.

    Args:
        images: files, folders, quoted patterns, videos, addresses; `-` reads paths, or one picture, from stdin.
        lang: language code of the caption, such as en, de, zh.
        style: caption is one sentence, cap short and raw, describe longer; the bundled model knows caption only.
    """
    return run(images, "caption", {"language": lang, "style": style}, source, model, answer, output)


def ask(
    question: str,
    images: Images,
    /,
    *,
    lang: str = "en",
    source: SourceOptions = _SOURCE,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Answer a question about a picture.

    Args:
        question: what to ask, in one string: "how many cats?"
        images: files, folders, quoted patterns, videos, addresses; `-` reads paths, or one picture, from stdin.
        lang: language code of the answer.
    """
    return run(images, "ask", {"question": question, "language": lang}, source, model, answer, output)


def ocr(
    images: Images,
    /,
    *,
    source: SourceOptions = _SOURCE,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Read the text in a picture.

    Args:
        images: files, folders, quoted patterns, videos, addresses; `-` reads paths, or one picture, from stdin.
    """
    return run(images, "ocr", {}, source, model, answer, output)


def detect(
    things: str,
    images: Images,
    /,
    *,
    source: SourceOptions = _SOURCE,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    boxes: BoxOptions = _BOXES,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Find things in a picture: boxes in pixels.

    Args:
        things: what to look for, separated by semicolons: "cat; dog"
        images: files, folders, quoted patterns, videos, addresses; `-` reads paths, or one picture, from stdin.
    """
    return run(images, "detect", {"objects": things}, source, model, answer, output, boxes)


def segment(
    things: str,
    images: Images,
    /,
    *,
    source: SourceOptions = _SOURCE,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    boxes: BoxOptions = _BOXES,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Find things in a picture: boxes and masks.

    Args:
        things: what to look for, separated by semicolons: "left car"
        images: files, folders, quoted patterns, videos, addresses; `-` reads paths, or one picture, from stdin.
    """
    return run(images, "segment", {"objects": things}, source, model, answer, output, boxes)


def generate(
    prompt: str,
    images: Images,
    /,
    *,
    together: Flag = False,
    source: SourceOptions = _SOURCE,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Continue a free prompt about a picture.

    Args:
        prompt: exactly what the model is given, such as "describe en".
        images: files, folders, quoted patterns, videos, addresses; `-` reads paths, or one picture, from stdin.
        together: all pictures, in their order, belong to one prompt.
    """
    return run(images, "generate", {"prompt": prompt}, source, model, answer, output, together=together)
