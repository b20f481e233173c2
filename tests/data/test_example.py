import pytest

from paligemma.data.example import Example
from paligemma.tokenizer import LOCATIONS


@pytest.mark.parametrize(
    ("prefix", "boxed"),
    [
        ("detect cat", True),
        ("segment cat ; dog", True),
        ("caption <loc0000><loc0000><loc0100><loc0100>", True),
        ("caption en", False),
        ("answer en what does <loc mean?", True),
        ("ocr", False),
        ("", False),
    ],
)
def test_places_are_spelled_where_the_prompt_speaks_of_them(prefix, boxed):
    example = Example(id="a", images=(), prefix=prefix, suffix="<loc0001>")
    assert example.allow == (frozenset({LOCATIONS}) if boxed else frozenset())


def test_an_example_cannot_be_changed():
    example = Example(id="a", images=(), prefix="caption en", suffix="a cat")
    with pytest.raises(AttributeError):
        example.suffix = "a dog"
    assert example.source == ""
