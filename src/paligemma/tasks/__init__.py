"""The language of prompts and answers, both directions in one file per kind; `TASKS` lists all of them.

A task turns words into a prompt, an answer into objects and objects into a training suffix. It never sees a model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from paligemma.tasks.detect import detect_prompt, format_detections, parse_detections
from paligemma.tasks.grammar import Prompt, Reading
from paligemma.tasks.lint import lint, task_of
from paligemma.tasks.segment import format_segments, parse_segments, segment_prompt
from paligemma.tasks.text import (
    CAPTION_STYLES,
    ask_prompt,
    caption_prompt,
    format_text,
    generate_prompt,
    ocr_prompt,
    parse_text,
)

__all__ = ["TASKS", "Prompt", "Reading", "Task", "lint", "task_of"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One verb of the interface.

    Args:
        prompt: words -> `Prompt`.
        parse: (raw answer, image size (width, height) in px, divisor=, default_label=) -> `Reading`; never raises.
        format: objects or text -> training suffix; the inverse of `parse`.
        max_tokens: how long an answer may get unless told otherwise.
    """

    name: str
    prompt: Callable[..., Prompt]
    parse: Callable[..., Reading]
    format: Callable[..., str]
    max_tokens: int


_ALL = (
    Task(
        name="caption", prompt=caption_prompt, parse=parse_text, format=format_text,
        max_tokens=CAPTION_STYLES["caption"],
    ),
    Task(name="ask", prompt=ask_prompt, parse=parse_text, format=format_text, max_tokens=64),
    Task(name="ocr", prompt=ocr_prompt, parse=parse_text, format=format_text, max_tokens=256),
    Task(name="detect", prompt=detect_prompt, parse=parse_detections, format=format_detections, max_tokens=256),
    Task(name="segment", prompt=segment_prompt, parse=parse_segments, format=format_segments, max_tokens=512),
    Task(name="generate", prompt=generate_prompt, parse=parse_text, format=format_text, max_tokens=256),
)  # fmt: skip
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
