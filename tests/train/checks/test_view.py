import io
import re

from tests.train.first_rows import BOX, Spoilt, nano, stream, whole_row_learnt

from paligemma.train.checks.rows import rows_of
from paligemma.train.checks.view import LEGEND, as_text, lines, printable, show


def rows(*texts):
    return rows_of(stream(*texts, batch_size=2).micro_batches(0, 0, 1), nano().processor)


def test_letters_say_part_and_training():
    text = as_text(rows(("detect cat", BOX)))
    found = [line.split()[0] for line in text.splitlines()[1:4]]
    assert found == ["i", "p", "S"]
    assert re.search(r"S  <loc0100>\|<loc0200>\|<loc0900>\|<loc0800>\|·c.*t\|<eos>$", text, re.MULTILINE)
    assert text.endswith(LEGEND)


def test_trained_prompts_stand_out():
    spoilt = rows_of(Spoilt(whole_row_learnt).micro_batches(0, 0, 1), nano().processor)
    marked = [line.strip()[0] for line, _ in lines(spoilt[0])[1:]]
    assert marked[:3] == ["I", "P", "S"]
    assert [style for _, style in lines(spoilt[0])[1:3]] == ["bold white on red"] * 2


def test_padding_is_counted_apart():
    row = next(row for row in rows(("caption en", "a"), ("caption en", "a red cat and two dogs")) if row.of("pad"))
    length = len(row.tokens) - len(row.of("pad"))
    assert lines(row)[0][0].endswith(f"{length} tokens, {len(row.of('suffix'))} trained")
    assert lines(row)[-1][0] == f"  .  <pad> x {len(row.of('pad'))}"


def test_no_text_steers_the_terminal():
    assert printable("\x1b[2J \u202eb\n") == "<U+001B>[2J·<U+202E>b↵"
    assert "\x1b" not in as_text(rows(("caption en", "\x1b]0;title\x07")))


def test_colours_come_with_the_terminal_alone(monkeypatch):
    plain = io.StringIO()
    show(rows(), plain)
    assert "\x1b" not in plain.getvalue()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = io.StringIO()
    show(rows(), coloured)
    assert "\x1b[" in coloured.getvalue()
    assert LEGEND in plain.getvalue()
