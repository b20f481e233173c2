import json

import pytest

from paligemma.interfaces.cli import main
from paligemma.scenes import draw_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen held-out scenes with their true boxes."""
    folder = tmp_path_factory.mktemp("labelled")
    lines = []
    for seed in range(1_000_000_100, 1_000_000_116):
        scene = draw_scene(seed, 224, "objects")
        scene.image.save(folder / f"{seed}.png")
        boxes = [
            {"label": thing.label, "box": [round(thing.box[i] * 224) for i in (1, 0, 3, 2)]} for thing in scene.things
        ]
        lines.append(json.dumps({"image": f"{seed}.png", "boxes": boxes}))
    # one label no model can find, so that there are wrong boxes to learn from: the same places under a wrong name
    (folder / "labels.jsonl").write_text("\n".join(lines[:10]))
    swapped = [line.replace('"box": [', '"box": [0, 0, 5, 5], "was": [') for line in lines[10:]]
    rows = [json.loads(line) for line in swapped]
    for row in rows:
        row["boxes"] = [{"label": box["label"], "box": box["box"]} for box in row["boxes"]]
    with (folder / "labels.jsonl").open("a") as file:
        file.write("\n" + "\n".join(map(json.dumps, rows)))
    return folder


def test_figures_and_file(folder, tmp_path, capsys):
    out = tmp_path / "mine.json"
    assert main(["calibrate", str(folder), "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 16
    assert 0 < report["right"] < report["boxes"]
    assert json.loads(out.read_text()) == report["calibration"]
    assert report["file"] == str(out)


def test_for_people(folder, tmp_path, capsys):
    assert main(["calibrate", str(folder / "labels.jsonl"), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "16 pictures" in said
    assert "average precision at IoU 0.5" in said
    assert f"kept in {tmp_path / 'calibration.json'}" in said


def test_the_bundled_calibration_stays(folder, capsys):
    assert main(["calibrate", str(folder)]) == 2
    assert "give --out FILE" in capsys.readouterr().err


def test_bad_input_is_told_before_a_model_is_loaded(tmp_path, capsys):
    assert main(["calibrate", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 4
    assert "none of the known formats" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path), "--out", "x.json", "--negatives", "-1"]) == 2
