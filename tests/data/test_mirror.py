import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.data.mirror import mirrored


@pytest.mark.parametrize(
    ("text", "other", "language"),
    [
        ("the cat on the left", "the cat on the right", "en"),
        ("Left of the leftmost boat", "Right of the rightmost boat", "en"),
        ("the left-hand cup, upright and bright", "the right-hand cup, upright and bright", "en"),
        ("LEFT or right?", "RIGHT or left?", "en"),
        ("links von der linken Katze", "rechts von der rechten Katze", "de"),
        ("le chat à gauche du bateau, à droite du mur", "le chat à droite du bateau, à gauche du mur", "fr"),
        ("el gato izquierdo a la derecha", "el gato derecho a la izquierda", "es"),
        ("左边的猫在右面", "右边的猫在左面", "zh"),
        ("answer en was ist rechts?", "answer en was ist links?", "en"),
        ("two red cats and a blue boat", "two red cats and a blue boat", "en"),
    ],
)
def test_sides_are_exchanged(text, other, language):
    assert mirrored(text, language) == other


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("what word is on the sign?", "en"),
        ("which digit is this?", "en"),
        ("answer de was steht auf dem Schild?", "de"),
        ("quel mot est écrit ici", "fr"),
        ("qué palabra es", "es"),
        ("写着什么字", "zh"),
        ("the wheel turns clockwise", "en"),
        ("le côté droit", "fr"),
        ("un bras gauche", "fr"),
        ("大约十个左右", "zh"),
        ("golf links", "en"),
        ("that is all right", "en"),
    ],
)
def test_what_is_not_sure_stays(text, language):
    assert mirrored(text, language) is None


@given(st.lists(st.sampled_from(["cat", "left", "right", "Left", "RIGHT", "izquierda", "rechts", "左", "à droite"])))
def test_the_mirror_of_the_mirror_is_the_text(words):
    text = " ".join(words)
    there = mirrored(text, "de")
    assert there is not None
    assert mirrored(there, "de") == text


@given(st.text())
def test_any_text_is_answered(text):
    assert mirrored(text) is None or len(mirrored(text)) > 0 or text == ""
