"""Prompt lint: does this checkpoint know this prompt? In: a prompt and the checkpoint's `Variant`. Out: notices.

`known_prompts` lists the forms a checkpoint was trained on. A notice never stops anything: a fine-tuned model may know
prompts nobody listed. Checkpoints without a published variant are only checked for prompts that look mistyped. Sources:
PaliGemma report, section 3.2.5 and appendix B; big_vision `configs/proj/paligemma/transfers`.
"""

import difflib
import re
from collections.abc import Sequence
from functools import cache

from paligemma.config import VARIANTS, Variant
from paligemma.results import Notice
from paligemma.scenes import LABELS
from paligemma.scenes.vocabulary import LANGUAGES as NANO_LANGUAGES
from paligemma.scenes.vocabulary import forms
from paligemma.tasks.grammar import LANGUAGES
from paligemma.tasks.segment import REFCOCO
from paligemma.tasks.text import BARE_QUESTIONS, CAPTION_STYLES

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
# Forms of pre-training, which mix checkpoints keep; of single tasks, those that differ from their verb's usual one.
_PT_PROMPTS = (
    *(f"{style} <language>" for style in CAPTION_STYLES), "caption <location>x4", "ocr", "answer en <question>",
    "question <language> <answer>", "detect <thing> ; <thing>", "segment <thing> ; <thing>",
)  # fmt: skip
_FT_PROMPTS = {
    "caption": "caption en", "ask": "answer en <question>", "ocr": "ocr", "detect": "detect <thing>",
    "segment": "segment <thing>",
}  # fmt: skip
_CHOOSE = "answer en <question> choose from: <a> \t <b>"
_OWN_PROMPTS = {
    **dict.fromkeys(BARE_QUESTIONS, "<question>"), REFCOCO: "<expression>", "coco35l": "caption <language>",
    "ai2d": _CHOOSE, "aokvqa-mc": _CHOOSE, "nlvr2": "answer en <statement about two pictures>",
    "science-qa": "Question: <question>\nContext: <context>\nOptions: (A) <a>, (B) <b>\nAnswer:",
}  # fmt: skip
_TYPED_CONTROL = re.compile(r"<(?:image|bos|eos|pad|unk)>|\\n$")


def task_of(prompt: str) -> str:
    """Our verb for a free prompt by its first word: `detect cat` -> `detect`; `generate` where it is none of ours."""
    words = prompt.split(maxsplit=1)
    return PROMPT_VERBS.get(words[0], "generate") if words else "generate"


def known_prompts(variant: Variant) -> tuple[str, ...]:
    """The forms of prompts a published checkpoint was trained on; what stands in <> is to be filled in."""
    if variant.task in _OWN_PROMPTS:
        return (_OWN_PROMPTS[variant.task],)
    if variant.kind in ("pt", "mix"):
        return (*_PT_PROMPTS, "<any question>") if "generate" in variant.tasks else _PT_PROMPTS
    return tuple(_FT_PROMPTS[task] for task in variant.tasks)


def lint(prompt: str, task: str, variant: Variant | None, *, free: bool = False) -> list[Notice]:
    """What is odd about asking this checkpoint this.

    Args:
        prompt: what is sent, without the final newline.
        task: our verb it belongs to.
        variant: None for a checkpoint nobody published.
        free: the user typed the whole prompt, so its spelling is checked too.
    """
    notices = _spelling(prompt, variant) if free else []
    if variant is None:
        return notices
    odd = _dialect(prompt, task, variant) if free else None
    known = [odd] if odd else _kind(prompt, task, variant)
    return notices + (known or _content(prompt, task, variant))


def _dialect(prompt: str, task: str, variant: Variant) -> Notice | None:
    """A verb typed before what a checkpoint knows bare."""
    verb, _, rest = prompt.strip().partition(" ")
    if variant.task in BARE_QUESTIONS and task == "ask":
        language, _, question = rest.partition(" ")
        rest = question if language in LANGUAGES else rest
    elif not (variant.task == REFCOCO and task == "segment"):
        return None
    form = _OWN_PROMPTS[str(variant.task)]
    return _meant(f"{variant.name} was trained on {form!r} without {verb!r}", rest.strip()) if rest.strip() else None


def _content(prompt: str, task: str, variant: Variant) -> list[Notice]:
    """The right task in words a checkpoint has not seen: another language or style, or a thing nano cannot know."""
    verb, _, rest = prompt.strip().partition(" ")
    if variant.kind == "nano" and task in ("detect", "segment"):
        unknown = [name.strip() for name in rest.split(";") if name.strip() not in _nano_nouns()]
        if unknown:
            named = ", ".join(map(repr, unknown))
            message = f"{variant.name} has never seen {named}; it knows {', '.join(LABELS)} as our scenes draw them"
            return [Notice("unknown_object", message)]
    if variant.kind not in ("ft", "nano") or verb not in (*CAPTION_STYLES, "answer"):
        return []
    language, _, more = rest.partition(" ")
    spoken = _languages(variant)
    wanted = language if language in spoken else "en"
    form = "answer" if verb == "answer" else "caption"
    if (verb, language) == (form, wanted) or language not in LANGUAGES:
        return []
    return [_meant(f"{variant.name} was not trained on {f'{verb} {language}'!r}", f"{form} {wanted} {more}".strip())]


def _languages(variant: Variant) -> Sequence[str]:
    """What a checkpoint of a single task, or one of ours, was trained to answer in."""
    if variant.kind == "nano":
        return NANO_LANGUAGES
    return LANGUAGES if variant.task == "coco35l" else ("en",)


@cache
def _nano_nouns() -> frozenset[str]:
    return frozenset(forms(label, language).one for label in LABELS for language in NANO_LANGUAGES)


def _kind(prompt: str, task: str, variant: Variant) -> list[Notice]:
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
    bare = variant.task in (*BARE_QUESTIONS, REFCOCO)
    if task in variant.tasks or (task == "generate" and bare and prompt.strip()):
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
