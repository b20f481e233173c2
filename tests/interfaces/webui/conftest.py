"""A model that answers at once and always the same, and the whole page over it on a loopback port."""

import os
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from paligemma.errors import UsageError
from paligemma.results import Answer, Box, Detections, Notice
from paligemma.tasks import TASKS


class FakeStream:
    def __init__(self, answer):
        self.pieces, self.answer = iter([answer.text[:3], answer.text[3:]]), answer

    def __next__(self):
        return next(self.pieces)


class FakeModel:
    """Says the colour of the picture in the place of a caption, and finds two things of scores 0.9 and 0.3."""

    name = "fake"
    variant = None

    def __init__(self):
        self.asked = []
        self.fail = None

    def prompt(self, task, *words):
        return TASKS[task].prompt(*words)

    def _fields(self, image, task, prompt, options):
        self.asked.append((task, prompt, options))
        if self.fail:
            raise self.fail
        color = ",".join(map(str, np.asarray(image)[0, 0]))
        return {
            "text": color, "raw": f" {color}", "task": task, "prompt": prompt, "model": self.name,
            "images": (image,), "image_size_px": image.size, "tokens": (1, 2, 3), "timing": {"generate": 0.25},
        }  # fmt: skip

    def stream(self, image, prompt, **options):
        return FakeStream(Answer(**self._fields(image, prompt.task, str(prompt), options)))

    def generate(self, image, prompt, **options):
        return self.detect(image, prompt.partition(" ")[2], **options)

    def detect(self, image, objects, **options):
        box = {"image_size_px": image.size}
        boxes = (
            Box(label="cat <b>", box_yxyx_norm=(0.1, 0.2, 0.5, 0.6), score=0.9, **box),
            Box(label="dog", box_yxyx_norm=(0.5, 0.5, 1.0, 1.0), score=0.3, **box),
        )
        notices = (Notice("truncated", "the answer was cut at 3 tokens; raise max_tokens for more"),)
        return Detections(**self._fields(image, "detect", objects, options), boxes=boxes, warnings=notices)

    segment = detect


@pytest.fixture
def fake():
    return FakeModel()


@pytest.fixture
def broken(fake):
    fake.fail = UsageError("found <nothing>, expected something; do it")
    return fake


@contextmanager
def served(model, folder):
    """The page's address while it runs in a thread."""
    import uvicorn

    from paligemma.interfaces.webui.server import listen, make_app, url_of

    before = {name: os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")}
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    with listen("127.0.0.1", 0) as listening:
        app = make_app(model)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield url_of(listening)
        server.should_exit = True
        thread.join(20)
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """(address, model) of a page."""
    model = FakeModel()
    with served(model, tmp_path_factory.mktemp("page")) as url:
        yield url, model
