"""Prompt lint: does this checkpoint know this prompt? In: a prompt and the checkpoint's `Variant`. Out: notices.

A notice never stops anything: a fine-tuned model may know prompts nobody listed. Checkpoints without a published
variant are only checked for prompts that look mistyped.
"""

import difflib
import re

from paligemma.config import VARIANTS, Variant
from paligemma.results import Notice
from paligemma.tasks.grammar import LANGUAGES
from paligemma.tasks.text import CAPTION_STYLES

# The first word of each pre-training prompt and the verb of ours it belongs to.
PROMPT_VERBS = {
    **dict.fromkeys(CAPTION_STYLES, "caption"), "ocr": "ocr", "answer": "ask", "question": "ask",
    "detect": "detect", "segment": "segment",
}  # fmt: skip
_NEEDS_LANGUAGE = (*CAPTION_STYLES, "answer", "question")
_EXAMPLES = {
    "caption": "caption en", "ask": "answer en what color is it?", "ocr": "ocr", "detect": "detect cat",
    "segment": "segment cat",
}  # fmt: skip
_TYPED_CONTROL = re.compile(r"<(?:image|bos|eos|pad|unk)>|\\n$")


def task_of(prompt: str) -> str:
    """Our verb for a free prompt by its first word: `detect cat` -> `detect`; `generate` where it is none of ours."""
    words = prompt.split(maxsplit=1)
    return PROMPT_VERBS.get(words[0], "generate") if words else "generate"


def lint(prompt: str, task: str, variant: Variant | None, *, free: bool = False) -> list[Notice]:
    """What is odd about asking this checkpoint this.

    Args:
        prompt: what is sent, without the final newline.
        task: our verb it belongs to.
        variant: None for a checkpoint nobody published.
        free: the user typed the whole prompt, so its spelling is checked too.
    """
    notices = _spelling(prompt, variant) if free else []
    if variant is not None:
        notices += _kind(task, variant)
    return notices


def _kind(task: str, variant: Variant) -> list[Notice]:
    known = ", ".join(variant.tasks)
    if variant.kind == "pt":
        mix = _mix_of(variant)
        better = f"; for ready answers take {mix}" if mix else ""
        return [
            Notice(
                "base_checkpoint",
                f"{variant.name} is a base checkpoint made for fine-tuning, its answers are rough{better}",
            )
        ]
    if task in variant.tasks:
        return []
    if task == "generate":
        example = _EXAMPLES[variant.tasks[0]]
        message = f"{variant.name} knows {known} and no free prompts; did you mean a prompt such as {example!r}?"
    else:
        message = f"{variant.name} was not trained to {task}, it knows {known}; the answer may mean nothing"
    return [Notice("unknown_task", message)]


def _mix_of(variant: Variant) -> str | None:
    """The mix checkpoint of the same family and size, of the nearest resolution."""
    same = [v for v in VARIANTS.values() if v.kind == "mix" and (v.family, v.size) == (variant.family, variant.size)]
    side = variant.config.vision.image_size_px
    return min(same, key=lambda v: abs(v.config.vision.image_size_px - side)).name if same else None


def _spelling(prompt: str, variant: Variant | None) -> list[Notice]:
    notices = []
    if typed := _TYPED_CONTROL.search(prompt):
        message = f"{typed.group()!r} in the prompt is read as plain text; leave it out, it is put in for you"
        notices.append(Notice("typed_control", message))
    verb, _, rest = prompt.strip().partition(" ")
    if verb not in PROMPT_VERBS:
        close = difflib.get_close_matches(verb.lower(), PROMPT_VERBS, n=1, cutoff=0.75)
        if close:
            notices.append(_meant(f"the prompt begins with {verb!r}", f"{close[0]} {rest}".strip()))
        return notices
    if verb in _NEEDS_LANGUAGE and rest.partition(" ")[0] not in LANGUAGES and not rest.startswith("<loc"):
        notices.append(_meant(f"{verb!r} without a language code", f"{verb} en {rest}".strip()))
    if verb in ("detect", "segment") and re.search(r"\S;|;\S", rest):
        fixed = " ; ".join(name.strip() for name in rest.split(";"))
        notices.append(_meant("names are separated by ' ; '", f"{verb} {fixed}"))
    if verb in ("detect", "segment") and not rest.strip():
        notices.append(_meant(f"{verb!r} without an object", f"{verb} cat"))
    return notices


def _meant(found: str, prompt: str) -> Notice:
    return Notice("did_you_mean", f"{found}; did you mean {prompt!r}?")
