import threading
import time

import pytest
from PIL import Image

from paligemma.api import load
from paligemma.data.example import Example
from paligemma.errors import InputError
from paligemma.results import Detections
from paligemma.train.judging.asking import ahead, answered, query_of, question_of


@pytest.fixture(scope="module")
def model():
    return load("nano-pt-112", device="cpu")


def example(prefix, suffix="x", images=1, color="red", id="rows:1"):
    return Example(
        id=id, images=tuple(Image.new("RGB", (40, 40), color) for _ in range(images)), prefix=prefix, suffix=suffix,
        source="rows",
    )  # fmt: skip


def test_answers_come_with_their_questions(model):
    asked = [
        question_of(one)
        for one in (
            example("caption en", id="a"), example("detect cat ; dog", "", id="b"), example("ocr", id="c"),
            example("answer en how many objects are there?", images=2, id="d"), example("what", id="e"),
        )
    ]  # fmt: skip
    pairs = list(answered(model, iter(asked), batch_size=2))
    assert [question for question, _ in pairs] == asked
    assert [answer.prompt for _, answer in pairs] == [question.prefix for question in asked]
    assert [isinstance(answer, Detections) for _, answer in pairs] == [False, True, False, False, False]
    assert [len(answer.images) for _, answer in pairs] == [1, 1, 1, 2, 1]


def test_the_same_answers_as_those_of_the_verbs(model):
    one = example("detect cat", "", color="blue")
    ((_, answer),) = answered(model, [question_of(one)])
    found = model.detect(one.images[0], "cat")
    assert answer.raw == found.raw
    ((_, answer),) = answered(model, [question_of(example("caption en", color="blue"))])
    assert answer.raw == model.caption(one.images[0]).raw


def test_a_long_true_answer_gets_room(model):
    short = query_of(model, question_of(example("caption en", "a red cat")))
    long = query_of(model, question_of(example("caption en", "a red cat " * 100)))
    assert short.words["prompt"].max_tokens == 64
    assert long.words["prompt"].max_tokens > 200


def test_locations_in_a_prompt_are_tokens_as_in_training(model):
    assert query_of(model, question_of(example("caption <loc0001><loc0001><loc0009><loc0009>"))).words["prompt"].allow
    assert not query_of(model, question_of(example("caption en"))).words["prompt"].allow


def test_a_picture_that_cannot_be_read_is_named(model, tmp_path):
    bad = question_of(example("caption en"))
    bad = type(bad)(**{**vars(bad), "images": (tmp_path / "gone.png",)})
    with pytest.raises(InputError, match=r"gone.png"):
        list(answered(model, [bad]))


def test_ahead_keeps_order_and_hands_on_errors():
    assert list(ahead(range(100), 3)) == list(range(100))
    assert list(ahead([])) == []

    def failing():
        yield 1
        raise ValueError("no more")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


def test_ahead_makes_a_bounded_number_and_ends_with_its_reader():
    made = []

    def endless():
        while True:
            made.append(len(made))
            yield made[-1]

    items = ahead(endless(), 4)
    assert next(items) == 0
    time.sleep(0.05)
    assert len(made) <= 7
    items.close()
    assert not any(thread.name == "questions" for thread in threading.enumerate())
