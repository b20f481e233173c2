import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.data.formats import strict
from paligemma.errors import InputError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.integers(-(10**17), 10**17),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_whatever_json_writes_is_read(value):
    assert strict.parse_json(json.dumps(value)) == value


@given(st.text())
def test_no_text_ends_otherwise_than_in_a_value_or_a_sentence(text):
    with suppress(InputError):
        strict.parse_json(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        ("[NaN]", "found NaN"),
        ("[-Infinity]", "found -Infinity"),
        ("9" * 19, "19 digits"),
        ("-" + "9" * 19, "19 digits"),
        ("9" * 10_000, "10000 digits"),
        ("[" * 200_000, "nested too deep"),
        ('{"a": ' * 200_000, "nested too deep"),
        ('"\0"', "no JSON"),
        (r'["\ud83d"]', "half a character"),
        ("", "no JSON"),
    ],
)
def test_what_two_readers_could_read_in_two_ways(text, said):
    with pytest.raises(InputError, match=said):
        strict.parse_json(text)


def test_characters_in_two_halves_are_whole():
    assert strict.parse_json(r'"\ud83d\ude00"') == "\U0001f600"


def test_lines_end_in_any_way(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf1\r\n\n  \n2\n3")
    assert list(strict.lines(file)) == [(1, b"1"), (4, b"2"), (5, b"3")]


def test_a_line_without_end_takes_no_memory(tmp_path):
    """The file is a hole of 160 MiB; a reader that held it would need as much."""
    import resource

    file = tmp_path / "a.jsonl"
    with open(file, "wb") as stream:
        stream.write(b"1\n")
        stream.seek(160 << 20)
        stream.write(b"\n2\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert list(strict.lines(file)) == [(1, b"1"), (2, None), (3, b"2")]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80 << 10  # KiB
    with pytest.raises(InputError, match="longer than 16 MiB"):
        strict.line_text(None)


def test_text_is_utf_8(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffé".encode())
    assert strict.read_text(file) == "é"
    file.write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.txt is no UTF-8 text \(byte 0\)"):
        strict.read_text(file)
    file.write_text("x", encoding="utf-16")
    with pytest.raises(InputError, match="no UTF-8"):
        strict.read_text(file)


def test_files_that_are_none(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        for use in (strict.read_bytes, lambda path: list(strict.lines(path))):
            with pytest.raises(InputError, match="there is no file"):
                use(path)
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(InputError, match="has 5 bytes, at most 4"):
        strict.read_bytes(tmp_path / "a", limit=4)
