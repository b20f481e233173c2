import json
import re

import numpy as np
import pytest
from PIL import Image

from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.metrics.detection import match
from paligemma.results import Answer
from paligemma.train.judging.benchmark import Report
from paligemma.train.judging.grading import METRICS, OF_BOXES, OF_CLIPS, Grade, Question
from paligemma.train.judging.report_page import WHAT, compared, markdown, read_report, save_report


def graded(metric, language, right, label="", kind="k"):
    found = match([[0, 0, 1, 1]], [0.9], [[0, 0, 1, 1]] if right else [[2, 2, 3, 3]]) if metric == "ap50" else None
    return Grade(
        metric=metric, kind=kind, language=language, source="s", right=right, of=1, label=label, match=found
    )  # fmt: skip


@pytest.fixture
def report():
    image = Image.fromarray(np.zeros((60, 60, 3), np.uint8))
    question = Question(id="scenes:1", images=(image,), prefix="caption de", suffix="eine Katze")
    answer = Answer(text="ein Hund", raw="ein Hund", task="caption", prompt="caption de", images=(image,))
    grades = (
        graded("caption_exact", "de", 1.0, kind="objects"), graded("caption_exact", "en", 0.0, kind="text"),
        graded("ap50", "en", 1.0, "cat"), graded("ap50", "en", 0.0, "dog"), graded("miou", "en", 0.25, "cat"),
    )  # fmt: skip
    return Report(
        model="mine", task="scenes", facts={"seed": 3, "kinds": ["caption", "detect"]}, questions=4, seconds=1.2,
        grades=grades, shown=((question, answer),),
    )  # fmt: skip


def test_tables(report):
    page = markdown(report)
    assert page.startswith("# mine on scenes\n\nseed 3, kinds caption, detect, questions 4, seconds 1.\n")
    assert "| `caption_exact` | captions right word for word | 50.0 % | 2 |" in page
    assert "| figure | de | en |" in page
    assert "| `caption_exact` | 100.0 % | 0.0 % |" in page
    assert "| `miou` |  | 25.0 % |" in page
    assert "## `caption_exact` by kind" in page
    assert "## `ap50` by kind" not in page  # there is one only
    assert "| class | `ap50` | of | `miou` | of |" in page
    assert "| cat | 100.0 % | 1 | 25.0 % | 1 |" in page
    assert "| dog | 0.0 % | 1 |  |  |" in page


def test_every_figure_is_explained():
    assert set(WHAT) == {*METRICS.values(), OF_CLIPS, *OF_BOXES}


def test_a_folder(report, tmp_path):
    page = save_report(report, tmp_path / "out")
    assert page == tmp_path / "out" / "report.md"
    assert json.loads((tmp_path / "out" / "report.json").read_text())["n"]["ap50"] == 2
    (picture,) = re.findall(r"!\[caption\]\((.*)\)", page.read_text())
    assert picture == "pictures/00-caption.png"
    assert (page.parent / picture).is_file()


def test_a_file_keeps_its_pictures_apart(report, tmp_path):
    page = save_report(report, tmp_path / "docs" / "nano.md")
    assert (tmp_path / "docs" / "nano.json").is_file()
    assert "![caption](nano_pictures/00-caption.png)" in page.read_text()
    assert (tmp_path / "docs" / "nano_pictures" / "00-caption.png").is_file()


def test_a_place_that_cannot_be_written(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        save_report(report, tmp_path / "file" / "out")


def test_models_side_by_side(report, tmp_path):
    first = read_report(save_report(report, tmp_path / "first").with_suffix(".json"))
    second = {**first, "model": "other", "ap50": 0.75, "by_language": {}}
    head, rows = compared([first, second])
    assert head == ["figure", "mine", "other"]
    assert ["ap50", "0.500", "0.750"] in rows
    assert ["caption_exact de", "1.000", ""] in rows
    page = save_report(report, tmp_path / "both", [second]).read_text()
    assert "## Beside others" in page
    assert "| figure | other | mine |" in page
    with pytest.raises(UsageError, match="seed is 3 and 4; evaluate one of them again"):
        compared([first, {**second, "seed": 4}])


@pytest.mark.parametrize("text", ["", "[]", '{"model": "a"}', '{"model": "a", "task": "b", "n": 1, "by_language": {}}'])
def test_a_file_that_is_no_report(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"x.json is no report of an evaluation"):
        read_report(tmp_path / "x.json")
    with pytest.raises(InputError, match="no report"):
        read_report(tmp_path / "gone.json")
