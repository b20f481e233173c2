"""What can be wrong with the texts of one row: prompt, answer, and whether they fit each other.

In: an example. Out: findings without row number. A detect or segment answer must be read by the very parser that reads
the model's answers, without a rest. Not done here: pictures (`look_alike`), lengths and figures (`check`).
"""

import re
from collections.abc import Iterator

from paligemma.config import Variant
from paligemma.data.example import Example
from paligemma.data.findings import Finding
from paligemma.results import Box
from paligemma.tasks import TASKS, lint, task_of
from paligemma.tasks.grammar import LOC_PATTERN, LOCATION, MASK_TOKENS, SEG_PATTERN

_LIKE_A_TOKEN = re.compile(r"<\s*(?:loc|seg)\s*-?[0-9.]*\s*>", re.IGNORECASE)
_RUN = re.compile(rf"(?:{LOC_PATTERN}|{SEG_PATTERN})+")
_TOLD = ("did_you_mean", "typed_control")  # of lint: spelling; that a task is new to a model is what training is for
_SQUARE = (1000, 1000)  # the parser wants a size; only fractions are looked at


def text_findings(example: Example, variant: Variant | None = None) -> Iterator[Finding]:
    """What is wrong with prefix and suffix; `variant` is the checkpoint that will be trained."""
    yield from _spaces(example)
    yield from _spellings(example)
    task = task_of(example.prefix)
    if example.prefix.strip():
        for notice in lint(example.prefix.strip(), task, variant, free=True):
            if notice.code in _TOLD:
                fix = "write the prompt as the model knows it, and ask the same way later"
                yield Finding(code="unusual_prompt", field="prefix", why=notice.message, fix=fix)
    if task in ("detect", "segment"):
        yield from _box_findings(example, task)
    elif not example.suffix.strip():
        fix = "leave the row out, unless silence is the right answer"
        yield Finding(code="empty_suffix", field="suffix", why="the answer is empty", fix=fix)


def _spaces(example: Example) -> Iterator[Finding]:
    if not example.prefix.strip():
        fix = "say what is asked, such as 'caption en'"
        yield Finding(code="empty_prefix", field="prefix", why="the prompt is empty", fix=fix)
    elif example.prefix.endswith("\n"):
        why = "the prompt ends in a newline, and one more is added to every prompt"
        yield Finding(code="newline_in_prefix", field="prefix", why=why, fix="take it off")
    for name, text in (("prefix", example.prefix), ("suffix", example.suffix)):
        if text.strip() and text != text.strip() and not (name == "prefix" and text.endswith("\n")):
            why = f"the {name} has spaces or newlines at its ends, which are learnt as they stand"
            yield Finding(code="outer_spaces", field=name, why=why, fix="take them off")


def _spellings(example: Example) -> Iterator[Finding]:
    """Location and mask tokens that are none, or that would be read as letters where they stand."""
    for name, text in (("prefix", example.prefix), ("suffix", example.suffix)):
        wrong = next((m.group() for m in _LIKE_A_TOKEN.finditer(text) if not LOCATION.fullmatch(m.group())), None)
        if wrong is not None:
            why = f"{wrong} is no token, expected <loc0000> to <loc1023> or <seg000> to <seg127>"
            fix = "let `paligemma data import` write the places"
            yield Finding(code="bad_location", field=name, why=why, fix=fix)
    if not example.allow and (found := LOCATION.search(example.suffix)):
        why = f"{found.group()} is read as letters, for the prompt asks for no boxes"
        fix = "begin the prompt with detect or segment, or take the token out"
        yield Finding(code="split_location", field="suffix", why=why, fix=fix)


def _box_findings(example: Example, task: str) -> Iterator[Finding]:
    reading = TASKS[task].parse(example.suffix, _SQUARE)
    boxes = reading.boxes or ()
    for notice in reading.warnings:
        if notice.code == "rejected":
            fix = "write four tokens (top, left, bottom, right), for masks 16 more, then a label"
            yield Finding(code="bad_boxes", field="suffix", why=notice.message, fix=fix)
    for run in _RUN.findall(example.suffix):
        if run.count("<loc") > 4:
            why = f"{run.count('<loc')} location tokens stand together, expected 4 and a label"
            yield Finding(code="bad_boxes", field="suffix", why=why, fix="put ' ; ' between objects")
    if task == "segment" and any(box.mask_codes is None for box in boxes):
        why = f"a box has no mask, expected {MASK_TOKENS} <seg> tokens behind its place"
        yield Finding(code="bad_boxes", field="suffix", why=why, fix="add the mask, or ask with detect")
    if task == "detect" and any(box.mask_codes for box in boxes):
        why = "the answer to detect has <seg> tokens"
        yield Finding(code="bad_boxes", field="suffix", why=why, fix="ask with segment, or take them out")
    yield from _label_findings(example, boxes)


def _label_findings(example: Example, boxes: tuple[Box, ...]) -> Iterator[Finding]:
    asked = {name.strip() for name in example.prefix.partition(" ")[2].split(";")}
    unasked = sorted({box.label for box in boxes} - asked)
    if unasked:
        why = f"the answer names {', '.join(map(repr, unasked[:3]))}, which the prompt does not ask for"
        fix = "ask for it, or leave it out of the answer"
        yield Finding(code="unasked_label", field="suffix", why=why, fix=fix)
    places = [(box.label, box.loc) for box in boxes]
    twice = next((label for label, place in places if places.count((label, place)) > 1), None)
    if twice is not None:
        why = f"{twice!r} stands twice at the same place"
        yield Finding(code="repeated_box", field="suffix", why=why, fix="keep one of them")
