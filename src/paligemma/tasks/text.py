"""Tasks whose answers are text: caption, ask, ocr, question. Words in, prompt out; answer in, reading out.

Prompts are those of pre-training: `caption en`, `cap en`, `describe en`, `ocr`, `answer en <question>`,
`question en <answer>`. The final newline belongs to the processor. Source: PaliGemma report, section 3.2.5.
"""

from paligemma.config import did_you_mean
from paligemma.errors import InputError, UsageError
from paligemma.results import Corners, Notice
from paligemma.tasks.grammar import Divisor, Prompt, Reading, box_to_text, check_language
from paligemma.tokenizer import LOCATIONS

# Style of a caption, which is also its verb, and how long it may get: in tokens.
CAPTION_STYLES = {"caption": 64, "cap": 64, "describe": 256}
# Single-task checkpoints that were trained on the bare question (PaliGemma report, appendix B).
BARE_QUESTIONS = ("chartqa", "docvqa", "science-qa")


def caption_prompt(language: str = "en", style: str = "caption", region_yxyx_norm: Corners | None = None) -> Prompt:
    """`caption en`: one sentence; `cap`: short and raw like a web page's alt text; `describe`: longer.

    `region_yxyx_norm` asks for one part of the picture (top, left, bottom, right, 0..1): pre-training knows
    `caption` with four location tokens, in English.

    Raises:
        UsageError: unknown style or language, or a region with either.
    """
    if style not in CAPTION_STYLES:
        raise UsageError(f"unknown caption style {style!r}{did_you_mean(style, CAPTION_STYLES)}")
    language = check_language(language)
    if region_yxyx_norm is None:
        return Prompt(f"{style} {language}", "caption", max_tokens=CAPTION_STYLES[style])
    if style != "caption" or language != "en":
        raise UsageError(f"a region can only be captioned in plain English, not {style} {language}; leave one out")
    return Prompt("caption " + box_to_text(region_yxyx_norm), "caption", frozenset({LOCATIONS}))


def ocr_prompt() -> Prompt:
    """All text in the picture, in reading order."""
    return Prompt("ocr", "ocr")


def ask_prompt(question: str, language: str = "en", *, bare: bool = False) -> Prompt:
    """`answer en <question>`; the language is that of the answer, the question may be in any.

    `bare` sends the question alone, as the checkpoints in `BARE_QUESTIONS` were trained.

    Raises:
        UsageError: an empty question or an unknown language.
    """
    question = question.strip()
    if not question:
        raise UsageError("the question is empty; ask something, such as 'what color is the car?'")
    return Prompt(question if bare else f"answer {check_language(language)} {question}", "ask")


def question_prompt(answer: str, language: str = "en") -> Prompt:
    """`question en <answer>`: asks the model for a question in `language` with this English answer.

    Raises:
        UsageError: an empty answer or an unknown language.
    """
    if not answer.strip():
        raise UsageError("the answer to find a question for is empty; give a word or two")
    return Prompt(f"question {check_language(language)} {answer.strip()}")


def generate_prompt(text: str, *, allow: frozenset[str] = frozenset()) -> Prompt:
    """The user's own words, stripped of outer spaces and newlines; `allow` as for `Tokenizer.encode`.

    Raises:
        UsageError: nothing is left.
    """
    if not text.strip():
        raise UsageError("the prompt is empty; give a task, such as 'caption en' or 'detect cat'")
    return Prompt(text.strip(), allow=frozenset(allow))


def parse_text(
    raw: str, image_size_px: tuple[int, int], *, divisor: Divisor = 1023, default_label: str = ""
) -> Reading:
    """The answer without outer spaces; says so when there is none. The other arguments are those of every task."""
    text = raw.strip()
    warnings = () if text else (Notice("empty", "the model gave an empty answer"),)
    return Reading(text, None, warnings)


def format_text(text: str) -> str:
    """The training suffix of a text; the inverse of `parse_text`.

    Raises:
        InputError: nothing to learn.
    """
    if not text.strip():
        raise InputError("the text to be learnt is empty; leave the example out")
    return text.strip()
