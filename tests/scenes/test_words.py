import random
import re

from paligemma.scenes.faces import CHARACTERS
from paligemma.scenes.words import LONGEST_LINE, MONTHS, WORDS, draw_line, draw_string, draw_texts, draw_word


def test_words_can_be_printed_and_differ():
    assert len(WORDS) >= 400
    assert len(set(WORDS)) == len(WORDS)
    for word in (*WORDS, *MONTHS):
        assert set(word) <= set(CHARACTERS)
        assert 3 <= len(word) <= 8


def test_words_strings_and_lines_keep_their_length():
    rng = random.Random(0)
    for _ in range(500):
        longest = rng.randint(4, 8)
        assert 1 <= len(draw_word(rng, longest)) <= longest
        assert 1 <= len(draw_string(rng, longest)) <= max(longest, 5)
        assert 1 <= len(draw_line(rng)) <= LONGEST_LINE


def test_lines_are_one_to_four_of_one_to_three_words_with_no_double_space():
    rng = random.Random(1)
    counts, words = set(), set()
    for _ in range(600):
        texts = draw_texts(rng)
        counts.add(len(texts))
        assert len(set(texts)) == len(texts)
        for text in texts:
            words.add(len(text.split(" ")))
            assert text == " ".join(text.split())
            assert set(text) <= {*CHARACTERS, " "}
    assert counts == {1, 2, 3, 4}
    assert words == {1, 2, 3}


def test_no_string_mixes_digits_with_a_letter_that_looks_like_one():
    rng = random.Random(2)
    strings = [draw_string(rng) for _ in range(3000)]
    for text in strings:
        if re.search(r"\d", text):
            assert not set("OI") & set(text)
    kinds = (r"[A-Z]+", r"\d+", r"\d+\.\d\d", r"(?=.*\d)(?=.*[A-Z])[A-Z\d]+", r"[A-Z\d]+-[A-Z\d]+")
    for kind in kinds:
        assert any(re.fullmatch(kind, text) for text in strings), kind
