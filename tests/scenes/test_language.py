import random
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from PIL import Image

from paligemma.errors import UsageError
from paligemma.scenes.catalog import COLORS, LABELS, MOTIONS
from paligemma.scenes.clips import draw_clip
from paligemma.scenes.language import (
    ASKERS,
    KINDS,
    LANGUAGE_SHARES,
    SHARES,
    Ask,
    asks,
    caption,
    clip_asks,
    location,
    right,
    scene_kind,
)
from paligemma.scenes.phrases import phrase
from paligemma.scenes.truth import Chart, Line, Scene, Table, Thing
from paligemma.scenes.vocabulary import LANGUAGES, color_word, forms
from paligemma.scenes.world import draw_scene

PICTURE = Image.new("RGB", (8, 8))
MASK = np.ones((8, 8), bool)
DAYS = ("MON", "TUE", "WED")


def thing(color: str, label: str, x: float = 0.2, y: float = 0.5, size: float = 0.2, hidden: float = 0.0) -> Thing:
    box = (y - size / 2, x - size / 2, y + size / 2, x + size / 2)
    return Thing(label=label, color=color, box=box, mask=MASK, hidden=hidden)


def scene(*things: Thing, texts: tuple[str, ...] = (), handwritten: bool = False) -> Scene:
    box = (0.1, 0.1, 0.2, 0.9)
    lines = tuple(
        Line(text=text, box=box, char_boxes=(box,) * len(text), font="plain", handwritten=handwritten) for text in texts
    )
    return Scene(image=PICTURE, things=things, lines=lines)


def seg(thing: Thing) -> str:
    return f"<seg{LABELS.index(thing.label):03d}>" * 16


@cache
def drawn(seed: int) -> Scene:
    return draw_scene(seed, 64)


def english(made: Scene, kind: str, count: int = 60) -> list[Ask]:
    return asks(made, random.Random(0), count, kinds={kind: 1.0}, languages={"en": 1.0})


@pytest.mark.parametrize(
    ("things", "said"),
    [
        ([thing("red", "cat")], "a red cat"),
        ([thing("orange", "cat"), thing("red", "boat")], "an orange cat and a red boat"),
        ([thing("red", "cat"), thing("blue", "boat"), thing("red", "cat")], "two red cats and a blue boat"),
        ([thing("red", "key"), thing("pink", "key"), thing("red", "hat")], "a red key, a pink key and a red hat"),
        ([thing("pink", "fish")] * 4, "four pink fish"),
    ],
)
def test_captions_of_things(things, said):
    assert caption(scene(*things), "en") == said
    assert caption(scene(*things, texts=("STOP",)), "en") == said


def test_captions_in_all_languages():
    made = scene(thing("red", "cat"), thing("white", "house", 0.6), thing("red", "cat", 0.9))
    assert [caption(made, language) for language in LANGUAGES] == [
        "two red cats and a white house",
        "zwei rote Katzen und ein weißes Haus",
        "deux chats rouges et une maison blanche",
        "dos gatos rojos y una casa blanca",
        "两只红色的猫和一座白色的房子",
    ]
    made = scene(texts=("SUN", "RAIN"))
    assert [caption(made, language) for language in LANGUAGES] == [
        "two lines of text",
        "zwei Zeilen Text",
        "deux lignes de texte",
        "dos líneas de texto",
        "两行字",
    ]
    assert caption(scene(texts=("7",), handwritten=True), "de") == "eine Zeile Handschrift"
    assert caption(scene(), "fr") == "rien"


def test_captions_of_charts_and_tables():
    table = Scene(image=PICTURE, table=Table(columns=("A", "B"), rows=("X", "Y", "Z"), cells=((1, 2), (3, 4), (5, 6))))
    assert [caption(table, language) for language in LANGUAGES] == [
        "a table with three rows and two columns",
        "eine Tabelle mit drei Zeilen und zwei Spalten",
        "un tableau avec trois lignes et deux colonnes",
        "una tabla con tres filas y dos columnas",
        "有三行和两列的表格",
    ]
    chart = Chart(kind="pie", title="RAIN", labels=("A", "B"), values=(1, 2), colors=("red", "blue"))
    assert caption(Scene(image=PICTURE, chart=chart), "de") == "ein Kreisdiagramm zu RAIN"


