"""CSV read back is what was found."""

import csv
import io

import pytest
from tests.results.made import picture, segmented

from paligemma.results import Answer
from paligemma.results.tables import ANSWER_COLUMNS, OBJECT_COLUMNS, answer_row, object_rows, table, write_table


def test_objects_read_back():
    found = segmented()
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert tuple(rows[0]) == OBJECT_COLUMNS
    assert [row["label"] for row in rows] == found.labels.tolist()
    assert [row["score"] for row in rows] == ["0.9", "0.25", ""]
    assert [float(rows[2][name]) for name in ("left", "top", "right", "bottom")] == [30, 10, 60, 30]
    assert rows[0]["image"] == "shots/a.png"
    assert [row["mask_area_px"] for row in rows] == [str(found[0].mask.area_px), str(found[1].mask.area_px), ""]
    assert {(row["image_width"], row["image_height"]) for row in rows} == {("60", "40")}


def test_an_answer_in_words_reads_back_whatever_it_says():
    text = 'two "cats",\nand a dog'
    answer = Answer(text=text, raw=text, task="ask", prompt="what, then?", score=0.5, images=(picture(4, 4),))
    row = next(csv.DictReader(io.StringIO(answer.to_csv(), newline="")))
    assert (row["text"], row["prompt"], row["score"], row["finish_reason"]) == (text, "what, then?", "0.5", "stop")
    assert (row["image"], row["task"]) == ("image-000001.png", "ask")


def test_a_file_equals_the_text(tmp_path):
    found = segmented()
    path = write_table(OBJECT_COLUMNS, object_rows(found), tmp_path / "a.csv")
    assert path.read_text(encoding="utf-8") == table(OBJECT_COLUMNS, object_rows(found)) == found.to_csv()
    assert len(ANSWER_COLUMNS) == len(answer_row(found))


@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1+2", "'=1+2"), ("@SUM(A1)", "'@SUM(A1)"), ("-cmd", "'-cmd"), ("-5", "-5"), ("+3.5", "+3.5"), ("a=b", "a=b")],
)
def test_a_spreadsheet_runs_nothing_that_stood_in_a_picture(text, cell, tmp_path):
    answer = Answer(text=text, raw=text, task="ocr", prompt="ocr", images=(picture(4, 4),))
    assert next(csv.DictReader(io.StringIO(answer.to_csv())))["text"] == cell
    written = write_table(ANSWER_COLUMNS, [answer_row(answer)], tmp_path / "a.csv").read_text()
    assert next(csv.DictReader(io.StringIO(written)))["text"] == cell
