"""Lines become items; a line that makes no sense becomes an item with a sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.jobs.requests import KEYS, NEEDED, WORDS, Defaults, Item, item_of, json_line


def item(line, **defaults):
    return item_of(line, 5, "base", Defaults(**defaults), "line 7 of x.jsonl")


def problem(line, **defaults):
    error = item(line, **defaults).error
    assert error["code"] == "bad_input"
    assert "\n" not in error["message"]
    return error["message"]


def test_the_words_are_those_of_the_api():
    from paligemma.api.queries import REQUIRED
    from paligemma.api.queries import WORDS as OF_API

    assert {task: set(words) for task, words in WORDS.items()} == {task: set(words) for task, words in OF_API.items()}
    assert NEEDED == REQUIRED
    assert set(KEYS) == {"image", "id", "task", *(word for words in WORDS.values() for word in words)}


def test_a_whole_line():
    found = item({"image": "a.jpg", "id": 17, "task": "ask", "question": "how many?", "language": "de"})
    assert (found.index, found.id, found.image, found.paths) == (5, 17, "a.jpg", ("base/a.jpg",))
    assert (found.task, found.words) == ("ask", {"question": "how many?", "language": "de"})
    assert found.error is None


def test_what_a_line_lacks_comes_from_the_command():
    found = item({"image": "a.jpg"}, task="detect", words={"objects": "cat", "question": "unused"})
    assert (found.id, found.task, found.words) == ("a.jpg", "detect", {"objects": "cat"})


@pytest.mark.parametrize(
    ("line", "defaults", "task"),
    [
        ({"question": "why?"}, {}, "ask"),
        ({"objects": "cat"}, {}, "detect"),
        ({"objects": ["cat", "dog"]}, {"task": "segment"}, "segment"),
        ({"question": "why?"}, {"task": "detect", "words": {"objects": "cat"}}, "ask"),
        ({"prompt": "caption en"}, {"task": "ocr"}, "generate"),
        ({"style": "cap"}, {}, "caption"),
        ({}, {"words": {"objects": "cat"}}, "detect"),
        ({}, {"task": "ocr"}, "ocr"),
    ],
)
def test_the_task_follows_from_the_words(line, defaults, task):
    assert item({"image": "a.jpg", **line}, **defaults).task == task


def test_several_pictures_of_one_example():
    found = item({"image": ["a.jpg", "/b.jpg"], "task": "ocr"})
    assert (found.id, found.image, found.paths) == ("a.jpg", ["a.jpg", "/b.jpg"], ("base/a.jpg", "/b.jpg"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"image": "a", "taks": "ocr"}, "line 7 of x.jsonl has the unknown key 'taks'; did you mean 'task'?"),
        ({"task": "ocr"}, "line 7 of x.jsonl has no image; give the path"),
        ({"image": 3, "task": "ocr"}, "has the image 3; give the path"),
        ({"image": [], "task": "ocr"}, "has the image []; give the path"),
        ({"image": "a\0b", "task": "ocr"}, "give the path"),
        ({"image": "a", "task": "detekt"}, "has the unknown task 'detekt'; did you mean 'detect'?"),
        ({"image": "a", "task": ["ocr"]}, "has the unknown task ['ocr']"),
        ({"image": "a"}, "does not say what to do; give it a task (caption, ask"),
        ({"image": "a", "task": "ask"}, "is to ask but has no question; give it, or --question for all lines"),
        ({"image": "a", "task": "ask", "question": "  "}, "line 7 of x.jsonl: the question is empty"),
        ({"image": "a", "task": "caption", "language": "xx"}, "line 7 of x.jsonl: unknown language 'xx'"),
        ({"image": "a", "task": "ocr", "objects": "cat"}, "gives 'objects', which ocr does not take"),
        ({"image": "a", "task": "detect", "objects": 3}, "has objects 3, expected text"),
        ({"image": "a", "task": "ask", "question": "\ud800"}, "no UTF-8 text"),
        ({"image": "a", "task": "ocr", "id": 1.5}, "the id of line 7 of x.jsonl is 1.5; give text or an integer"),
        (["a.jpg"], 'is no object; write {"image": "a.jpg"'),
    ],
)
def test_lines_that_make_no_sense(line, expected):
    assert expected in problem(line)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from([*KEYS, "other"]), anything | words) | anything)
def test_no_line_raises_and_every_item_can_be_written_down(line):
    found = item(line, task="caption")
    assert Item.from_line(found.to_line()) == found
    assert (found.error is None) == bool(found.paths)


def test_size_and_time_of_the_pictures_are_kept(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    found = item_of({"image": ["a.jpg", "b.jpg"]}, 0, str(tmp_path), Defaults(task="ocr"), "x")
    assert found.stat[0] == (3, (tmp_path / "a.jpg").stat().st_mtime_ns)
    assert found.stat[1] is None


def test_names_that_are_no_utf8_survive():
    name = b"\xff.jpg".decode("utf-8", "surrogateescape")
    assert json.loads(json_line({"image": name, "text": "é"})) == {"image": name, "text": "é"}
    assert json_line({"text": "é"}) == '{"text":"é"}\n'.encode()
