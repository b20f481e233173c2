import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.interfaces.cli import formats
from paligemma.interfaces.cli.formats import BOXES_ONLY, WRITERS, Outcome, Target, boxes_table, check
from paligemma.interfaces.cli.sources import Item
from paligemma.results import Answer, Box, Detections, Mask


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Ready:
    """Outcomes made beforehand, as `answering.Asked` would give them."""

    def __init__(self, *outcomes, several=True, stopped=None):
        self.outcomes, self.several, self.stopped = outcomes, several, None
        self.task = next((o.found.task for o in outcomes if o.found), "caption")
        self.failed = sum(o.error is not None for o in outcomes)
        self._stopped = stopped

    def __iter__(self):
        yield from self.outcomes
        self.stopped = self._stopped


def text(name, said, **item):
    image = Image.new("RGB", (40, 30))
    answer = Answer(text=said, raw=said, task="caption", prompt="caption en", images=(image,), paths=(name,))
    return Outcome(Item(name=name, pictures=(name,), place=name, **item), answer)


def boxes(name, *labels, score=None, mask=False):
    import numpy as np

    covered = np.zeros((30, 40), bool)
    covered[10:20, 5:25] = True
    found = [
        Box(
            label=label, box_yxyx_norm=(1 / 3, 1 / 8, 2 / 3, 5 / 8), image_size_px=(40, 30), score=score,
            mask=Mask.from_array(covered) if mask else None,
        )
        for label in labels
    ]  # fmt: skip
    answer = Detections(
        text=" ; ".join(labels), raw="<loc0001>", task="segment" if mask else "detect", prompt="detect x",
        boxes=tuple(found), image_size_px=(40, 30), images=(Image.new("RGB", (40, 30)),), paths=(name,),
    )  # fmt: skip
    return Outcome(Item(name=name, pictures=(name,), place=name), answer)


def bad(name):
    return Outcome(Item(name=name), error=InputError(f"{name} is broken"))


def printed(capsys, kind, *outcomes, **more):
    WRITERS[kind](Ready(*outcomes, **more), Target())
    return capsys.readouterr().out


def test_texts_stand_alone_or_after_their_names(capsys):
    assert printed(capsys, "table", text("a.png", "a cat"), several=False) == "a cat\n"
    several = printed(capsys, "table", text("a.png", "a cat"), bad("b.png"), text("c.png", "two\nlines"))
    assert several == "a.png: a cat\nc.png:\ntwo\nlines\n"


def test_a_frame_is_told_with_its_time(capsys):
    frame = text("film.mp4", "a cat", facts={"frame": 30, "time_s": 1.0})
    assert printed(capsys, "table", frame) == "film.mp4 at 1.00 s: a cat\n"


def test_raw_is_what_the_model_wrote(capsys):
    assert printed(capsys, "raw", boxes("a.png", "cat"), several=False) == "<loc0001>\n"


def test_a_table_of_boxes_has_the_columns_it_needs():
    def columns(outcome):
        head, *rows = boxes_table(outcome.found, io.StringIO()).splitlines()
        return head.split(), [row.split() for row in rows]

    assert columns(boxes("a", "狗")) == (["label", "left", "top", "right", "bottom"], [["狗", "5", "10", "25", "20"]])
    assert columns(boxes("a", "", score=0.876)) == (
        ["label", "score", "left", "top", "right", "bottom"],
        [["-", "0.88", "5", "10", "25", "20"]],
    )
    assert columns(boxes("a", "x", mask=True))[1][0][-1] == "200"
    assert boxes_table(boxes("a").found, io.StringIO()) == "nothing found"


def test_a_terminal_gets_colours_of_ours_but_none_of_the_models(open_terminal, monkeypatch):
    monkeypatch.delenv("NO_COLOR")
    written = open_terminal()
    WRITERS["table"](Ready(text("a\x1b[2J.png", "red\x1b[31m"), boxes("b.png", "\x1b[5mcat")), Target())
    shown = written()
    assert shown.startswith("\x1b[36ma[2J.png:\x1b[0m red[31m\n\x1b[36mb.png:\x1b[0m\n\x1b[1mlabel")
    assert "\x1b[5m" not in shown
    monkeypatch.setenv("NO_COLOR", "1")
    WRITERS["table"](Ready(boxes("b.png", "cat")), Target())
    assert "\x1b" not in written()


def test_json_of_several_is_one_object_with_the_errors_in_their_places(capsys):
    out = printed(capsys, "json", text("a.png", "a cat"), bad("b.png"), text("film.mp4", "x", facts={"frame": 3}))
    told = json.loads(out)
    assert list(told) == ["results", "failed"]
    assert told["failed"] == 1
    assert [row["images"][0]["path"] for row in told["results"]] == ["a.png", "b.png", "film.mp4"]
    assert told["results"][1]["error"] == {"code": "bad_input", "message": "b.png is broken"}
    assert told["results"][2]["images"][0]["frame"] == 3
    assert out == json.dumps(told, indent=2) + "\n"
    assert json.loads(printed(capsys, "json")) == {"results": [], "failed": 0}
    assert json.loads(printed(capsys, "json", text("a.png", "x"), several=False))["text"] == "x"


