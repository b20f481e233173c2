"""What questions name, and the truth about it."""

import random

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from paligemma.scenes import COLORS, Scene, Thing, draw_scene
from paligemma.scenes.language import asks, name_ends
from paligemma.scenes.mentions import MANY, SLOTS, Named, mentions
from paligemma.scenes.patches import UNKNOWN
from paligemma.scenes.vocabulary import LANGUAGES, forms

COLOR = list(COLORS).index


def thing(label: str, color: str, left: float) -> Thing:
    return Thing(label=label, color=color, box=(0.1, left, 0.3, left + 0.2), mask=np.ones((2, 2), bool))


def scene(*things: Thing) -> Scene:
    return Scene(image=None, things=things)  # type: ignore[arg-type]  # nothing looks at it


CATS = scene(thing("cat", "red", 0.0), thing("cat", "blue", 0.3), thing("dog", "red", 0.6))


@pytest.mark.parametrize(
    ("name", "number", "color"),
    [
        (Named("cat"), 2, UNKNOWN),
        (Named("dog"), 1, COLOR("red")),
        (Named(None, "red"), 2, COLOR("red")),
        (Named("cat", "blue"), 1, COLOR("blue")),
        (Named("sun"), 0, UNKNOWN),
        (Named(), 3, UNKNOWN),
    ],
)
def test_a_name_is_looked_up(name: Named, number: int, color: int) -> None:
    found = mentions(CATS, [name])
    assert (found.number.tolist(), found.color.tolist()) == ([number, UNKNOWN], [color, UNKNOWN])
    assert (found.box[0] != 0).any() == (number == 1)
    assert not found.box[1].any()


def test_the_box_is_that_of_the_only_one_and_names_keep_their_order() -> None:
    found = mentions(CATS, [Named("cat", "blue"), Named("dog"), Named("cat")])
    assert len(found.number) == SLOTS
    assert_array_equal(found.box, np.float32([CATS.things[1].box, CATS.things[2].box]))


def test_many_are_many() -> None:
    crowd = scene(*(thing("cat", "red", 0.1 * n) for n in range(MANY + 2)))
    assert mentions(crowd, [Named("cat")]).number[0] == MANY


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_questions_name_agrees_with_their_answers(language: str) -> None:
    """The truth about names, where it alone decides the answer: counts, presence, colours."""
    seen = set()
    for seed in range(40):
        drawn = draw_scene(seed, 64, "objects")
        wanted = {"count": 1.0, "presence": 1.0, "color": 1.0, "size": 1.0, "relation": 1.0, "detect": 1.0}
        for ask in asks(drawn, random.Random(seed), 6, kinds=wanted, languages={language: 1.0}):
            truth = mentions(drawn, ask.names)
            seen.add(ask.kind)
            if ask.kind == "count":
                assert int(ask.suffix) == truth.number[0]
            elif ask.kind == "presence":
                assert (ask.suffix in ("yes", "是")) == (truth.number[0] > 0)
            elif ask.kind == "color":
                assert truth.number[0] == 1
                assert truth.color[0] != UNKNOWN
            elif ask.kind == "size":
                assert truth.number.tolist() == [1, 1]
            elif ask.kind == "relation":
                assert truth.number[0] == 1
            else:
                assert truth.number[0] == min(MANY, sum(thing.label == ask.names[0].label for thing in drawn.things))
    assert seen == set(wanted)


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_end_where_their_nouns_do(language: str) -> None:
    kinds = dict.fromkeys(("count", "presence", "color", "size", "relation", "detect"), 1.0)
    lengths = set()
    for seed in range(60):
        for ask in asks(draw_scene(seed, 64, "objects"), random.Random(seed), 6, kinds=kinds, languages={language: 1}):
            ends = name_ends(ask)
            lengths.add(len(ends))
            assert ends == sorted(set(ends))
            for name, end in zip(ask.names, ends, strict=True):
                noun = forms(name.label or "object", language)
                assert ask.prefix[:end].endswith((noun.one, noun.many, noun.of_the.split()[-1]))
                assert language == "zh" or not ask.prefix[end : end + 1].isalpha()
    assert lengths == {1, 2, 3}


def test_a_word_inside_another_is_no_name() -> None:
    made = scene(thing("hat", "red", 0.0))
    (ask,) = asks(made, random.Random(0), 1, kinds={"color": 1.0}, languages={"en": 1.0})
    assert ask.prefix == "answer en what color is the hat?"
    assert name_ends(ask) == [ask.prefix.index("?")]