def test_locations_put_y_first_and_round_to_bins():
    assert location((0.0, 0.25, 0.5, 1.0)) == "<loc0000><loc0256><loc0512><loc1023>"


def test_detection_names_things_from_left_to_right_and_nothing_for_what_is_not_there():
    made = scene(thing("red", "cat", 0.2), thing("blue", "hat", 0.5), thing("green", "cat", 0.8))
    found, shares = asks(made, random.Random(0), 80, kinds={"detect": 1}, languages={"en": 1}), Counter()
    for ask in found:
        wanted = ask.prefix.removeprefix("detect ").split(" ; ")
        parts = [f"{location(t.box)} {t.label}" for t in made.things if t.label in wanted]
        assert ask.suffix == " ; ".join(parts)
        shares[len(parts)] += 1
    assert set(shares) == {0, 1, 2, 3}


def test_segmentation_has_the_mask_s_tokens_and_needs_a_codec():
    made = scene(thing("red", "cat"))
    (ask, *_) = asks(made, random.Random(1), 3, kinds={"segment": 1}, languages={"es": 1}, mask_tokens=seg)
    assert (ask.prefix, ask.suffix) == ("segment gato", f"{location(made.things[0].box)}{seg(made.things[0])} gato")
    assert asks(made, random.Random(1), 5, kinds={"segment": 1, "caption": 1}, languages={"en": 1}) == [
        Ask(kind="caption", language="en", prefix="caption en", suffix="a red cat")
    ]


def test_counts():
    made = scene(thing("red", "cat"), thing("blue", "cat"), thing("red", "key"))
    for ask in english(made, "count", 40):
        asked = re.fullmatch(r"answer en how many (.+) are there\?", ask.prefix)[1]
        color = next((color for color in COLORS if asked.startswith(f"{color} ")), None)
        noun = asked.removeprefix(f"{color} ")
        fits = [t for t in made.things if noun in ("objects", forms(t.label, "en").many) and color in (None, t.color)]
        assert ask.suffix == str(len(fits)), ask.prefix
    lines = scene(texts=("A", "B", "C"))
    assert [(a.prefix, a.suffix) for a in english(lines, "count", 2)] == [("answer en how many lines are there?", "3")]


def test_colors_are_asked_only_of_what_is_alone_of_its_kind():
    made = scene(thing("red", "cat"), thing("blue", "cat"), thing("gray", "key"))
    assert [(a.prefix, a.suffix) for a in english(made, "color")] == [("answer en what color is the key?", "gray")]
    assert english(scene(*made.things[:2]), "color") == []


def test_presence_says_yes_only_of_what_is_there():
    made = scene(thing("red", "cat"), thing("blue", "hat"))
    answers = Counter()
    for ask in english(made, "presence"):
        asked = re.fullmatch(r"answer en is there an? (.+)\?", ask.prefix)[1].split()
        there = any(t.label == asked[-1] and asked[:-1] in ([], [t.color]) for t in made.things)
        assert ask.suffix == ("yes" if there else "no")
        answers[ask.suffix] += 1
    assert answers["yes"] == 4
    assert answers["no"] > 10
    wrong = {"answer en is there a blue cat?", "answer en is there a red hat?"}
    assert wrong & {ask.prefix for ask in english(made, "presence", 200)}


def test_relations_follow_the_centres_and_are_not_asked_when_close():
    made = scene(thing("red", "cat", 0.2, 0.2), thing("blue", "hat", 0.5, 0.8), thing("pink", "key", 0.8, 0.75))
    said = {ask.prefix.removeprefix("answer en "): ask.suffix for ask in english(made, "relation", 200)}
    assert said["is the cat left of the hat?"] == "yes"
    assert said["is the key left of the hat?"] == "no"
    assert said["is the cat above the key?"] == "yes"
    assert said["is the hat above the cat?"] == "no"
    assert said["what is left of the hat?"] == "cat"
    assert said["what is right of the hat?"] == "key"
    close = ("is the key above the hat?", "is the hat below the key?", "what is above the hat?")
    several = ("what is left of the key?", "what is right of the cat?")
    nothing = ("what is left of the cat?", "what is above the cat?")
    assert not {*close, *several, *nothing} & set(said)
    twins = scene(thing("red", "cat", 0.2), thing("blue", "cat", 0.8))
    assert english(twins, "relation") == []


