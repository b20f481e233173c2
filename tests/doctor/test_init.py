import sys
import zipfile
from types import ModuleType

import pytest

from paligemma import doctor
from paligemma.doctor.report import Row
from paligemma.errors import InputError, UnavailableError, UsageError

FILES = {
    "hf": ["config.json", "model.safetensors", "expected.npz"],
    "big_vision": ["config.json", "ckpt.bf16.npz", "expected.npz"],
    "processor": ["cases.json", "tokenizer.model"],
    "images": ["hf_pixels.npz"],
    "vae": ["vae-oid.npz", "expected.npz", "text_cases.json", "text_masks.npz"],
}


def _make(root, layout):
    root.mkdir()
    for name in FILES[layout]:
        (root / name).touch()
    return root


@pytest.mark.parametrize("layout", FILES)
def test_a_layout_is_known_by_its_files(tmp_path, layout):
    directory = _make(tmp_path / "any name", layout)
    assert [(found.name, path) for found, path in doctor.find(directory)] == [(layout, directory)]
    for name in FILES[layout]:
        if name not in ("tokenizer.model",) and (layout, name) != ("big_vision", "config.json"):
            (directory / name).unlink()
            assert doctor.layout_of(directory) is None
            (directory / name).touch()


def test_every_layout_has_files_here():
    assert [layout.name for layout in doctor.LAYOUTS] == list(FILES)


def test_a_parent_gives_all_directories_in_it(tmp_path):
    for layout in FILES:
        _make(tmp_path / layout, layout)
    (tmp_path / "other").mkdir()
    (tmp_path / "a file").touch()
    assert [layout.name for layout, _ in doctor.find(tmp_path)] == sorted(FILES)


def test_what_holds_nothing_golden_is_refused(tmp_path):
    with pytest.raises(UnavailableError, match="no"):
        doctor.find(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file"):
        doctor.find(tmp_path / "file")
    with pytest.raises(InputError, match=r"cases\.json"):
        doctor.find(tmp_path)


def test_a_check_is_the_module_of_its_layout(tmp_path, monkeypatch):
    module = ModuleType("paligemma.doctor.processor")
    module.check = lambda directory: [Row(directory.name, 0.0, 0.0)]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (layout, directory), *_ = doctor.find(_make(tmp_path / "p", "processor"))
    report = doctor.check(layout, directory)
    assert report.ok
    assert report.rows[0].name == "p"


@pytest.mark.parametrize("error", [KeyError("sub_ids"), zipfile.BadZipFile("File is not a zip file"), ValueError("x")])
def test_damage_is_told_as_such(tmp_path, monkeypatch, error):
    module = ModuleType("paligemma.doctor.images")

    def check(directory):
        raise error

    module.check = check
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (layout, directory), *_ = doctor.find(_make(tmp_path / "i", "images"))
    with pytest.raises(InputError, match="damaged"):
        doctor.check(layout, directory)


def test_a_bug_of_ours_is_no_damage(tmp_path, monkeypatch):
    module = ModuleType("paligemma.doctor.images")
    module.check = lambda directory: 1 / 0
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (layout, directory), *_ = doctor.find(_make(tmp_path / "i", "images"))
    with pytest.raises(ZeroDivisionError):
        doctor.check(layout, directory)
