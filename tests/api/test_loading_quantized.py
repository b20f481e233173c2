"""load(quantize=...): the bundled model in fewer bits says the same, and says how far its matrices are off."""

import pytest

import paligemma
from paligemma.errors import UsageError

PICTURE = "examples/scene.png"


@pytest.fixture(scope="module")
def plain():
    return paligemma.load()


@pytest.mark.parametrize("quantize", ["int8", "int4", "nf4", {"lm": "int4", "head": "int8"}])
def test_the_same_answers(plain, quantize):
    model = paligemma.load(quantize=quantize)
    question = "how many cats are there?"
    assert str(model.ask(PICTURE, question)) == str(plain.ask(PICTURE, question))
    found, expected = model.detect(PICTURE, ["cat"]), plain.detect(PICTURE, ["cat"])
    assert len(found) == len(expected)
    assert model.packed is not None
    assert all(row.error < 0.12 for row in model.packed.rows)
    assert f"{len(model.packed.rows)} matrices" in str(model.packed)
    assert model.dtype == plain.dtype


def test_unquantised_it_says_nothing(plain):
    assert plain.packed is None


def test_another_word_is_refused():
    with pytest.raises(UsageError, match="int5"):
        paligemma.load(quantize="int5")