def test_sizes_differ_clearly_or_are_not_asked():
    made = scene(thing("red", "cat", size=0.4), thing("blue", "hat", size=0.2), thing("pink", "key", size=0.21))
    said = {ask.prefix.removeprefix("answer en "): ask.suffix for ask in english(made, "size", 200)}
    assert said["which is bigger, the cat or the hat?"] == "cat"
    assert said["which is bigger, the key or the cat?"] == "cat"
    assert said["which is smaller, the cat or the hat?"] == "hat"
    assert len(said) == 8
    hidden = scene(thing("red", "cat", size=0.4), thing("blue", "hat", size=0.2, hidden=0.3))
    assert english(hidden, "size") == []


def test_text_is_read_in_one_line_with_single_spaces():
    made = scene(texts=("BIG SALE", "7.50"))
    (ask,) = asks(made, random.Random(0), 5, kinds={"ocr": 1})
    assert ask == Ask(kind="ocr", language="", prefix="ocr", suffix="BIG SALE 7.50")
    said = {ask.prefix.removeprefix("answer en "): ask.suffix for ask in english(made, "read")}
    assert said == {
        "what is written?": "BIG SALE 7.50",
        "what is written at the top?": "BIG SALE",
        "what is written at the bottom?": "7.50",
    }
    nothing = [ask.suffix for ask in english(scene(thing("red", "cat")), "read")]
    assert nothing == ["nothing"]


def test_chart_questions():
    chart = Chart(
        kind="bar", title="RAIN", labels=("MON", "TUE", "WED"), values=(4, 9, 4), colors=("red", "blue", "red")
    )
    said = {
        a.prefix.removeprefix("answer en "): a.suffix for a in english(Scene(image=PICTURE, chart=chart), "chart", 300)
    }
    assert said == {
        "what is the value of MON?": "4",
        "what is the value of TUE?": "9",
        "what is the value of WED?": "4",
        "which has the highest value?": "TUE",
        "is MON higher than TUE?": "no",
        "is WED higher than TUE?": "no",
        "is TUE higher than MON?": "yes",
        "is TUE higher than WED?": "yes",
        "how many bars are there?": "3",
        "what is the title?": "RAIN",
        "what color is MON?": "red",
        "what color is TUE?": "blue",
        "what color is WED?": "red",
    }


def test_table_questions():
    table = Table(columns=("TEA", "NUT"), rows=("X", "Y"), cells=((1, 5), (3, 5)))
    asked = english(Scene(image=PICTURE, table=table), "table", 300)
    said = {ask.prefix.removeprefix("answer en "): ask.suffix for ask in asked}
    assert said == {
        "what is the value of TEA in X?": "1",
        "what is the value of TEA in Y?": "3",
        "what is the value of NUT in X?": "5",
        "what is the value of NUT in Y?": "5",
        "which row has the highest TEA?": "Y",
        "how many rows are there?": "2",
        "how many columns are there?": "2",
    }


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_all_languages_ask_and_answer_the_same(language):
    words = {forms(label, "en").one: forms(label, language).one for label in LABELS}
    words |= {color: color_word(color, language) for color in COLORS}
    words |= {phrase(key, "en"): phrase(key, language) for key in ("yes", "no", "nothing")}
    for seed in range(60):
        made = drawn(seed)
        first, second = (
            asks(made, random.Random(seed), 6, languages={spoken: 1.0}, mask_tokens=seg) for spoken in ("en", language)
        )
        assert [ask.kind for ask in first] == [ask.kind for ask in second]
        for ours, theirs in zip(first, second, strict=True):
            if ours.kind == "caption":
                assert (ours.suffix, theirs.suffix) == (caption(made, "en"), caption(made, language))
            elif ours.kind in ("detect", "segment"):
                parts = [part.rsplit(">", 1) for part in ours.suffix.split(" ; ") if part]
                said = " ; ".join(f"{places}> {words[name.strip()]}" for places, name in parts)
                assert theirs.suffix == said
            else:
                assert theirs.suffix == words.get(ours.suffix, ours.suffix)
            if ours.prefix.startswith("answer"):
                assert theirs.prefix.startswith(f"answer {language} ")


