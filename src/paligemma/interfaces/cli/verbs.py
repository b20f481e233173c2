"""The verbs: caption, ask, ocr, detect, segment, generate.

Each takes image paths, loads one model, and answers picture by picture. A picture that cannot be read does not stop
the others: it is told on stderr, and the exit code says so (9 some failed, 4 none could be used).
"""

from typing import Literal

from paligemma.interfaces.cli.answering import run
from paligemma.interfaces.cli.options import AnswerOptions, Flag, Images, ModelOptions, OutputOptions

_MODEL, _ANSWER, _OUTPUT = ModelOptions(), AnswerOptions(), OutputOptions()


def caption(
    images: Images,
    /,
    *,
    lang: str = "en",
    style: Literal["caption", "cap", "describe"] = "caption",
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Say what a picture shows.

    Args:
        images: picture files; `-` reads their paths from stdin, one per line.
        lang: language code of the caption, such as en, de, zh.
        style: caption is one sentence, cap short and raw, describe longer; the bundled model knows caption only.
    """
    return run(images, "caption", (lang, style), model, answer, output)


def ask(
    question: str,
    images: Images,
    /,
    *,
    lang: str = "en",
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Answer a question about a picture.

    Args:
        question: what to ask, in one string: "how many cats?"
        images: picture files; `-` reads their paths from stdin, one per line.
        lang: language code of the answer.
    """
    return run(images, "ask", (question, lang), model, answer, output)


def ocr(
    images: Images,
    /,
    *,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Read the text in a picture.

    Args:
        images: picture files; `-` reads their paths from stdin, one per line.
    """
    return run(images, "ocr", (), model, answer, output)


def detect(
    things: str,
    images: Images,
    /,
    *,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Find things in a picture: boxes in pixels.

    Args:
        things: what to look for, separated by semicolons: "cat; dog"
        images: picture files; `-` reads their paths from stdin, one per line.
    """
    return run(images, "detect", (things,), model, answer, output)


def segment(
    things: str,
    images: Images,
    /,
    *,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Find things in a picture: boxes, and the codes of their masks.

    Args:
        things: what to look for, separated by semicolons: "left car"
        images: picture files; `-` reads their paths from stdin, one per line.
    """
    return run(images, "segment", (things,), model, answer, output)


def generate(
    prompt: str,
    images: Images,
    /,
    *,
    together: Flag = False,
    model: ModelOptions = _MODEL,
    answer: AnswerOptions = _ANSWER,
    output: OutputOptions = _OUTPUT,
) -> int:
    """Continue a free prompt about a picture.

    Args:
        prompt: exactly what the model is given, such as "describe en".
        images: picture files; `-` reads their paths from stdin, one per line.
        together: all pictures, in their order, belong to one prompt.
    """
    return run(images, "generate", (prompt,), model, answer, output, together=together)
