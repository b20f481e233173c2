"""What people get wrong most: each gives one clear sentence and the documented exit code, never a traceback."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paligemma.interfaces.cli import main

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A whole model in `model`, pictures beside it, and one broken copy of everything."""
    monkeypatch.chdir(tmp_path)
    whole = tmp_path / "model"
    whole.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "hf-pg2-tiny" / name, whole)
    shutil.copy(GOLDEN / "processor" / "tok-added" / "tokenizer.json", whole)
    Image.effect_noise((60, 40), 90).convert("RGB").save("good.jpg")
    Path("truncated.jpg").write_bytes(Path("good.jpg").read_bytes()[:700])
    Path("corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    Path("page.jpg").write_text("<html>not found</html>")

    no_tokenizer = shutil.copytree(whole, "no-tokenizer")
    (Path(no_tokenizer) / "tokenizer.json").unlink()
    wrong_size = Path(shutil.copytree(whole, "wrong-size"))
    config = json.loads((wrong_size / "config.json").read_text())
    config["vision_config"]["image_size"] = 112
    (wrong_size / "config.json").write_text(json.dumps(config))
    cut = Path(shutil.copytree(whole, "cut")) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1000])
    with zipfile.ZipFile("pickled.npz", "w") as archive, archive.open("img/embedding/kernel.npy", "w") as file:
        np.lib.format.write_array(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    Path("weights.bin").write_bytes(pickle.dumps({"weight": 1}))
    return tmp_path


CASES = {
    "truncated picture": ("caption truncated.jpg --model model", 4, ["truncated.jpg"]),
    "corrupt picture": ("caption corrupt.png --model model", 4, ["corrupt.png"]),
    "web page saved as picture": ("caption page.jpg --model model", 4, ["page.jpg"]),
    "no such picture": ("caption missing.jpg --model model", 4, ["missing.jpg"]),
    "prompt without picture": ("caption --model model", 2, ["picture"]),
    "wrong-size checkpoint": ("caption good.jpg --model wrong-size", 5, ["position_embedding", "64"]),
    "cut checkpoint": ("caption good.jpg --model cut", 5, ["model.safetensors", "bytes"]),
    "npz with pickle": ("caption good.jpg --model pickled.npz", 5, ["pickled.npz", "pickle"]),
    "pickled weights": ("caption good.jpg --model weights.bin", 5, ["weights.bin", "safetensors"]),
    "missing tokenizer": ("caption good.jpg --model no-tokenizer", 5, ["tokenizer.json"]),
    "unknown option": ("caption good.jpg --model model --max-token 5", 2, ["--max-tokens"]),
    "unknown command": ("captoin good.jpg", 2, ["caption"]),
    "unknown model": ("caption good.jpg --model paligemma2-3b-mx-224", 3, ["paligemma2-3b-mix-224"]),
    "model that was not pulled": ("caption good.jpg --model paligemma2-3b-mix-224", 3, ["paligemma pull"]),
    "option out of range": ("caption good.jpg --model model --top-p 3", 2, ["--top-p", "at most 1"]),
    "language that is none": ("caption good.jpg --model model --lang klingon", 2, ["klingon"]),
}


@pytest.mark.parametrize(("command", "status", "said"), CASES.values(), ids=list(CASES))
def test_one_sentence_and_the_documented_exit_code(folder, capsys, command, status, said):
    assert main(command.split()) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) <= 4, captured.err
    assert " object at 0x" not in captured.err
    for words in said:
        assert words in captured.err.replace("\n", " "), captured.err
