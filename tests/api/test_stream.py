"""One answer piece by piece."""

import pytest
from tests.api.helpers import picture

from paligemma.errors import UsageError


def test_a_stream_says_the_same_as_generate(model):
    whole = model.generate(picture(), "caption en", max_tokens=6)
    stream = model.stream(picture(), "caption en", max_tokens=6)
    assert "".join(stream) == whole.raw
    assert stream.answer == whole
    assert model.stream(picture(), "caption en", max_tokens=6).answer == whole  # without reading the pieces


def test_a_stream_takes_one_example(model):
    with pytest.raises(UsageError, match="one example"):
        model.stream([picture()], "caption en")


def test_a_stream_of_boxes_has_no_scores_to_choose_by(model, says):
    says("<loc0102><loc0051><loc0920><loc0819> cat")
    stream = model.stream(picture(), model.prompt("detect", "cat"))
    assert "".join(stream).endswith(" cat")
    assert [box.score for box in stream.answer] == [None]
    with pytest.raises(UsageError, match="conf was given to a stream"):
        model.stream(picture(), model.prompt("detect", "cat"), conf=0.5)


def test_a_streamed_verb_has_its_task(model, says):
    says("a cat")
    stream = model.stream(picture(), model.prompt("ask", "what?", language="de"))
    assert list(stream)
    assert (stream.answer.task, stream.answer.prompt, stream.answer.text) == ("ask", "answer de what?", "a cat")
