import io
import json
import threading

import pytest
from PIL import Image

from paligemma.errors import InputError, UsageError
from paligemma.interfaces.webui.answer import MAX_WORDS, Asked, Asker, NothingToAsk, png, show, show_error
from paligemma.interfaces.webui.words import CHINESE, ENGLISH
from paligemma.results import Answer, Notice

PICTURE = Image.new("RGB", (64, 48), (10, 20, 30))


def asked(task="caption", picture=PICTURE, **more):
    return Asked(task=task, picture=picture, **more)


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [
        (asked("caption", language="de", style="cap"), "cap de"),
        (asked("ask", words="how many?", language="zh"), "answer zh how many?"),
        (asked("ocr", words="left over"), "ocr"),
        (asked("generate", words="caption fr"), "caption fr"),
    ],
)
def test_text_comes_in_pieces_and_then_whole(fake, request_, prompt):
    *pieces, answer = Asker(fake)(request_, ENGLISH)
    assert "".join(pieces) == answer.text == "10,20,30"
    assert answer.prompt == prompt
    assert fake.asked[0][2] == {"max_tokens": None}


@pytest.mark.parametrize("request_", [asked("detect", words="cat"), asked("generate", words=" detect cat")])
def test_boxes_come_at_once(fake, request_):
    (answer,) = Asker(fake)(request_, ENGLISH)
    assert [box.score for box in answer] == [0.9, 0.3]


def test_an_upload_is_read_with_our_own_limits(fake):
    (*_, answer) = Asker(fake)(asked(picture=png(PICTURE), max_tokens=7), ENGLISH)
    assert answer.text == "10,20,30"
    assert fake.asked[0][2] == {"max_tokens": 7}
    with pytest.raises(InputError, match=r"the image is a PDF"):
        list(Asker(fake)(asked(picture=b"%PDF-1.7 ..."), ENGLISH))


@pytest.mark.parametrize("words", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_what_is_missing_is_said_in_the_pages_language(fake, words):
    with pytest.raises(NothingToAsk, match=words.no_picture[:10]):
        list(Asker(fake)(asked(picture=None), words))
    for task, sentence in words.no_words.items():
        with pytest.raises(NothingToAsk) as raised:
            list(Asker(fake)(asked(task, words=" ; "), words))
        assert str(raised.value) == sentence
    assert fake.asked == []


def test_endless_words_are_refused_before_they_are_read(fake):
    with pytest.raises(UsageError, match="8193 characters"):
        list(Asker(fake)(asked("ask", words="a" * (MAX_WORDS + 1)), ENGLISH))


def test_two_pages_take_turns_and_a_page_that_went_away_blocks_nobody(fake):
    asker = Asker(fake)
    left = asker(asked(), ENGLISH)
    next(left)  # a page that is never read on
    done = []
    other = threading.Thread(target=lambda: done.extend(asker(asked(), ENGLISH)))
    other.start()
    other.join(10)
    assert len(done) == 3


def test_text_is_shown_as_text(fake):
    (*_, answer) = Asker(fake)(asked(), ENGLISH)
    shown = show(answer, 0.5, ENGLISH)
    assert (shown.text, shown.raw) == ("10,20,30", " 10,20,30")
    assert not shown.in_boxes
    assert not shown.has_scores
    assert shown.rows == []
    assert "3 tokens" in shown.status
    assert "0.25 s" in shown.status
    assert json.loads(shown.json)["text"] == "10,20,30"


def test_the_least_score_hides_boxes_without_asking_again(fake):
    (answer,) = Asker(fake)(asked("detect", words="cat"), ENGLISH)
    everything, few, none = (show(answer, least, ENGLISH) for least in (0.0, 0.5, 1.0))
    assert [row[0] for row in everything.rows] == ["cat <b>", "dog"]
    assert few.rows == [["cat <b>", "0.90", 13, 5, 38, 24]]
    assert none.rows == []
    assert few.has_scores
    assert few.raw == everything.raw
    assert "1 below the minimum score" in few.status
    assert [len(json.loads(shown.json)["boxes"]) for shown in (everything, few, none)] == [2, 1, 0]
    assert len({shown.drawn.tobytes() for shown in (everything, few, none)}) == 3
    assert len(fake.asked) == 1


def test_truncation_is_said_in_both_languages(fake):
    (answer,) = Asker(fake)(asked("detect", words="cat"), ENGLISH)
    assert "cut at 3 tokens" in show(answer, 0, ENGLISH).status
    assert CHINESE.notices["truncated"].replace("{}", "3") in show(answer, 0, CHINESE).status


def test_nothing_a_model_says_becomes_markup():
    evil = "<script>{0}</script>"
    answer = Answer(
        text=evil,
        raw=evil,
        task="ask",
        prompt="x",
        images=(PICTURE,),
        warnings=(Notice("odd", evil), Notice("odd", evil)),
    )
    for words in (ENGLISH, CHINESE):
        status = show(answer, 0, words).status
        assert "<script" not in status
        assert status.count("&lt;script&gt;{0}") == 1


def test_errors_are_one_sentence(broken, capfd):
    with pytest.raises(UsageError) as raised:
        list(Asker(broken)(asked(), ENGLISH))
    assert "found &lt;nothing&gt;" in show_error(raised.value, CHINESE).status
    bug = show_error(ZeroDivisionError("secret"), ENGLISH).status
    assert 'role="alert"' in bug
    assert "ZeroDivisionError" in bug
    assert "secret" not in bug
    assert "secret" in capfd.readouterr().err


def test_a_picture_becomes_a_lossless_file():
    assert Image.open(io.BytesIO(png(PICTURE))).convert("RGB").tobytes() == PICTURE.tobytes()
