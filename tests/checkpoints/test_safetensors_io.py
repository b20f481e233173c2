import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from paligemma.checkpoints import safetensors_io
from paligemma.checkpoints.safetensors_io import (
    INDEX,
    SINGLE,
    TensorFiles,
    find_files,
    read_header,
    require_space,
    write_file,
    write_sharded,
    writing,
)
from paligemma.errors import CheckpointError, ResourceError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {f"t{i}": torch.randn(shape, generator=generator).to(dtype) for i, shape in enumerate(shapes)}


def write(path, tensors):
    dtype = next(iter(tensors.values())).dtype
    write_file(path, {key: tuple(t.shape) for key, t in tensors.items()}, dtype, tensors.__getitem__)
    return path


def craft(path, header, data=b"", length=None):
    """A file with any header whatsoever."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sound") / SINGLE, draw([(3, 5), (7,)]))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=4), st.sampled_from(DTYPES))
def test_files_written_here_are_read_by_the_library(tmp_path_factory, shapes, dtype):
    tensors = draw(shapes, dtype)
    path = write(tmp_path_factory.mktemp("w") / "x.safetensors", tensors)
    back = load_file(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
def test_files_of_the_library_are_read_in_every_type(tmp_path, monkeypatch, stored, wanted):
    monkeypatch.setattr(safetensors_io, "PIECE_BYTES", 64)  # many pieces, the last one short
    tensors = draw([(9, 11), (1,), ()], stored)
    save_file(tensors, tmp_path / "x.safetensors")
    files = TensorFiles([tmp_path / "x.safetensors"])
    for key, tensor in tensors.items():
        assert torch.equal(files.read(key, wanted), tensor.to(wanted))
        assert files.read(key, wanted).dtype == wanted


def test_truncation_anywhere_names_both_sizes(tmp_path, sound):
    whole = sound.read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors .*\d+ bytes.* download or copy it again"):
            read_header(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError, match=f"has {len(whole) + 1} bytes, expected {len(whole)}"):
        read_header(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_header_is_one_sentence_or_harmless(tmp_path_factory, sound, data):
    whole = bytearray(sound.read_bytes())
    end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(whole)
    try:
        entries = read_header(path)
    except CheckpointError:
        pass
    else:
        assert all(0 <= e.start <= e.stop <= len(whole) for e in entries.values())


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": F4 | {"shape": [2]}}, b"1234"),
        ({"a": F4 | {"shape": [-1, -1]}}, b"1234"),
        ({"a": F4 | {"shape": [True]}}, b"1234"),
        ({"a": F4 | {"shape": [2**62, 2**62]}}, b"1234"),
        ({"a": F4 | {"dtype": "F33"}}, b"1234"),
        ({"a": F4 | {"dtype": ["F32"]}}, b"1234"),
        ({"a": F4 | {"data_offsets": [4, 0]}}, b"1234"),
        ({"a": F4 | {"data_offsets": [0, 4, 8]}}, b"1234"),
        ({"a": F4, "b": F4}, b"1234"),  # overlap
        ({"a": F4, "b": F4 | {"data_offsets": [8, 12]}}, b"123456789012"),  # hole
        (b'{"a":1,"a":1}', b""),
        (b"[]", b""),
        (b"[" * 5000, b""),
        (b"\xff\xfe", b""),
        ({"a": "F32"}, b""),
        ({"a": F4}, b""),
    ],
)
def test_inconsistent_headers_are_refused(tmp_path, header, data):
    with pytest.raises(CheckpointError):
        read_header(craft(tmp_path / "x.safetensors", header, data))


@pytest.mark.parametrize("length", [2**63, 2**40, 100_000_001])
def test_a_huge_header_allocates_nothing(tmp_path, length):
    with pytest.raises(CheckpointError, match="expected a header of"):
        read_header(craft(tmp_path / "x.safetensors", b"{}", length=length))


@pytest.mark.parametrize("start", [b"PK\x03\x04" + b"\0" * 100, b"\x80\x02}q\x00." + b"\0" * 20])
def test_a_renamed_pickle_is_called_one(tmp_path, start):
    path = tmp_path / "x.safetensors"
    path.write_bytes(start)
    with pytest.raises(CheckpointError, match="never opened"):
        read_header(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path, sound):
    path = tmp_path / "x.safetensors"
    path.write_bytes(sound.read_bytes())
    files = TensorFiles([path])
    os.truncate(path, path.stat().st_size - 20)
    with pytest.raises(CheckpointError, match="ended while it was read"):
        files.read("t1", torch.float16)
    with pytest.raises(CheckpointError, match="cannot be read"):
        files.read("t1", torch.float32)


@settings(max_examples=20, deadline=None)
@given(shard_bytes=st.integers(1, 400), count=st.integers(1, 6))
def test_shards_hold_everything_once_and_keep_their_limit(tmp_path_factory, shard_bytes, count):
    directory = tmp_path_factory.mktemp("s")
    tensors = draw([(3, 5)] * count)
    shapes = dict.fromkeys(tensors, (3, 5))
    files = write_sharded(directory, shapes, torch.float32, tensors.__getitem__, shard_bytes)
    assert sorted(p.name for p in directory.iterdir()) == sorted(p.name for p in files)
    read = TensorFiles(find_files(directory))
    assert read.entries.keys() == tensors.keys()
    assert all(torch.equal(read.read(key, torch.float32), tensors[key]) for key in tensors)
    weights = [p for p in files if p.suffix == ".safetensors"]
    assert all(sum(e.stop - e.start for e in read_header(p).values()) <= max(shard_bytes, 60) for p in weights)
    if len(weights) > 1:
        assert json.loads((directory / INDEX).read_text())["metadata"]["total_size"] == 60 * count


@pytest.fixture
def sharded(tmp_path):
    tensors = draw([(3, 5)] * 3)
    write_sharded(tmp_path, dict.fromkeys(tensors, (3, 5)), torch.float32, tensors.__getitem__, 60)
    return tmp_path


def change_index(directory, key, value):
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"][key] = value
    (directory / INDEX).write_text(json.dumps(index))


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of 3 shards \(model-00002-of-00003.safetensors\)"):
        find_files(sharded)


@pytest.mark.parametrize(
    "target", ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "x.bin", 3, "..", None]
)
def test_an_index_that_points_elsewhere_is_refused(sharded, target):
    change_index(sharded, "t0", target)
    with pytest.raises(CheckpointError, match="expected a safetensors file beside it"):
        find_files(sharded)


def test_an_index_that_disagrees_with_its_shards(sharded):
    change_index(sharded, "t0", "model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match="disagree, first about 't0'"):
        find_files(sharded)
    (sharded / INDEX).write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        find_files(sharded)


def test_one_tensor_in_two_files(tmp_path):
    paths = [write(tmp_path / f"{i}.safetensors", draw([(2,)])) for i in (0, 1)]
    with pytest.raises(CheckpointError, match="t0 occurs in"):
        TensorFiles(paths)
    with pytest.raises(CheckpointError, match="holds 2 safetensors files and no"):
        find_files(tmp_path)


def test_nothing_half_written_stays(tmp_path):
    def fail(key):
        raise CheckpointError("the source broke")

    with pytest.raises(CheckpointError, match="the source broke"):
        write_sharded(tmp_path, {"a": (1,)}, torch.float32, fail, 100)
    assert list(tmp_path.iterdir()) == []

    def fill_the_disk():
        with writing([tmp_path / "x"]) as [partial]:
            partial.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="No space left"):
        fill_the_disk()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_before_writing(tmp_path):
    with pytest.raises(ResourceError, match="GB free, the weights need 1000000"):
        require_space(tmp_path, 10**15)
