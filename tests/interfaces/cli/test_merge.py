import json

import pytest
from tests.adapters import write_adapter

from paligemma.checkpoints import merging
from paligemma.interfaces.cli import main


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory):
    return write_adapter(tiny, tmp_path_factory.mktemp("adapter"))


def test_merged_and_told(tiny, adapter, tmp_path, capsys):
    target = tmp_path / "merged"
    assert main(["merge", str(tiny), str(adapter), str(target), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["layers"], report["dtype"]) == (True, 28, "float32")
    assert report["max_logits_difference"] < 1e-3 < report["adapter_effect"]
    assert str(target / "tokenizer.json") in report["files"]
    assert main(["merge", str(tiny), str(adapter), str(target), "--overwrite", "--dtype", "bfloat16"]) == 0
    assert "28 adapted layers merged, bfloat16" in capsys.readouterr().out
    assert main(["merge", str(tiny), str(adapter), str(target)]) == 2


def test_logits_that_differ_are_a_failure(tiny, adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(merging, "TOLERANCE", dict.fromkeys(merging.TOLERANCE, -1.0))
    assert main(["merge", str(tiny), str(adapter), str(tmp_path / "merged")]) == 7
    assert "do not use it" in capsys.readouterr().err


def test_answers_come_from_the_adapter_or_not_at_all(tiny, adapter, pictures, capsys):
    def answer(*more):
        assert main(["generate", "caption en", "a.png", "--raw", "--max-tokens", "8", "-q", *more]) == 0
        return capsys.readouterr().out

    plain = answer("--model", str(tiny))
    adapted = answer("--model", str(tiny), "--adapter", str(adapter))
    assert adapted != plain
    assert adapted == answer("--model", str(adapter))
    assert main(["caption", "a.png", "--model", str(tiny), "--adapter", "nowhere"]) == 3
    assert "there is no adapter 'nowhere'" in capsys.readouterr().err
