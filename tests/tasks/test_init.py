"""`TASKS` is one table: every verb has a prompt, a total parser and its inverse."""

import pytest

from paligemma.config import ALL_TASKS, VARIANTS
from paligemma.results import Box
from paligemma.tasks import TASKS, Prompt, Reading

WORDS = {"caption": (), "ask": ("why?",), "ocr": (), "detect": ("cat",), "segment": ("cat",), "generate": ("hello",)}
BOX = Box(
    label="cat", box_yxyx_norm=(0, 0, 1, 1), loc=(0, 0, 1023, 1023), image_size_px=(8, 4), mask_codes=tuple(range(16))
)
HOSTILE = [
    "",
    " ; ",
    "<loc0001>",
    "<loc0900><loc0000><loc0001><loc0001> x",
    "<seg001>" * 17,
    "\x00\ud800",
    "a" * 10_000,
]


def test_the_table_holds_the_verbs_of_the_interface():
    assert set(TASKS) == set(ALL_TASKS) == set(WORDS)
    assert all(task.name == name and task.max_tokens > 0 for name, task in TASKS.items())
    assert all(set(v.tasks) <= set(TASKS) for v in VARIANTS.values())


@pytest.mark.parametrize("name", TASKS)
def test_each_task_speaks_and_understands(name):
    task = TASKS[name]
    prompt = task.prompt(*WORDS[name])
    assert isinstance(prompt, Prompt)
    assert prompt.task == name
    for raw in HOSTILE:
        for divisor in (1023, 1024):
            assert isinstance(task.parse(raw, (8, 4), divisor=divisor, default_label="x"), Reading)


@pytest.mark.parametrize("name", TASKS)
def test_parse_undoes_format(name):
    task = TASKS[name]
    if name == "segment":
        assert task.parse(task.format([BOX]), (8, 4)).boxes == (BOX,)
    elif name == "detect":
        (box,) = task.parse(task.format([BOX]), (8, 4)).boxes
        assert (box.label, box.loc) == (BOX.label, BOX.loc)
    else:
        assert task.parse(task.format("a cat"), (8, 4)).text == "a cat"
