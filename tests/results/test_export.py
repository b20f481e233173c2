"""Many answers into one file, and back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.results.made import detections, picture, segmented

from paligemma.errors import InputError, UsageError
from paligemma.results import Answer, Detections, Notice, export


def words(text="a cat", **more):
    return Answer(text=text, raw=text, task="ask", prompt="answer en what?", images=(picture(7, 5),), **more)


def test_json_lines_come_back(tmp_path):
    answers = [
        segmented(), words(warnings=(Notice("cut", "cut off", "x", 3),), paths=("b.png",)), detections(8, 8),
        words(tokens=(1, 2), logprobs=(-0.5, -0.25), finish_reason="repetition", score=0.25, model="nano"),
    ]  # fmt: skip
    path = export.write_jsonl(answers, tmp_path / "results.jsonl", with_tokens=True)
    again = list(export.read_jsonl(path))
    assert [type(answer) for answer in again] == [type(answer) for answer in answers]
    for old, new in zip(answers, again, strict=True):
        assert new.to_dict(with_tokens=True) == old.to_dict(with_tokens=True)
    assert again[0][0].mask.array().tolist() == answers[0][0].mask.array().tolist()
    assert again[0].paths == ("shots/a.png",)
    assert again[0].images == ()


def test_a_batch_jobs_lines_become_every_format(tmp_path):
    lines = export.write_jsonl([segmented(0), segmented(1)], tmp_path / "results.jsonl")
    before = export.to_coco([segmented(0), segmented(1)])
    assert export.to_coco(export.read_jsonl(lines)) == before
    for name, write in export.FORMATS.items():
        path = write(export.read_jsonl(lines), tmp_path / name)
        assert path.exists()
    assert json.loads((tmp_path / "coco").read_text()) == before


def test_tables_hold_one_kind_of_answer(tmp_path):
    text = export.write_csv([segmented(), detections(5, 5), segmented()], tmp_path / "a.csv").read_text()
    assert len(text.splitlines()) == 7
    text = export.write_csv(iter([words(), words("a dog")]), tmp_path / "b.csv").read_text()
    assert [line.split(",")[3] for line in text.splitlines()] == ["text", "a cat", "a dog"]
    assert export.write_csv([], tmp_path / "c.csv").read_text().startswith("image,label")
    with pytest.raises(UsageError, match="two tables"):
        export.write_csv([words(), segmented()], tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == text  # the old file is whole


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"text": 1}', '{"images": 3}', "null"])
def test_lines_that_are_no_answers_are_told(tmp_path, line):
    path = export.write_jsonl([words()], tmp_path / "a.jsonl")
    path.write_text(path.read_text() + line + "\n")
    lines = export.read_jsonl(path)
    assert next(lines).text == "a cat"
    with pytest.raises(InputError, match="line 2 of"):
        next(lines)


@given(st.text(), st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=3))
def test_any_boxes_come_back(label, corners):
    boxes = [(label, (min(a, c), min(b, d), max(a, c), max(b, d))) for a, b, c, d in corners]
    found = detections(1, 1, *boxes)
    again = export.from_dict(json.loads(found.to_json()))
    assert isinstance(again, Detections)
    assert again.to_dict() == found.to_dict()
