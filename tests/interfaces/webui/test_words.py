from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.interfaces.webui.words import CHINESE, ENGLISH, VERBS, WORDS, language_of
from paligemma.tasks import TASKS


def test_every_verb_has_a_name_in_every_language():
    assert sorted(VERBS) == sorted(TASKS)
    for words in WORDS.values():
        assert list(words.verbs) == list(VERBS)
        assert set(words.no_words) <= set(VERBS)


@pytest.mark.parametrize("name", [field.name for field in fields(ENGLISH) if field.name != "notices"])
def test_both_languages_say_it(name):
    english, chinese = getattr(ENGLISH, name), getattr(CHINESE, name)
    assert english
    assert chinese
    assert len(english) == len(chinese) if isinstance(english, tuple | dict) else True
    if isinstance(english, str):
        assert english.count("{}") == chinese.count("{}")


def test_no_chinese_text_was_forgotten():
    left = {"objects_hint", "download_json"}  # models know objects by their English names
    same = {
        f.name for f in fields(ENGLISH) if f.name not in left and getattr(ENGLISH, f.name) == getattr(CHINESE, f.name)
    }
    assert same == set()


@pytest.mark.parametrize(
    ("accepted", "code"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("de-DE,zh-TW;q=0.5", "zh"),
        ("en;q=0.1, zh;q=0.2", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=high", "en"),
        ("fr", "en"),
        ("", "en"),
        ("*", "en"),
    ],
)
def test_the_browser_chooses(accepted, code):
    assert language_of(accepted) == code


@given(st.text())
def test_whatever_a_browser_says_gives_a_language(accepted):
    assert language_of(accepted) in WORDS
