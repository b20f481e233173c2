"""Text is drawn by a font that has it, in lines that fit."""

from hypothesis import given
from hypothesis import strategies as st

from paligemma.results import lettering
from paligemma.results.drawing import COLORS


def test_labels_are_readable_with_any_fonts(monkeypatch):
    def has_glyph(name, character):
        return character.isascii() or (name == "DejaVuSans.ttf" and character == "\u00e9")

    monkeypatch.setattr(lettering, "_has_glyph", has_glyph)
    monkeypatch.setattr(lettering, "named_font", lambda name, size: name if name in ("", "DejaVuSans.ttf") else None)
    lettering._best_font.cache_clear()
    assert lettering.readable("cat", 14) == ("cat", "")
    assert lettering.readable("\u00e9t\u00e9 \u732b", 14) == ("\u00e9t\u00e9 \u732b", "DejaVuSans.ttf")
    lettering._best_font.cache_clear()
    monkeypatch.setattr(lettering, "named_font", lambda name, size: None if name else "")
    assert lettering.readable("\u00e9t\u00e9", 14) == ("ete", "")
    assert not lettering.drawable("\u732b")
    assert lettering.drawable("cat")
    monkeypatch.undo()
    lettering._best_font.cache_clear()


def test_pillows_own_font_has_no_chinese_and_is_known_to_lack_it():
    assert lettering._has_glyph("", "a")
    assert not lettering._has_glyph("", "\u732b")
    assert not lettering._has_glyph("", "\u093f")


@given(st.text(max_size=60), st.integers(20, 200))
def test_lines_and_short_forms_are_no_wider_than_asked(text, most):
    text, font = lettering.readable(text, 14)
    for line in lettering.wrapped(text, font, most, 9):
        assert lettering.width(line, font) <= most or len(line) <= 3
    assert len(lettering.wrapped(text, font, most, 9)) <= 9
    one_line = " ".join(text.split())
    short = lettering.shortened(one_line, font, most)
    assert lettering.width(short, font) <= most or short == "..."
    assert short == one_line or short.endswith("...")


def test_letters_stand_out_on_every_colour():
    assert lettering.text_color((255, 255, 255)) == lettering.text_color(COLORS[2]) == lettering.DARK
    assert lettering.text_color((0, 0, 0)) == lettering.text_color((120, 20, 20)) == lettering.LIGHT
