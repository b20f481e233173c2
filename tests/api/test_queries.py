"""Queries as values: what they may say."""

import pytest

from paligemma.api.options import OPTIONS
from paligemma.api.queries import REQUIRED, WORDS, Query
from paligemma.errors import UsageError
from paligemma.tasks import TASKS


def test_every_task_has_its_words_and_options():
    assert set(WORDS) == set(OPTIONS) == set(TASKS)
    assert all(word in WORDS[task] for task, word in REQUIRED.items())


@pytest.mark.parametrize("task", TASKS)
def test_a_query_with_its_words_is_fine_and_one_without_is_told(task):
    words = {REQUIRED[task]: "cat"} if task in REQUIRED else {}
    Query("a.png", task, words).check()
    if words:
        with pytest.raises(UsageError, match=f"{task} was asked without '{REQUIRED[task]}'"):
            Query("a.png", task).check()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query("a.png", "ocr", {"question": "?"}), "ocr has no argument 'question'"),
        (Query("a.png", "detect", {"object": "cat"}), "did you mean 'objects'"),
        (Query("a.png", "see"), "unknown task 'see'"),
        (Query("a.png", "ocr", {}, {"region_xyxyn": (0, 0, 1, 1)}), "unknown option 'region_xyxyn'"),
        (Query("a.png", "ocr", {}, {"batch_size": 2}), "belongs to the whole run"),
    ],
)
def test_what_a_query_may_not_say(query, message):
    with pytest.raises(UsageError, match=message):
        query.check()
