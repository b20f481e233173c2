import string

import pytest

from paligemma.scenes.catalog import MOTIONS
from paligemma.scenes.phrases import _PHRASES, motion_phrase, phrase
from paligemma.scenes.vocabulary import LANGUAGES, forms


def fields(text: str) -> set[str]:
    return {name.split(".")[0] for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", _PHRASES)
def test_a_phrase_says_the_same_in_all_languages(key):
    texts = _PHRASES[key]
    assert len(texts) == len(LANGUAGES)
    assert len({frozenset(fields(text)) for text in texts}) == 1
    assert len({text[-1] in "?？" for text in texts}) == 1, "a question in all languages or in none"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_phrases_of_a_language_are_the_same(language):
    texts = [texts[LANGUAGES.index(language)] for key, texts in _PHRASES.items() if key not in ("yes", "no")]
    assert len(set(texts)) == len(texts)


def test_words_are_filled_in():
    cat, dog = (tuple(forms(label, language) for language in LANGUAGES) for label in ("cat", "dog"))
    said = [phrase("is left", language, x=cat[k], y=dog[k]) for k, language in enumerate(LANGUAGES)]
    assert said == [
        "is the cat left of the dog?",
        "ist die Katze links von dem Hund?",
        "est-ce que le chat est à gauche du chien ?",
        "¿está el gato a la izquierda del perro?",
        "猫在狗的左边吗？",
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_motion_has_its_words(language):
    assert len({motion_phrase(motion, language) for motion in MOTIONS}) == len(MOTIONS)
