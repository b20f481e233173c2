"""`paligemma data import` and `export`, from files to files."""

import json

import pytest
from PIL import Image, ImageDraw

from paligemma.interfaces.cli import main

SIZE = (320, 240)
BALL, FLAG = [40, 30, 100, 100], [200, 100, 100, 120]  # x, y, width, height
FORMATS = ("coco", "yolo", "voc", "labelstudio", "masks", "boxes", "csv", "jsonl")


@pytest.fixture
def coco(tmp_path):
    """Two pictures, of which one is empty, in COCO, the pictures in a folder of their own."""
    photos = tmp_path / "photos"
    photos.mkdir()
    picture = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(picture).ellipse((40, 30, 140, 130), fill="red")
    picture.save(photos / "a.png")
    Image.new("RGB", SIZE, "white").save(photos / "b.png")
    ball, flag = [40, 30, 140, 30, 140, 130, 40, 130], [200, 100, 300, 100, 300, 220, 200, 220]
    tables = {
        "images": [{"id": i, "file_name": f"{name}.png", "width": 320, "height": 240} for i, name in enumerate("ab")],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 1, "bbox": BALL, "segmentation": [ball]},
            {"id": 2, "image_id": 0, "category_id": 2, "bbox": FLAG, "segmentation": [flag]},
        ],
        "categories": [{"id": 1, "name": "ball"}, {"id": 2, "name": "flag"}],
    }
    (tmp_path / "ann.json").write_text(json.dumps(tables))
    return tmp_path


def data(*words):
    return main(["data", *map(str, words)])


