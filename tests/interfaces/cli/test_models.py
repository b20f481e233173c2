import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paligemma.config import VARIANTS
from paligemma.interfaces.cli import main, models

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


def _json(capsys, *arguments, status=0):
    assert main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_list_holds_every_variant(capsys):
    assert [model["name"] for model in _json(capsys, "list")["models"]] == list(VARIANTS)
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:]] == list(VARIANTS)


def test_the_list_is_narrowed_by_a_part_of_the_name(capsys):
    names = [model["name"] for model in _json(capsys, "list", "MIX-448")["models"]]
    assert names == [name for name in VARIANTS if "mix-448" in name]


def test_models_that_are_here_are_marked(capsys, monkeypatch):
    monkeypatch.setattr(models, "is_here", lambda v: v.kind == "mix")
    here = {model["name"]: model["here"] for model in _json(capsys, "list")["models"]}
    assert here == {v.name: v.kind == "mix" for v in VARIANTS.values()}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_shown_from_its_numbers_alone(capsys, name):
    facts = _json(capsys, "show", name)
    known = VARIANTS[name]
    assert facts["parameters"] == known.parameters
    assert facts["parameters_padded"] == known.parameters_padded
    assert facts["tasks"] == list(known.tasks)
    assert (facts["kind"], facts["licence"], facts["hub_id"]) == (known.kind, known.licence, known.hub_id)
    assert facts["resolution_px"] == known.config.vision.image_size_px
    assert facts["text_length"] == known.text_length
    text = facts["architecture"]["text"]
    assert text["vocab_size"] == known.config.text.vocab_size
    assert facts["memory_bytes"]["bfloat16"] == 2 * known.parameters


def test_published_counts_of_the_3b_models(capsys):
    facts = _json(capsys, "show", "google/paligemma2-3b-mix-224")
    assert facts["parameters"] == 3_032_094_960
    assert facts["parameters_padded"] - facts["parameters"] == 64 * 2304


def test_people_get_the_same_numbers(capsys):
    assert main(["show", "paligemma2-28b-mix-448"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {key.strip(): value.strip() for key, value in lines.items()}
    assert shown["parameters"] == f"{VARIANTS['paligemma2-28b-mix-448'].parameters:,}"
    assert shown["licence"] == "gemma"
    assert shown["text.query scale dim"] == "144.0"


def test_show_of_a_name_needs_no_torch():
    code = (
        "import sys; from paligemma.interfaces.cli import main; main(['show', 'paligemma2-3b-mix-224', '--json']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["hf-pg1-tiny", "hf-pg2-tiny"])
def test_a_directory_is_shown_from_its_config(capsys, tmp_path, name):
    data = json.loads((GOLDEN / name / "config.json").read_text())
    shutil.copy(GOLDEN / name / "config.json", tmp_path)
    for place in (tmp_path, tmp_path / "config.json"):
        facts = _json(capsys, "show", str(place))
        text, vision = facts["architecture"]["text"], facts["architecture"]["vision"]
        assert text["width"] == data["text_config"]["hidden_size"]
        assert text["head_dim"] == data["text_config"]["head_dim"]
        assert vision["image_size_px"] == facts["resolution_px"] == data["vision_config"]["image_size"]
        assert facts["parameters"] <= facts["parameters_padded"]


def test_the_count_of_a_directory_is_that_of_its_weights(capsys):
    from safetensors import safe_open

    directory = GOLDEN / "hf-pg2-tiny"
    with safe_open(directory / "model.safetensors", "np") as file:
        stored = sum(file.get_tensor(key).size for key in file.keys())  # noqa: SIM118
    assert _json(capsys, "show", str(directory))["parameters_padded"] == stored


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model_type": "llama"}'])
def test_a_directory_without_a_usable_config_is_5(capsys, tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert main(["show", str(tmp_path)]) == 5
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("name", ["paligemma2-3b-mix-225", "someone/no-such-model", "./no-such-directory"])
def test_an_unknown_name_is_3_and_says_what_to_do(capsys, name):
    assert main(["show", name]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert ("paligemma2-3b-mix-224" if "225" in name else name) in err


def test_a_checkpoint_is_converted_there_and_back(capsys, tmp_path):
    source = GOLDEN / "hf-pg2-tiny"
    told = _json(capsys, "convert", str(source), str(tmp_path / "a.npz"), "--format", "big_vision", "--verify")
    assert (told["max_logits_difference"], told["ok"], told["format"]) == (0.0, True, "big_vision")
    assert all(Path(file).exists() for file in told["files"])
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "b"), "--layout", "5.23", "--verify"]) == 0
    assert "largest difference of the logits: 0" in capsys.readouterr().out


def test_a_narrower_type_may_differ(capsys, tmp_path):
    arguments = ["convert", str(GOLDEN / "hf-pg1-tiny"), str(tmp_path / "b"), "--dtype", "bfloat16", "--verify"]
    assert _json(capsys, *arguments)["dtype"] == "bfloat16"


def test_int8_is_told_and_may_differ(capsys, tmp_path):
    arguments = ["convert", str(GOLDEN / "hf-pg2-tiny"), str(tmp_path / "q"), "--format", "int8", "--verify"]
    told = _json(capsys, *arguments)
    assert (told["format"], told["ok"]) == ("int8", True)
    assert told["max_logits_difference"] > 0
    assert main([*arguments, "--overwrite"]) == 0
    assert f"int8 and {told['dtype']}" in capsys.readouterr().out


def test_a_conversion_that_changes_the_logits_is_7(capsys, tmp_path, monkeypatch):
    from paligemma.checkpoints import convert

    def altered(*arguments, **more):
        return dataclasses.replace(convert(*arguments, **more), max_logits_difference=1e-3)

    monkeypatch.setattr("paligemma.checkpoints.convert", altered)
    assert main(["convert", str(GOLDEN / "hf-pg2-tiny"), str(tmp_path / "b"), "--verify"]) == 7
    assert "do not use" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(capsys, tmp_path):
    arguments = ["convert", str(GOLDEN / "hf-pg2-tiny"), str(tmp_path / "b")]
    assert [main(arguments), main(arguments), main([*arguments, "--overwrite"])] == [0, 2, 0]
    capsys.readouterr()


def test_pull_tells_the_licence_and_where_the_files_are(capsys, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("paligemma.checkpoints.pull", lambda *what: asked.append(what) or tmp_path)
    assert main(["pull", "paligemma2-3b-mix-224", "--revision", "main"]) == 0
    out, err = capsys.readouterr()
    assert asked == [("paligemma2-3b-mix-224", "main")]
    assert out == f"{tmp_path}\n"
    assert "ai.google.dev/gemma/terms" in err
    assert _json(capsys, "pull", "someone/model") == {"name": "someone/model", "revision": None, "path": str(tmp_path)}


def test_pull_stays_offline_when_told_so(capsys):
    assert main(["pull", "paligemma2-3b-mix-224"]) == 3
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    assert main(["pull", "nano"]) == 2
