import json
import math

import pytest

from paligemma import doctor as golden_doctor
from paligemma.doctor.report import Report, Row
from paligemma.errors import CheckpointError
from paligemma.interfaces.cli import main

GOOD, BAD = Row("logits", 1e-5, 2e-4), Row("loss", math.nan, 1e-4)


@pytest.fixture
def checks(tmp_path, monkeypatch):
    """A directory with two golden ones in it, and what checking each of them gives: rows or an error."""
    outcome = {"images": (GOOD,), "processor": (GOOD,)}
    for name, file in (("images", "hf_pixels.npz"), ("processor", "cases.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()

    def check(layout, directory):
        found = outcome[layout.name]
        if isinstance(found, Exception):
            raise found
        return Report(layout.name, str(directory), found)

    monkeypatch.setattr(golden_doctor, "check", check)
    return tmp_path, outcome


def _json(capsys):
    return json.loads(capsys.readouterr().out)


def test_all_within_tolerance_is_0(checks, capsys):
    root, _ = checks
    assert main(["doctor", "--golden", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.count("1 of 1 arrays within tolerance") == 2
    assert "1e-05" in out
    assert main(["doctor", "--golden", str(root), "--json"]) == 0
    told = _json(capsys)
    assert told["ok"] is True
    assert [report["layout"] for report in told["checked"]] == ["images", "processor"]
    row = told["checked"][0]["rows"][0]
    assert (row["name"], row["difference"], row["tolerance"], row["ok"]) == ("logits", 1e-5, 2e-4, True)


def test_a_broken_tolerance_is_7_and_named(checks, capsys):
    root, outcome = checks
    outcome["processor"] = (GOOD, BAD)
    assert main(["doctor", "--golden", str(root)]) == 7
    assert "FAIL loss" in capsys.readouterr().out
    assert main(["doctor", "--golden", str(root / "processor"), "--json"]) == 7
    told = _json(capsys)
    assert (told["ok"], told["broken"]) == (False, 1)
    assert told["checked"][0]["rows"][1]["difference"] is None
    assert main(["doctor", "--golden", str(root / "images")]) == 0


def test_a_directory_that_cannot_be_read_does_not_hide_the_others(checks, capsys):
    root, outcome = checks
    outcome["images"] = CheckpointError("the file is damaged")
    assert main(["doctor", "--golden", str(root), "--json"]) == 7
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["unreadable"] == 1
    assert {entry["ok"] for entry in told["checked"]} == {True, False}
    assert "damaged" in err
    assert main(["doctor", "--golden", str(root / "images")]) == 5
    assert "damaged" in capsys.readouterr().err


def test_what_is_no_golden_directory_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    for path, status in ((tmp_path / "missing", 3), (tmp_path / "file", 2), (tmp_path, 4)):
        assert main(["doctor", "--golden", str(path)]) == status
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)


def test_the_environment_is_told(capsys):
    assert main(["doctor", "--json"]) == 0
    told = _json(capsys)
    assert told["devices"][0]["name"] == "cpu"
    assert told["versions"]["torch"]
    assert main(["doctor"]) == 0
    assert "float32" in capsys.readouterr().out
