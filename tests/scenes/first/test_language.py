import random
import re

import numpy as np
import pytest

from paligemma.scenes.first import Scene, Text, Thing, caption, detection, draw_scene, examples, plural
from paligemma.scenes.first.language import (
    QUESTIONS,
    ask_color,
    ask_count,
    ask_detect,
    ask_presence,
    ask_read,
    ask_segment,
)

BOX = (0.1, 0.2, 0.3, 0.4)
MASK = np.ones((8, 8), bool)


def scene(*things: tuple[str, str], word: str | None = None) -> Scene:
    placed = tuple(Thing(color=color, label=label, box=BOX, mask=MASK) for color, label in things)
    text = Text(word=word, box=BOX, char_boxes=(BOX,) * len(word)) if word else None
    return Scene(image=draw_scene(0).image, things=placed, text=text)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (scene(("red", "cat")), "a red cat"),
        (scene(("orange", "cat"), ("red", "boat")), "an orange cat and a red boat"),
        (scene(("red", "cat"), ("blue", "boat"), ("red", "cat")), "two red cats and a blue boat"),
        (scene(("red", "a"), ("red", "b"), ("red", "c"), word="HI"), "a red a, a red b and a red c"),
        (scene(("pink", "fish"), ("pink", "fish"), ("pink", "fish")), "three pink fish"),
        (scene(word="OPEN"), "a word"),
        (scene(), "nothing"),
    ],
)
def test_captions(made, said):
    assert caption(made) == said


def test_plurals():
    assert [plural(word) for word in ("cat", "fish", "key")] == ["cats", "fish", "keys"]


def test_detection_puts_y_first_and_rounds_to_bins():
    things = [Thing(label="cat", color="red", box=(0.0, 0.25, 0.5, 1.0), mask=MASK)]
    assert detection(things) == "<loc0000><loc0256><loc0512><loc1023> cat"
    assert detection([]) == ""


def test_answers_agree_with_the_truth():
    made = scene(("red", "cat"), ("blue", "cat"), ("green", "key"), word="TEA")
    for seed in range(80):
        rng = random.Random(seed)
        prefix, suffix = ask_count(made, rng)
        if "objects" in prefix:
            assert suffix == "3"
        else:
            assert suffix == {"cats": "2", "keys": "1"}.get(re.search(r"how many (\w+)", prefix)[1], "0")
        prefix, suffix = ask_presence(made, rng)
        assert (suffix == "yes") == (prefix.split()[-1] in ("cat?", "key?"))
        assert ask_color(made, rng) == ("answer en what color is the key?", "green")
        assert ask_read(made, rng)[1] == "TEA"
        prefix, suffix = ask_detect(made, rng)
        wanted = prefix.removeprefix("detect ").split(" ; ")
        found = re.findall(r" (\w+)(?: ;|$)", suffix)
        assert found == [thing.label for thing in made.things if thing.label in wanted]


def test_examples_are_many_different_and_reproducible():
    for seed in range(40):
        made = draw_scene(seed)
        pairs = examples(made, random.Random(seed), 3)
        assert pairs == examples(made, random.Random(seed), 3)
        assert len(pairs) == 3
    assert sum(QUESTIONS.values()) == pytest.approx(1)


def test_masks_stand_between_box_and_label():
    made = scene(("red", "cat"), ("blue", "key"))
    prefix, suffix = ask_segment(made, random.Random(1), lambda thing: f"[{thing.label}]")
    for label in prefix.removeprefix("segment ").split(" ; "):
        assert (f"<loc0409>[{label}] {label}" in suffix) == (label in ("cat", "key"))


def test_segmenting_is_asked_only_where_masks_have_tokens():
    made = draw_scene(2)
    asked = {
        codec is not None: {
            prefix.split()[0] for seed in range(40) for prefix, _ in examples(made, random.Random(seed), 3, codec)
        }
        for codec in (None, lambda thing: "<seg>")
    }
    assert "segment" in asked[True]
    assert "segment" not in asked[False]
