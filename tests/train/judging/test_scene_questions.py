from collections import Counter
from itertools import islice

import numpy as np
import pytest

from paligemma.errors import UsageError
from paligemma.scenes import draw_scene
from paligemma.scenes.vocabulary import LANGUAGES
from paligemma.train.judging.scene_questions import ALL_KINDS, SCENES_HELD_OUT, scene_questions
from paligemma.train.pretraining.scenes import HELD_OUT

SIZE = 64


@pytest.fixture(scope="module")
def questions():
    return list(scene_questions(3, 60, size_px=SIZE))


def test_nothing_that_training_may_draw(questions):
    assert SCENES_HELD_OUT >= HELD_OUT
    numbers = {int(question.id.partition(":")[2]) for question in questions}
    assert min(numbers) == SCENES_HELD_OUT + 3_000_000
    assert max(numbers) < SCENES_HELD_OUT + 3_000_060


def test_the_same_every_time(questions):
    again = list(scene_questions(3, 60, size_px=SIZE))
    assert [(one.prefix, one.suffix) for one in again] == [(one.prefix, one.suffix) for one in questions]
    other = list(scene_questions(4, 60, size_px=SIZE))
    assert [one.suffix for one in other] != [one.suffix for one in questions]


def test_every_kind_and_every_language(questions):
    metrics = Counter(question.metric for question in questions)
    assert set(metrics) == {
        "caption_exact", "question_accuracy", "ocr_word_accuracy", "ap50", "miou", "clip_accuracy",
    }  # fmt: skip
    assert metrics["caption_exact"] == 60
    assert metrics["clip_accuracy"] == 2 * 6
    assert {"count", "color", "presence", "relation", "read"} <= {question.kind for question in questions}
    spoken = Counter(question.language for question in questions if question.language)
    assert set(spoken) == set(LANGUAGES)
    assert max(spoken.values()) < 2 * min(spoken.values())


def test_objects_are_the_drawn_ones(questions):
    boxed = [question for question in questions if question.metric in ("ap50", "miou")]
    assert boxed
    for question in boxed:
        things = draw_scene(int(question.id.partition(":")[2]), SIZE).things
        assert question.objects is not None
        asked = {question.labels[name] for name in question.prefix.partition(" ")[2].split(" ; ")}
        there = [thing for thing in things if thing.label in asked]
        assert [thing.label for thing in question.objects] == [thing.label for thing in there]
        assert question.suffix.count("<loc") == 4 * len(there)
        for found, thing in zip(question.objects, there, strict=True):
            assert found.name in question.prefix
            assert found.xyxyn == tuple(thing.box[i] for i in (1, 0, 3, 2))
            assert np.array_equal(found.mask, thing.mask)


def test_what_is_not_printed_is_not_read(questions):
    assert all(question.suffix for question in questions if question.prefix == "ocr")


def test_kinds_and_languages_are_chosen():
    chosen = list(scene_questions(0, 20, size_px=SIZE, kinds=["caption", "clip"], languages=["fr"]))
    assert {question.prefix for question in chosen if len(question.images) == 1} == {"caption fr"}
    assert sum(len(question.images) == 8 for question in chosen) == 4
    assert {question.language for question in chosen} == {"fr"}


def test_scenes_are_drawn_as_they_are_asked_for():
    assert len(list(islice(scene_questions(0, 1_000_000, size_px=SIZE), 3))) == 3


@pytest.mark.parametrize(
    ("seed", "limit", "more", "sentence"),
    [
        (0, 5, {"kinds": ["captoin"]}, "did you mean 'caption'"),
        (0, 5, {"languages": ["it"]}, "unknown language 'it'"),
        (0, 0, {}, "give 1 to 1,000,000"),
        (0, 1_000_001, {}, "another seed"),
        (-1, 5, {}, "give 0 or more"),
    ],
)
def test_what_cannot_be_asked(seed, limit, more, sentence):
    with pytest.raises(UsageError, match=sentence):
        next(scene_questions(seed, limit, size_px=SIZE, **more))
    assert "segment" in ALL_KINDS
