import pytest

from paligemma.config import ALL_TASKS
from paligemma.interfaces.cli import main, verbs
from paligemma.interfaces.cli.app import app
from paligemma.tasks import TASKS


@pytest.fixture
def asked(monkeypatch):
    """What a verb hands on: the arguments of the last call."""
    calls = []
    monkeypatch.setattr(verbs, "run", lambda *what, **more: calls.append((what, more)) or 0)
    return calls


def test_there_is_a_command_for_every_task():
    assert set(ALL_TASKS) == set(TASKS)
    assert set(TASKS) <= set(app)


@pytest.mark.parametrize(
    ("arguments", "verb", "words"),
    [
        (["caption", "a.jpg", "b.jpg", "--lang", "de"], "caption", {"language": "de", "style": "caption"}),
        (["caption", "a.jpg", "b.jpg", "--style=describe"], "caption", {"language": "en", "style": "describe"}),
        (["ask", "how many?", "a.jpg", "b.jpg"], "ask", {"question": "how many?", "language": "en"}),
        (["ocr", "a.jpg", "b.jpg"], "ocr", {}),
        (["detect", "cat; dog", "a.jpg", "b.jpg"], "detect", {"objects": "cat; dog"}),
        (["segment", "left car", "a.jpg", "b.jpg"], "segment", {"objects": "left car"}),
        (["generate", "describe en", "a.jpg", "b.jpg"], "generate", {"prompt": "describe en"}),
    ],
)
def test_words_come_first_and_images_after(asked, arguments, verb, words):
    assert main([*arguments, "--max-tokens", "7", "--device", "cpu", "--json", "-r"]) == 0
    (images, got_verb, got_words, source, model, answer, output, *boxes), _ = asked[0]
    assert (images, got_verb, got_words) == (["a.jpg", "b.jpg"], verb, words)
    assert (model.model, model.device, answer.max_tokens, output.json) == ("nano", "cpu", 7, True)
    assert source.recursive
    assert bool(boxes) is (verb in ("detect", "segment"))


def test_options_of_boxes_reach_detect_and_segment_only(asked):
    options = ["--conf", "0.3", "--max-objects", "2", "--no-grammar", "--save-crops", "c", "--save-mask", "m"]
    for verb in ("detect", "segment"):
        assert main([verb, "cat", "a.jpg", *options, "--tiles", "2x2"]) == 0
        boxes = asked[-1][0][7]
        assert (boxes.conf, boxes.max_objects, boxes.no_grammar, boxes.tiles) == (0.3, 2, True, "2x2")
        assert (boxes.save_crops, boxes.save_mask) == ("c", "m")
    assert main(["caption", "a.jpg", "--conf", "0.3"]) == 2


def test_options_may_stand_before_the_words(asked):
    assert main(["detect", "--json", "--model", "x", "cat", "a.jpg"]) == 0
    (images, _, words, _, model, *_), _ = asked[0]
    assert (images, words, model.model) == (["a.jpg"], {"objects": "cat"}, "x")


def test_together_is_handed_on(asked):
    assert main(["generate", "compare en", "a.jpg", "b.jpg", "--together"]) == 0
    assert asked[0][1] == {"together": True}


def test_words_that_look_like_numbers_are_words(asked):
    assert main(["ask", "-5 + 3?", "a.jpg"]) == 2
    assert main(["ask", "--", "-5 + 3?", "a.jpg"]) == 0
    assert asked[0][0][2] == {"question": "-5 + 3?", "language": "en"}
