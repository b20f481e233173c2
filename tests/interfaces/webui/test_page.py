import asyncio
import json

import pytest
from PIL import Image, ImageDraw
from tests.interfaces.webui.conftest import FakeModel

from paligemma.errors import InputError
from paligemma.interfaces.webui.answer import Asker
from paligemma.interfaces.webui.examples import draw_examples
from paligemma.interfaces.webui.page import _choose_fields, _sketched, _uploads_only, build_page
from paligemma.interfaces.webui.words import WORDS


@pytest.fixture(scope="module")
def examples():
    return draw_examples("en")


@pytest.fixture(scope="module", params=WORDS.values(), ids=list(WORDS))
def page(request, examples):
    """(texts, page, the model behind it)"""
    words, fake = request.param, FakeModel()
    return words, build_page(Asker(fake), words, examples), fake


def call(page, name, *values):
    """Runs the page's handler called `name`."""
    (handler,) = {
        id(event.fn): event.fn for event in page.fns.values() if getattr(event.fn, "__name__", "") == name
    }.values()
    return handler(*values)


def by_id(update):
    return {part.elem_id: value for part, value in update.items()}


def test_the_page_speaks_its_language(page):
    words, made, _ = page
    labels = {getattr(block, "label", None) for block in made.blocks.values()}
    assert {words.objects, words.question, words.prompt, words.threshold, words.picture, words.drawing} <= labels
    values = [block.value for block in made.blocks.values() if block.elem_id == "run"]
    assert values == [words.run]


def test_every_verb_shows_the_fields_it_needs():
    code = _choose_fields()
    table = json.loads(code.partition("(task) => (")[2].partition(")[task]")[0])
    names = ("row", "objects", "question", "prompt", "language", "style")
    shown = {task: {name for name, seen in zip(names, row, strict=True) if seen} for task, row in table.items()}
    assert shown == {
        "caption": {"row", "language", "style"}, "ask": {"row", "question", "language"}, "ocr": set(),
        "detect": {"objects"}, "segment": {"objects"}, "generate": {"prompt"},
    }  # fmt: skip


def test_an_example_brings_its_own_words(page, examples):
    class Event:
        index = 2

    _, made, _ = page
    tab, picture, *words = call(made, "take", Event)
    assert tab["selected"] == "picture"
    assert picture is examples[2].picture
    assert words == [examples[2].objects, examples[2].question, examples[2].prompt]


def test_a_drawing_is_asked_and_refiltered_without_the_model(page):
    words, made, fake = page
    drawing = Image.new("RGB", (50, 50), "white")
    ImageDraw.Draw(drawing).ellipse((5, 5, 20, 20), "red")
    sketch = {"composite": drawing}
    values = ("detect", "cat", "", "", "en", "caption", 0)
    fake.asked.clear()
    *_, last = call(made, "ask", "drawing", None, sketch, *values, 0.0)
    update = by_id(last)
    assert len(update["boxes"]["value"]) == 2
    assert update["drawn"]["visible"]
    assert update["least"]["visible"]
    (answer,) = [value for part, value in last.items() if type(part).__name__ == "State"]
    fewer = by_id(call(made, "refilter", answer, 0.5))
    assert len(fewer["boxes"]["value"]) == 1
    assert words.hidden.replace("{}", "1") in fewer["status"]
    assert len(fake.asked) == 1
    assert call(made, "refilter", None, 0.5) == {}


def test_text_streams_and_a_mistake_is_told(page):
    words, made, _ = page
    sketch = {"composite": Image.new("RGB", (50, 50), "white")}
    values = ("caption", "", "", "", "en", "caption", 0, 0.0)
    *_, last = call(made, "ask", "drawing", None, sketch, *values)
    assert words.no_picture in by_id(last)["status"]
    assert by_id(last)["answer"]["visible"] is False
    sketch["composite"].putpixel((0, 0), (9, 8, 7))
    texts = [by_id(update)["answer"]["value"] for update in call(made, "ask", "drawing", None, sketch, *values)]
    assert texts == ["", "9,8", "9,8,7", "9,8,7"]


def test_an_empty_paper_is_no_picture():
    paper = Image.new("RGB", (9, 9), "white")
    assert _sketched(None) is None
    assert _sketched({"composite": None}) is None
    assert _sketched({"composite": paper}) is None
    paper.putpixel((1, 1), (0, 0, 0))
    assert _sketched({"composite": paper}) is paper


def test_only_uploads_are_taken(tmp_path):
    class Part:
        GRADIO_CACHE = str(tmp_path / "uploads")

        async def async_move_resource_to_block_cache(self, path):
            return path

    part = Part()
    _uploads_only(part)

    def move(path):
        return asyncio.run(part.async_move_resource_to_block_cache(path))

    assert move(None) is None
    inside = str(tmp_path / "uploads" / "a.png")
    assert move(inside) == inside
    for path in ("http://192.0.2.1/a.png", "/etc/passwd", str(tmp_path / "b.png"), f"{inside}/../../b.png"):
        with pytest.raises(InputError, match="an upload is expected"):
            move(path)