@pytest.mark.parametrize(
    ("error", "code"), [(ResourceError("full"), "resources"), (KeyboardInterrupt(), "interrupted")]
)
def test_what_ends_the_work_early_is_told_in_json(capsys, error, code):
    ready = Ready(text("a.png", "x"), stopped=error)
    assert WRITERS["json"](ready, Target()) is True
    told = json.loads(capsys.readouterr().out)
    assert (len(told["results"]), told["error"]["code"]) == (1, code)
    assert WRITERS["jsonl"](Ready(text("a.png", "x"), stopped=error), Target()) is True
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[0]["text"], lines[1]["error"]["code"]) == ("x", code)


def test_json_lines_come_one_by_one(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    seen = []

    class Slow(Ready):
        def __iter__(self):
            for outcome in self.outcomes:
                seen.append(stream.getvalue().count("\n"))
                yield outcome

    WRITERS["jsonl"](Slow(text("a.png", "x"), bad("b.png"), text("c.png", "two\nlines")), Target())
    assert seen == [0, 1, 2]
    assert [("error" in json.loads(line)) for line in stream.getvalue().splitlines()] == [False, True, False]


def test_csv_has_a_row_for_each_box_or_answer(capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "csv", boxes("a", "cat", "dog"), bad("b"), boxes("c")))))
    assert [(row["image"], row["label"], row["left"]) for row in rows] == [("a", "cat", "5.0"), ("a", "dog", "5.0")]
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "csv", text("a", 'say "x", y')))))
    assert [(row["image"], row["text"]) for row in rows] == [("a", 'say "x", y')]


def test_pipeline_is_the_shape_of_hugging_faces(capsys):
    alone = json.loads(printed(capsys, "pipeline", boxes("a", "cat", score=0.5, mask=True), several=False))
    mask = alone[0].pop("mask")
    assert alone == [{"score": 0.5, "label": "cat", "box": {"xmin": 5, "ymin": 10, "xmax": 25, "ymax": 20}}]
    assert mask["size"] == [30, 40]
    several = json.loads(printed(capsys, "pipeline", boxes("a", "cat"), bad("b"), boxes("c")))
    assert [len(found) for found in several] == [1, 0]
    assert json.loads(printed(capsys, "pipeline", bad("b"))) == []
    texts = json.loads(printed(capsys, "pipeline", text("a", "a cat"), several=False))
    assert texts == [{"input_text": "caption en", "generated_text": "a cat"}]


def test_coco_and_labelstudio_go_to_stdout_or_a_file(capsys):
    found = (boxes("a.png", "cat", "dog"), bad("b.png"), boxes("c.png", "cat"))
    data = json.loads(printed(capsys, "coco", *found))
    assert [image["file_name"] for image in data["images"]] == ["a.png", "c.png"]
    assert [row["bbox"] for row in data["annotations"]] == [[5.0, 10.0, 20.0, 10.0]] * 3
    assert {row["name"] for row in data["categories"]} == {"cat", "dog"}
    tasks = json.loads(printed(capsys, "labelstudio", *found))
    assert len(tasks) == 2
    WRITERS["coco"](Ready(*found), Target("new/coco.json"))
    assert json.loads(Path("new/coco.json").read_text()) == data
    assert capsys.readouterr().out == ""


def test_yolo_is_a_directory():
    WRITERS["yolo"](Ready(boxes("a.png", "cat"), boxes("in/b.png", "dog", "cat")), Target("out"))
    assert Path("out/labels/a.txt").read_text().split() == ["0", "0.375000", "0.500000", "0.500000", "0.333333"]
    assert [line.split()[0] for line in Path("out/labels/b.txt").read_text().splitlines()] == ["1", "0"]
    assert Path("out/classes.txt").read_text() == "cat\ndog\n"
    WRITERS["yolo"](Ready(boxes("a.png", "cat", mask=True)), Target("masks"))
    assert len(Path("masks/labels/a.txt").read_text().split()) >= 7  # an outline


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "yolo"])
def test_every_format_goes_to_a_file(kind, capsys):
    outcome = boxes("a.png", "cat")
    WRITERS[kind](Ready(outcome), Target("deep/new.out"))
    on_stdout = printed(capsys, kind, outcome)
    assert Path("deep/new.out").read_text() == on_stdout != ""


def test_a_file_is_whole_or_the_old_one():
    Path("out.jsonl").write_text("old")

    class Failing(Ready):
        def __iter__(self):
            yield text("a.png", "x")
            raise ResourceError("no memory")

    with pytest.raises(ResourceError):
        WRITERS["jsonl"](Failing(), Target("out.jsonl"))
    assert Path("out.jsonl").read_text() == "old"


def test_formats_that_do_not_fit_are_refused():
    for kind in BOXES_ONLY:
        check(kind, "detect", "x")
        with pytest.raises(UsageError, match="boxes"):
            check(kind, "caption", "x")
    Path("folder").mkdir()
    for out in ("", "folder", "new/"):
        with pytest.raises(UsageError, match="--out"):
            check("json", "caption", out)
    check("json", "caption", None)


def test_every_format_has_its_writer():
    from typing import get_args

    from paligemma.interfaces.cli.options import Format

    assert set(get_args(Format)) | {"raw"} == set(formats.WRITERS)