def test_questions_of_a_scene_differ_and_repeat_with_their_seed():
    for seed in range(60):
        made = drawn(seed)
        asked = asks(made, random.Random(seed), 5, mask_tokens=seg)
        assert len(asked) == len({ask.prefix for ask in asked}) == 5
        assert asked == asks(made, random.Random(seed), 5, mask_tokens=seg)
        assert {ask.kind for ask in asked} <= set(SHARES[scene_kind(made)])
        for ask in asked:
            assert "{" not in ask.prefix + ask.suffix
            assert ask.prefix == " ".join(ask.prefix.split())


def test_shares_of_kinds_and_languages():
    kinds, languages = Counter(), Counter()
    made = scene(thing("red", "cat"), thing("blue", "hat", 0.6, size=0.4))
    for seed in range(800):
        (ask,) = asks(made, random.Random(seed), 1, mask_tokens=seg)
        kinds[ask.kind] += 1
        languages[ask.language] += ask.kind != "ocr"
    total = sum(languages.values())
    for language, share in LANGUAGE_SHARES.items():
        assert languages[language] / total == pytest.approx(share, abs=0.05)
    for kind, share in SHARES["objects"].items():
        assert kinds[kind] / 800 == pytest.approx(share, abs=0.05)
    assert all(sum(shares.values()) == pytest.approx(1) for shares in SHARES.values())
    assert {kind for shares in SHARES.values() for kind in shares} == set(KINDS) == {*ASKERS, "segment"}


def test_a_question_s_kind_and_language_can_be_chosen():
    made = scene(thing("red", "cat"))
    (ask,) = asks(made, random.Random(0), 4, kinds={"caption": 1}, languages={"zh": 1})
    assert (ask.prefix, ask.suffix) == ("caption zh", "一只红色的猫")
    with pytest.raises(UsageError, match="did you mean 'caption'"):
        asks(made, random.Random(0), 1, kinds={"captoin": 1})
    with pytest.raises(UsageError, match="language 'it'"):
        asks(made, random.Random(0), 1, languages={"it": 1})


def test_scene_kinds():
    cat = thing("red", "cat")
    made = (scene(cat), scene(cat, texts=("A",)), scene(texts=("A",)), scene(texts=("A",), handwritten=True), scene())
    assert [scene_kind(one) for one in made] == ["objects", "objects and text", "text", "hand", "objects"]
    assert {scene_kind(drawn(seed)) for seed in range(60)} == set(SHARES)


def test_clips():
    for seed in range(20):
        clip = draw_clip(seed, 32)
        assert clip.motion in MOTIONS
        asked = clip_asks(clip, random.Random(seed), 2, {"en": 1})
        does = next(ask.suffix for ask in asked if ask.kind == "motion")
        said = {ask.prefix: ask.suffix for ask in asked}
        article = "an" if clip.color[0] in "aeiou" else "a"
        assert said == {
            f"answer en what does the {clip.label} do?": does,
            "caption en": f"{article} {clip.color} {clip.label} {does}",
        }
        assert clip.motion[:4] in does
    zh = clip_asks(draw_clip(0, 32), random.Random(0), 4, {"zh": 1})
    assert all(" " not in ask.suffix for ask in zh)


def test_right_ignores_case_and_outer_spaces():
    ask = Ask(kind="count", language="en", prefix="x", suffix="Two Cats")
    assert right(ask, " two cats\n")
    assert not right(ask, "two  cats")
    assert not right(ask, "two cat")
