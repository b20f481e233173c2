"""The bundled model: small enough, offline, and right as often as its record says."""

import json
from pathlib import Path

import pytest

import paligemma
from paligemma.checkpoints import resolve
from paligemma.scenes.first import caption, draw_scene, plural

HELD_OUT = 1_000_000_000
DOCS = Path(__file__).parents[2] / "docs" / "nano.md"


@pytest.fixture(scope="module")
def model():
    return paligemma.load()


@pytest.fixture(scope="module")
def scenes():
    return [scene for k in range(40) if (scene := draw_scene(HELD_OUT + k)).things]


def test_it_is_small_and_its_record_is_in_the_documentation():
    folder = resolve("nano")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 15e6
    page = DOCS.read_text()
    for name, value in json.loads((folder / "nano.json").read_text())["held_out"].items():
        shown = str(value) if isinstance(value, int) else f"{100 * value:.1f} %"
        assert f"| `{name}` | {shown} |" in page, name


def test_it_finds_what_is_there(model, scenes):
    hits = 0
    for scene in scenes:
        thing = scene.things[0]
        boxes = [box.box_yxyx_norm for box in model.detect(scene.image, thing.label)]
        hits += any(all(abs(a - b) < 0.12 for a, b in zip(box, thing.box, strict=True)) for box in boxes)
    assert hits / len(scenes) > 0.75


def test_it_counts(model, scenes):
    right = 0
    for scene in scenes:
        label = scene.things[0].label
        count = sum(thing.label == label for thing in scene.things)
        right += model.ask(scene.image, f"how many {plural(label)} are there?").text == str(count)
    assert right / len(scenes) > 0.75


def test_it_says_what_it_sees(model, scenes):
    simple = [scene for scene in scenes if len(scene.things) <= 2]
    answers = model.caption([scene.image for scene in simple])
    right = sum(answer.text == caption(scene) for answer, scene in zip(answers, simple, strict=True))
    assert right / len(simple) > 0.75


def test_it_says_no(model, scenes):
    absent = [
        next(x for x in ("key", "star", "boat", "moon", "hat") if x not in {t.label for t in scene.things})
        for scene in scenes
    ]
    silent = sum(not model.detect(s.image, label).boxes for s, label in zip(scenes, absent, strict=True))
    assert silent / len(scenes) > 0.85
