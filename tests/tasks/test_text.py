"""Prompts of the text tasks, word for word as in pre-training, and their errors."""

import pytest

from paligemma.errors import InputError, UsageError
from paligemma.tasks.text import (
    BARE_QUESTIONS,
    CAPTION_STYLES,
    ask_prompt,
    caption_prompt,
    format_text,
    generate_prompt,
    ocr_prompt,
    parse_text,
    question_prompt,
)
from paligemma.tokenizer import LOCATIONS


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (caption_prompt(), "caption en"),
        (caption_prompt("DE", "cap"), "cap de"),
        (caption_prompt("fil", "describe"), "describe fil"),
        (ocr_prompt(), "ocr"),
        (ask_prompt(" how many? "), "answer en how many?"),
        (ask_prompt("怎么?", "zh"), "answer zh 怎么?"),
        (ask_prompt("Context: x\nAnswer:", bare=True), "Context: x\nAnswer:"),
        (question_prompt("two dogs", "fr"), "question fr two dogs"),
        (generate_prompt("anything\n"), "anything"),
    ],
)
def test_prompts(prompt, text):
    assert str(prompt) == text
    assert prompt.allow == frozenset()  # a user's words never become special tokens


def test_a_region_is_made_of_location_tokens_of_ours():
    prompt = caption_prompt(region_yxyx_norm=(0, 0.25, 0.5, 1))
    assert prompt.text == "caption <loc0000><loc0256><loc0512><loc1023>"
    assert prompt.allow == {LOCATIONS}
    with pytest.raises(UsageError, match="leave one out"):
        caption_prompt("de", region_yxyx_norm=(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: caption_prompt("xx"), "unknown language 'xx'"),
        (lambda: caption_prompt(style="captoin"), "did you mean 'caption'"),
        (lambda: ask_prompt(" "), "question is empty"),
        (lambda: ask_prompt("why?", "english"), "unknown language"),
        (lambda: question_prompt(""), "is empty"),
        (lambda: generate_prompt("\n"), "prompt is empty"),
    ],
)
def test_words_that_make_no_prompt(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_text_answers_both_ways():
    assert parse_text(format_text(" a cat\n"), (1, 1)).text == "a cat"
    reading = parse_text(" \n", (1, 1))
    assert (reading.text, reading.boxes) == ("", None)
    assert [notice.code for notice in reading.warnings] == ["empty"]
    with pytest.raises(InputError, match="empty"):
        format_text(" ")


def test_constants_are_what_the_checkpoints_know():
    assert set(CAPTION_STYLES) == {"caption", "cap", "describe"}
    assert set(BARE_QUESTIONS) == {"chartqa", "docvqa", "science-qa"}
