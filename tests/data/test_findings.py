import json

import pytest

from paligemma.data.findings import LISTED, SEVERITIES, Finding, Findings


def finding(code, index=0):
    return Finding(code=code, field="suffix", why="it is wrong", fix="mend it", row=f"a:{index}", index=index)


def test_all_are_counted_and_the_first_are_kept():
    found = Findings(source="a", total=1000)
    for index in range(LISTED + 30):
        found.add(finding("too_long", index))
    found.add(finding("duplicate"))
    found.add(Finding(code="one_answer", field="suffix", why="alike", fix="balance"))
    assert (found.errors, found.warnings) == (LISTED + 30, 2)
    assert sum(one.code == "too_long" for one in found.listed) == LISTED
    assert list(found.bad) == list(range(LISTED + 30))


def test_the_report_says_all_of_it():
    found = Findings(source="a", total=9, max_tokens=20, rows=9)
    found.add(finding("duplicate", 1))
    found.add(finding("too_long", 2))
    found.tokens.update([5, 5, 9, 25])
    found.labels.update(["cat", "cat", "dog"])
    found.answers, found.alike, found.sides_px = {"caption": 0.25}, {"caption": 0.5}, (8, 90, 20, 30)
    text = found.to_text()
    assert text.splitlines()[0] == "a: 9 rows looked at, 1 errors in 1 rows, 1 warnings"
    assert text.index("error too_long: 1") < text.index("a:2: suffix: it is wrong; mend it") < text.index("warning dup")
    for part in ("2 labels: cat 2, dog 1", "25%", "50%", "at most 25; the limit is 20", "from 8 to 90 px"):
        assert part in text
    assert json.loads(json.dumps(found.to_dict()))["tokens"]["histogram"] == {"5": 2, "9": 1, "25": 1}


@pytest.mark.parametrize(("total", "told"), [(None, "of endlessly many"), (50, "of 50"), (3, "3 rows looked at")])
def test_how_much_was_looked_at(total, told):
    assert told in Findings(source="a", total=total, rows=3).to_text()


def test_rejects_are_written_once_per_row(tmp_path):
    found = Findings(source="a", total=9)
    for one in (finding("too_long", 3), finding("bad_boxes", 3), finding("duplicate", 4), finding("bad_row", 5)):
        found.add(one)
    lines = found.write_rejects(tmp_path / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"where": "a:3", "why": "suffix: it is wrong; mend it"},
        {"where": "a:5", "why": "suffix: it is wrong; mend it"},
    ]


def test_every_code_is_an_error_or_a_warning():
    assert set(SEVERITIES.values()) == {"error", "warning"}
