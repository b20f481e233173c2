import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.data.formats import strict
from paligemma.data.rows import JsonLines
from paligemma.errors import InputError


def written(folder, data):
    file = folder / "rows.jsonl"
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.dictionaries(st.text(max_size=4), st.text(max_size=9), max_size=3)), min_size=1)
)
def test_every_row_is_found_by_number(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("rows")
    values = [*values, {"last": "ü"}]
    file = written(folder, "\n".join(" " if value is None else json.dumps(value) for value in values))
    rows = JsonLines(file)
    kept = [(number, value) for number, value in enumerate(values, 1) if value is not None]
    assert [rows[i] for i in range(len(rows))] == [value for _, value in kept]
    assert [rows.where(i) for i in range(len(rows))] == [f"rows.jsonl:{number}" for number, _ in kept]


def test_marks_of_other_systems_are_read_over(tmp_path):
    rows = JsonLines(written(tmp_path, b'\xef\xbb\xbf{"a": "1"}\r\n\r\n{"a": "2"}\r\n'))
    assert [rows[0], rows[1]] == [{"a": "1"}, {"a": "2"}]
    assert rows.where(1) == "rows.jsonl:3"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"[1]", "expected an object"),
        (b'{"a": 1', "no JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
    ],
)
def test_a_bad_line_is_told_when_it_is_asked_for(tmp_path, line, told):
    rows = JsonLines(written(tmp_path, b'{"a": "1"}\n' + line + b'\n{"a": "3"}\n'))
    assert (rows[0], rows[2]) == ({"a": "1"}, {"a": "3"})
    with pytest.raises(InputError, match=told):
        rows[1]


def test_a_huge_line_costs_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(strict, "MAX_LINE_BYTES", 1 << 16)
    file = tmp_path / "rows.jsonl"
    with open(file, "wb") as stream:
        stream.truncate(48 << 20)
        stream.seek(0, 2)
        stream.write(b'\n{"a": "2"}\n')
    tracemalloc.start()
    rows = JsonLines(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert rows[1] == {"a": "2"}
    with pytest.raises(InputError, match="longer than"):
        rows[0]


def test_many_rows_cost_eight_bytes_each(tmp_path):
    file = written(tmp_path, '{"a": "1"}\n' * 30_000)
    tracemalloc.start()
    rows = JsonLines(file)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rows) == 30_000
    assert kept < 300_000


def test_the_fingerprint_is_that_of_the_file(tmp_path):
    first = JsonLines(written(tmp_path, '{"a": "1"}\n')).fingerprint
    assert first == JsonLines(written(tmp_path, '{"a": "1"}\n')).fingerprint
    assert first != JsonLines(written(tmp_path, '{"a": "2"}\n')).fingerprint


@pytest.mark.parametrize("data", [b"", b"\n\n \n", b"\xef\xbb\xbf\n"])
def test_a_file_without_rows_is_refused(tmp_path, data):
    with pytest.raises(InputError, match="no rows"):
        JsonLines(written(tmp_path, data))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="no file"):
        JsonLines(tmp_path / "rows.jsonl")
