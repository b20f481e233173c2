import pytest

from paligemma.scenes.catalog import COLORS, LABELS
from paligemma.scenes.vocabulary import LANGUAGES, color_word, forms, listed


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_label_has_all_its_forms_in_every_color(language):
    seen = {}
    for label in (*LABELS, "object", "bar", "point", "slice", "row", "column", "line"):
        for color in (None, *COLORS):
            made = forms(label, language, color)
            assert len(made.groups) == 4
            assert made.groups[0] == made.a
            assert len(set(made.groups)) == 4
            for text in (made.one, made.many, made.a, made.the, made.of_the, made.how_many, *made.groups):
                assert text == text.strip()
                assert text
                assert "*" not in text
                assert "  " not in text
        if label in LABELS:
            seen[forms(label, language).one] = label
    assert len(seen) == len(LABELS), "no word means two things"


def test_no_word_means_different_things_in_two_languages():
    """`detect` names no language: its words must be enough."""
    meaning = {}
    for language in LANGUAGES:
        for label in LABELS:
            assert meaning.setdefault(forms(label, language).one, label) == label


@pytest.mark.parametrize("language", LANGUAGES)
def test_colors_have_different_names(language):
    assert len({color_word(color, language) for color in COLORS}) == len(COLORS)


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ["a red cat", "an orange boat", "an umbrella", "two white fish", "three yellow buses"]),
        ("de", ["eine rote Katze", "ein orange Boot", "ein Regenschirm", "zwei weiße Fische", "drei gelbe Busse"]),
        ("fr", ["un chat rouge", "un bateau orange", "un parapluie", "deux poissons blancs", "trois bus jaunes"]),
        ("es", ["un gato rojo", "un barco naranja", "un paraguas", "dos peces blancos", "tres autobuses amarillos"]),
        ("zh", ["一只红色的猫", "一艘橙色的船", "一把雨伞", "两条白色的鱼", "三辆黄色的公交车"]),
    ],
)
def test_agreement(language, said):
    asked = [
        ("cat", "red", 1),
        ("boat", "orange", 1),
        ("umbrella", None, 1),
        ("fish", "white", 2),
        ("bus", "yellow", 3),
    ]
    assert [forms(label, language, color).groups[count - 1] for label, color, count in asked] == said


@pytest.mark.parametrize(
    ("label", "color", "a", "the", "of_the", "many"),
    [
        ("dog", "red", "ein roter Hund", "der rote Hund", "dem roten Hund", "rote Hunde"),
        (
            *("turtle", "green", "eine grüne Schildkröte"),
            *("die grüne Schildkröte", "der grünen Schildkröte", "grüne Schildkröten"),
        ),
        ("house", "black", "ein schwarzes Haus", "das schwarze Haus", "dem schwarzen Haus", "schwarze Häuser"),
        ("hat", "purple", "ein lila Hut", "der lila Hut", "dem lila Hut", "lila Hüte"),
        ("heart", "pink", "ein rosa Herz", "das rosa Herz", "dem rosa Herzen", "rosa Herzen"),
        ("elephant", None, "ein Elefant", "der Elefant", "dem Elefanten", "Elefanten"),
    ],
)
def test_german_inflection(label, color, a, the, of_the, many):
    made = forms(label, "de", color)
    assert (made.a, made.the, made.of_the, made.many) == (a, the, of_the, many)
    assert made.how_many == f"wie viele {many}"


@pytest.mark.parametrize(
    ("label", "color", "a", "the", "of_the", "how_many"),
    [
        ("cat", "white", "un chat blanc", "le chat blanc", "du chat blanc", "combien de chats blancs"),
        (
            *("flower", "white", "une fleur blanche"),
            *("la fleur blanche", "de la fleur blanche", "combien de fleurs blanches"),
        ),
        (
            *("star", "purple", "une étoile violette"),
            *("l'étoile violette", "de l'étoile violette", "combien d'étoiles violettes"),
        ),
        (
            *("clock", "brown", "une horloge marron"),
            *("l'horloge marron", "de l'horloge marron", "combien d'horloges marron"),
        ),
        ("heart", "gray", "un cœur gris", "le cœur gris", "du cœur gris", "combien de cœurs gris"),
        ("bird", "blue", "un oiseau bleu", "l'oiseau bleu", "de l'oiseau bleu", "combien d'oiseaux bleus"),
    ],
)
def test_french_agreement_and_elision(label, color, a, the, of_the, how_many):
    made = forms(label, "fr", color)
    assert (made.a, made.the, made.of_the, made.how_many) == (a, the, of_the, how_many)


@pytest.mark.parametrize(
    ("label", "color", "a", "the", "of_the", "how_many"),
    [
        ("dog", "black", "un perro negro", "el perro negro", "del perro negro", "cuántos perros negros"),
        (
            *("key", "yellow", "una llave amarilla"),
            *("la llave amarilla", "de la llave amarilla", "cuántas llaves amarillas"),
        ),
        ("flower", "pink", "una flor rosa", "la flor rosa", "de la flor rosa", "cuántas flores rosa"),
        ("clock", "blue", "un reloj azul", "el reloj azul", "del reloj azul", "cuántos relojes azules"),
        ("house", "brown", "una casa marrón", "la casa marrón", "de la casa marrón", "cuántas casas marrones"),
    ],
)
def test_spanish_agreement(label, color, a, the, of_the, how_many):
    made = forms(label, "es", color)
    assert (made.a, made.the, made.of_the, made.how_many) == (a, the, of_the, how_many)


def test_chinese_measure_words():
    said = [forms(label, "zh", "black").groups[1] for label in ("book", "car", "elephant", "flower", "house", "apple")]
    assert said == [
        "两本黑色的书",
        "两辆黑色的汽车",
        "两头黑色的大象",
        "两朵黑色的花",
        "两座黑色的房子",
        "两个黑色的苹果",
    ]
    assert forms("row", "zh").groups[2] == "三行"
    assert forms("snake", "zh").how_many == "几条蛇"


def test_a_color_is_named_by_its_simplest_form():
    assert [color_word("green", language) for language in LANGUAGES] == ["green", "grün", "vert", "verde", "绿色"]
    assert [color_word("purple", language) for language in LANGUAGES] == ["purple", "lila", "violet", "morado", "紫色"]


def test_lists():
    assert [listed(["a", "b", "c"][:n], "en") for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert [listed(["a", "b", "c"], language) for language in LANGUAGES[1:]] == [
        "a, b und c",
        "a, b et c",
        "a, b y c",
        "a、b和c",
    ]
