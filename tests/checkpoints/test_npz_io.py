import io
import os
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.checkpoints import npz_io
from paligemma.checkpoints.npz_io import Archives, read_members, writing_npz
from paligemma.checkpoints.safetensors_io import write_tensor
from paligemma.errors import CheckpointError

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def read_all(path):
    archives, members = Archives(), read_members([path])
    return {key: archives.read(member) for key, member in members.items()}


def archive_with(path, name, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def npy(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpys_files_are_read(tmp_path, monkeypatch, save, dtype, order):
    monkeypatch.setattr(npz_io, "PIECE_BYTES", 100)
    arrays = {
        "a/b": np.random.default_rng(0).normal(size=(3, 4, 5)).astype(dtype, order=order),
        "c": np.zeros((), dtype),
    }
    save(tmp_path / "x.npz", **arrays)
    found = read_all(tmp_path / "x.npz")
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        assert np.array_equal(found[key].numpy(), array)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 6), max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.booleans(),
)
def test_what_is_written_is_read_here_and_by_numpy(tmp_path_factory, shape, dtype, prefix):
    path = tmp_path_factory.mktemp("n") / "x.npz"
    tensor = torch.randn(shape).to(dtype)
    with writing_npz(path, prefix) as writer, writer.array("k/v", tuple(shape), dtype) as stream:
        write_tensor(stream, tensor)
    assert torch.equal(read_all(path)["k/v"], tensor)
    [(key, array)] = np.load(path, allow_pickle=False).items()
    assert key == ("params/k/v" if prefix else "k/v")
    if dtype == torch.bfloat16:
        assert array.dtype == np.dtype("|V2")
        assert np.array_equal(array.view(np.int16), tensor.view(torch.int16).numpy())
    else:
        assert np.array_equal(array, tensor.numpy())


def test_layers_are_read_one_by_one(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.savez_compressed(tmp_path / "x.npz", a=array)
    archives, member = Archives(), read_members([tmp_path / "x.npz"])["a"]
    stream = archives.open(member)
    for row in array:
        assert np.array_equal(archives.read_next(member, stream, (6,)).numpy(), row)
    archives.close()


def test_objects_are_refused_and_never_unpickled(tmp_path, forbidden):
    np.savez(tmp_path / "x.npz", a=np.array([os.system, "echo"], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"Python objects in a, which are pickles and never opened"):
        read_members([tmp_path / "x.npz"])
    assert not forbidden


@pytest.mark.parametrize("dtype", [np.float64, np.int8, ">f4", "V4", np.complex64, [("a", "V2")]])
def test_other_types_are_refused(tmp_path, dtype):
    np.savez(tmp_path / "x.npz", a=np.zeros(3, dtype))
    with pytest.raises(CheckpointError, match="expected float32, bfloat16 or float16"):
        read_members([tmp_path / "x.npz"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_anywhere_is_one_sentence(tmp_path, save):
    save(tmp_path / "x.npz", a=np.random.default_rng(0).normal(size=(50,)).astype(np.float32))
    whole = (tmp_path / "x.npz").read_bytes()
    path = tmp_path / "y.npz"
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"y\.npz"):
            read_all(path)
    caught = 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            found = read_all(path)
        except CheckpointError:
            caught += 1
        else:  # a byte nobody reads, such as a date or a name in one of the two directories
            assert all(np.array_equal(t.numpy(), np.load(tmp_path / "x.npz")["a"]) for t in found.values())
    assert caught > len(whole) / 3 / 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b""),
        ("a.npy", b"\x93NUMPY\x09\x00"),
        ("a.npy", b"not numpy at all"),
        ("readme.txt", b"hello"),
        ("a.pkl", b"x"),
    ],
)
def test_archives_of_something_else(tmp_path, name, content):
    with pytest.raises(CheckpointError):
        read_members([archive_with(tmp_path / "x.npz", name, content)])


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match=r"\(8 bytes\) is no sound npz archive"):
        read_members([tmp_path / "x.npz"])


def test_a_header_longer_than_its_data(tmp_path):
    whole = npy(np.zeros(100, np.float32))
    path = archive_with(tmp_path / "x.npz", "a.npy", whole[:-40])
    with pytest.raises(CheckpointError, match="the data of a end early"):
        read_all(path)


def test_version_2_headers_are_read(tmp_path):
    path = archive_with(tmp_path / "x.npz", "a.npy", npy(np.ones(3, np.float32), version=(2, 0)))
    assert read_all(path)["a"].tolist() == [1, 1, 1]


def test_params_prefix_is_dropped_and_training_state_skipped(tmp_path):
    one = np.ones(2, np.float32)
    np.savez(tmp_path / "x.npz", **{"params/a": one, "opt/0/count": np.zeros(1, np.int32), "extra/b": one})
    assert set(read_members([tmp_path / "x.npz"])) == {"a"}
    np.savez(tmp_path / "y.npz", **{"params/a": one, "other": one})
    assert set(read_members([tmp_path / "y.npz"])) == {"a", "other"}


def test_one_array_in_two_files(tmp_path):
    for name in ("x", "y"):
        np.savez(tmp_path / f"{name}.npz", a=np.ones(1, np.float32))
    with pytest.raises(CheckpointError, match="both hold a; name the one to load"):
        read_members([tmp_path / "x.npz", tmp_path / "y.npz"])


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(zlib.error), writing_npz(tmp_path / "x.npz", False):
        raise zlib.error
    assert list(tmp_path.iterdir()) == []


def test_names_can_be_passed_over_unread(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"left.over": np.arange(3), "kept": np.ones(2, np.float32)})
    with pytest.raises(CheckpointError, match="int64"):
        read_members([path])
    assert list(read_members([path], ignored=r"left\.")) == ["kept"]
