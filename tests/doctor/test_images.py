import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paligemma.doctor import images
from paligemma.doctor.report import Row
from paligemma.errors import InputError

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "images"
FIRST = "01_gradient_rgb_64x48.png"


def golden_arrays() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for path in GOLDEN.glob("*_pixels.npz"):
        with np.load(path) as stored:
            arrays.update(stored)
    return arrays


def rows_of(tmp_path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Row]:
    """The check on the golden images with arrays of our own."""
    for path in GOLDEN.iterdir():
        if path.suffix in (".png", ".jpg"):
            shutil.copy(path, tmp_path)
    np.savez(tmp_path / "hf_pixels.npz", **arrays)
    return {row.name: row for row in images.check(tmp_path)}


def test_every_golden_array_is_within_one_level() -> None:
    rows = images.check(GOLDEN)
    assert sorted(row.name for row in rows) == sorted(golden_arrays())
    assert [row for row in rows if not row.ok] == []
    assert max(row.tolerance for row in rows) == 1
    equal_to_hf = [row.difference for row in rows if row.name.startswith("hf_pil")]
    assert max(equal_to_hf) == 0


def test_every_altered_array_is_noticed(tmp_path: Path) -> None:
    altered = {}
    for name, array in golden_arrays().items():
        changed = array.copy()
        place = (0,) * array.ndim
        step = 0.05 if array.dtype == np.float32 else 3
        changed[place] = array[place] - step if array[place] > 100 else array[place] + step
        altered[name] = changed
    # differences are read against their base, so a base that moves along would hide them
    differences = {name: array for name, array in altered.items() if "_minus_" in name}
    rest = {name: array for name, array in altered.items() if "_minus_" not in name}
    unaltered = {name: array for name, array in golden_arrays().items() if "_minus_" not in name}
    for arrays, changed in ((rest, rest), (unaltered | differences, differences)):
        rows = rows_of(tmp_path, arrays)
        assert [name for name in changed if rows[name].ok] == []


def test_other_sizes_and_files_are_read_from_the_name(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (37, 91, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "new file_v2.png")
    resized = np.array(Image.fromarray(array).resize((42, 42), Image.Resampling.BICUBIC))
    rows = rows_of(tmp_path, {"hf_pil_open_42/new file_v2.png": resized})
    assert rows["hf_pil_open_42/new file_v2.png"].ok


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (f"hf_lanczos_56/{FIRST}", "unknown kind hf_lanczos"),
        (f"hf_pil_open/{FIRST}", "not KIND_SIZE/FILE"),
        (f"hf_pil_open_0/{FIRST}", "not KIND_SIZE/FILE"),
        ("hf_pil_open_56/../hf_pixels.npz", "not KIND_SIZE/FILE"),
        ("hf_pil_open_56/missing.png", "there is no file"),
        (f"hf_tv_minus_pil_open_40/{FIRST}", "missing or misshapen"),
        ("mystery_example", "unknown array"),
        ("pixel_values_f32_example", "its image is unknown"),
    ],
)
def test_what_is_not_understood_fails_its_row(tmp_path: Path, name: str, note: str) -> None:
    row = rows_of(tmp_path, {name: np.zeros((3, 56, 56), np.uint8)})[name]
    assert not row.ok
    assert note in row.note


def test_a_wrong_shape_fails_its_row(tmp_path: Path) -> None:
    name = f"hf_pil_open_56/{FIRST}"
    row = rows_of(tmp_path, {name: golden_arrays()[name][:-1]})[name]
    assert not row.ok
    assert "shape" in row.note


def write_nothing(path: Path) -> None:
    pass


def write_broken(path: Path) -> None:
    path.write_bytes((GOLDEN / "hf_pixels.npz").read_bytes()[:500])


def write_objects(path: Path) -> None:
    np.savez(path, a=np.array([{}], dtype=object))


@pytest.mark.parametrize("write", [write_nothing, write_broken, write_objects])
def test_missing_and_broken_files_are_an_input_error(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "hf_pixels.npz")
    with pytest.raises(InputError, match=r"get a fresh copy|give a golden"):
        images.check(tmp_path)
