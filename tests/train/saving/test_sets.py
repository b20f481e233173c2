"""A set gives back what was put in, to the bit; any byte that is changed is noticed."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from paligemma.disk import Files
from paligemma.errors import CheckpointError
from paligemma.train.saving.sets import MANIFEST, check_set, read_set, write_set

TYPES = (
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.int8,
    torch.bool,
)  # fmt: skip


def tensors():
    torch.manual_seed(0)
    return {
        "weights/a.weight": torch.randn(3, 5),
        "weights/a.bias": torch.randn(7).bfloat16(),
        "optimizer/a.weight/step": torch.tensor(12.0),
        "optimizer/a.weight/state1": torch.arange(15, dtype=torch.uint8).view(3, 5),
        "optimizer/a.weight/number": torch.tensor(2**40),
    }


def written(folder, step=500, **more):
    folder.mkdir(exist_ok=True)
    whole = {"tensors": tensors(), "facts": {"seed": 2**64 - 1, "best": None}, "environment": {}, "logs": {"m": 3}}
    write_set(Files(), folder, step=step, **{**whole, **more})
    return folder


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.reshape(-1), b.reshape(-1))


def test_what_was_put_in_comes_back(tmp_path):
    found = read_set(written(tmp_path / "set"))
    assert (found.step, found.facts, found.logs) == (500, {"seed": 2**64 - 1, "best": None}, {"m": 3})
    assert found.tensors.keys() == tensors().keys()
    assert all(same(found.tensors[name], tensor) for name, tensor in tensors().items())
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        MANIFEST, "optimizer.safetensors", "weights.safetensors",
    ]  # fmt: skip
    assert load_file(tmp_path / "set/weights.safetensors").keys() == {"a.weight", "a.bias"}, "any reader opens it"


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=6))
def test_every_type_and_shape(tmp_path_factory, kinds):
    given_ = {f"k/{i}": (torch.randn(shape) * 9).to(dtype) for i, (dtype, shape) in enumerate(kinds)}
    found = read_set(written(tmp_path_factory.mktemp("any") / "set", tensors=given_))
    assert all(same(found.tensors[name], tensor) for name, tensor in given_.items())


def test_views_are_written_as_they_look(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    found = read_set(written(tmp_path / "set", tensors={"w/t": base.T, "w/s": base[1:, ::2]}))
    assert torch.equal(found.tensors["w/t"], base.T)
    assert torch.equal(found.tensors["w/s"], base[1:, ::2])


@pytest.mark.parametrize("name", [MANIFEST, "weights.safetensors", "optimizer.safetensors"])
def test_any_flipped_bit_is_noticed(tmp_path, name):
    path = written(tmp_path / "set") / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            check_set(tmp_path / "set")
    path.write_bytes(whole)
    check_set(tmp_path / "set")


@pytest.mark.parametrize("name", [MANIFEST, "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("left", [0, 1, 0.5, -1, None])
def test_files_cut_short_or_gone_are_noticed(tmp_path, name, left):
    path = written(tmp_path / "set") / name
    whole = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    with pytest.raises(CheckpointError, match=name):
        check_set(tmp_path / "set")


def test_what_is_wrong_is_said(tmp_path):
    folder = written(tmp_path / "set")
    size = (folder / "weights.safetensors").stat().st_size
    with open(folder / "weights.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match=rf"weights.safetensors has {size + 1} bytes, expected {size}"):
        read_set(folder)
    with pytest.raises(CheckpointError, match=r"manifest.json cannot be read \(No such file"):
        read_set(tmp_path)


@pytest.mark.parametrize("body", ["[]", '"x"', "null", "{}", '{"sha256": 1}', "[" * 100_000])
def test_what_is_no_manifest(tmp_path, body):
    (tmp_path / MANIFEST).write_text(body)
    with pytest.raises(CheckpointError, match=r"is no manifest|was changed"):
        check_set(tmp_path)


def signed(folder, **changes):
    """A manifest that was changed by someone who can count."""
    from paligemma.train.saving.sets import _manifest

    body = json.loads((folder / MANIFEST).read_text())
    del body["sha256"]
    (folder / MANIFEST).write_bytes(_manifest({**body, **changes}))


def test_sets_of_another_format_or_with_files_elsewhere_are_refused(tmp_path):
    folder = written(tmp_path / "set")
    signed(folder, files={"../weights.safetensors": {"bytes": 1, "sha256": ""}})
    with pytest.raises(CheckpointError, match=r"names '\.\./weights.safetensors', which is no file of a set"):
        check_set(folder)
    signed(folder, format=2)
    with pytest.raises(CheckpointError, match="has format 2, this program reads 1"):
        check_set(folder)


def test_facts_are_plain_numbers(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        written(tmp_path / "set", facts={"best": math.nan})


def test_large_and_small_tensors_are_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("paligemma.train.saving.sets.PIECE_BYTES", 64)
    many = {f"w/{i}": torch.arange(float(i)) for i in (1, 100, 2, 3, 15, 16, 17)}
    found = read_set(written(tmp_path / "set", tensors=many))
    assert all(same(found.tensors[name], tensor) for name, tensor in many.items())