def rows(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def change(coco, **changes):
    file = coco / "ann.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


BALL_TEXT, FLAG_TEXT = "<loc0128><loc0128><loc0554><loc0448> ball", "<loc0426><loc0639><loc0938><loc0959> flag"


def test_data_is_a_command_of_its_own(capsys):
    assert main(["data", "--help"]) == 0
    assert "paligemma data" in capsys.readouterr().out


def test_import_writes_training_rows(coco, capsys):
    assert data("import", "coco", coco / "ann.json", "--images", coco / "photos", "--out", coco / "ds") == 0
    said = capsys.readouterr().out
    assert "1 train; 2 objects" in said
    assert "left out: 1 pictures without objects" in said
    row = {"image": "images/a.png", "prefix": "detect ball ; flag", "suffix": f"{BALL_TEXT} ; {FLAG_TEXT}"}
    assert rows(coco / "ds" / "train.jsonl") == [row]
    assert (coco / "ds" / "images" / "a.png").samefile(coco / "photos" / "a.png")


def test_import_asks_as_it_is_told(coco, capsys):
    options = ["--one-prompt-per", "label", "--ask", "all", "--order", "left", "--split", "valid", "--copy", "--json"]
    assert data("import", "auto", coco / "ann.json", "--images", coco / "photos", "--out", coco / "ds", *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"] == {"valid": 4}
    assert report["classes"] == ["ball", "flag"]
    assert report["files"] == [str(coco / "ds" / "valid.jsonl")]
    found = rows(coco / "ds" / "valid.jsonl")
    assert [(row["prefix"], row["suffix"]) for row in found] == [
        ("detect ball", BALL_TEXT), ("detect flag", FLAG_TEXT), ("detect ball", ""), ("detect flag", ""),
    ]  # fmt: skip
    assert not (coco / "ds" / "images" / "a.png").samefile(coco / "photos" / "a.png")


@pytest.mark.parametrize("format", FORMATS)
def test_there_and_back(coco, capsys, format):
    """Rows with masks -> another format -> rows: the same boxes; a shape's box is that of the decoded mask."""
    imported = ["--images", coco / "photos", "--out", coco / "ds", "--task", "segment"]
    assert data("import", "coco", coco / "ann.json", *imported) == 0
    assert "2 masks, IoU with what their codes decode to: mean 0.9" in capsys.readouterr().out
    assert data("export", format, coco / "ds" / "train.jsonl", "--out", coco / "out") == 0
    (coco / "out").rename(coco / "moved")
    assert data("import", format, coco / "moved", "--out", coco / "back", "--split", "train") == 0
    (before,), (after,) = rows(coco / "ds" / "train.jsonl"), rows(coco / "back" / "train.jsonl")
    if format in ("csv", "jsonl"):
        assert after == before
        return
    assert after["prefix"] == "detect ball ; flag"
    from paligemma.tasks import TASKS

    one, other = (TASKS["detect"].parse(row["suffix"], SIZE).boxes for row in (before, after))
    for a, b in zip(one, other, strict=True):
        assert a.label == b.label
        assert a.iou(b) > 0.9


def test_one_format_into_another_without_tokens_between(coco, capsys):
    change(coco, images=[{"id": 0, "file_name": "photos/a.png"}])
    words = ["--out", coco / "out", "--classes", "flag; ball", "--json"]
    assert data("export", "yolo", coco / "ann.json", *words) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 2
    lines = (coco / "out" / "labels" / "train" / "a.txt").read_text().splitlines()
    assert lines[0] == "1 0.125000 0.125000 0.437500 0.125000 0.437500 0.541667 0.125000 0.541667"
    assert (coco / "out" / "classes.txt").read_text() == "flag\nball\n"


def test_bad_entries_stop_or_are_listed(coco, capsys):
    change(coco, images=[{"id": i, "file_name": f"{name}.png"} for i, name in enumerate("abc")])
    words = ["import", "coco", coco / "ann.json", "--images", coco / "photos", "--out", coco / "ds", "--ask", "all"]
    assert data(*words) == 4
    assert "there is no picture 'c.png'" in capsys.readouterr().err
    assert not (coco / "ds").exists()
    assert data(*words, "--skip-bad") == 0
    assert "rejected: 1" in capsys.readouterr().out
    assert len(rows(coco / "ds" / "train.jsonl")) == 2
    (reject,) = rows(coco / "ds" / "rejects.jsonl")
    assert "image 2" in reject["where"]
    assert data("export", "coco", coco / "ds", "--out", coco / "out.json") == 0  # rejects are no rows


def test_pictures_outside_are_refused(coco, capsys):
    (coco / "in").mkdir()
    (coco / "ann.json").rename(coco / "in" / "ann.json")
    file = coco / "in" / "ann.json"
    file.write_text(file.read_text().replace('"a.png"', '"../photos/a.png"').replace('"b.png"', '"../photos/b.png"'))
    assert data("import", "coco", file, "--out", coco / "ds") == 4
    assert "--allow-outside" in capsys.readouterr().err
    assert data("import", "coco", file, "--out", coco / "ds", "--allow-outside") == 0


def test_nothing_left_is_an_error(coco, capsys):
    change(coco, annotations=[])
    assert data("import", "coco", coco / "ann.json", "--images", coco / "photos", "--out", coco / "ds") == 4
    assert "2 pictures without objects" in capsys.readouterr().err
    assert not (coco / "ds" / "train.jsonl").exists()


def test_codecs_are_looked_for(coco, capsys):
    words = [
        "import",
        "coco",
        coco / "ann.json",
        "--images",
        coco / "photos",
        "--out",
        coco / "ds",
        "--task",
        "segment",
    ]
    assert data(*words, "--codec", "vae-oid") == 3
    assert "paligemma pull vae-oid" in capsys.readouterr().err
    assert data(*words, "--codec", coco / "none.npz") == 5


def test_captions_keep_their_words(coco, capsys):
    (coco / "photos" / "captions.csv").write_text("image;caption\na.png;ein Ball\n", encoding="utf-8")
    assert data("import", "csv", coco / "photos", "--prefix", "caption de", "--out", coco / "ds") == 0
    row = {"image": "images/a.png", "prefix": "caption de", "suffix": "ein Ball"}
    assert rows(coco / "ds" / "train.jsonl") == [row]
    assert data("export", "coco", coco / "ds" / "train.jsonl", "--out", coco / "out") == 4
    assert "1 rows without boxes" in capsys.readouterr().err
