"""The codec's file: exact there and back, strict about names and shapes, found beside a model or in the cache."""

from pathlib import Path

import numpy as np
import pytest
import torch

from paligemma.checkpoints import convert, hub
from paligemma.checkpoints.mask_codec import find_codec, load_codec, save_codec
from paligemma.config import NUM_SEG_TOKENS
from paligemma.errors import CheckpointError, UsageError
from paligemma.model.mask_codec import MaskCodec, MaskCodecConfig

GOLDEN = next((Path(__file__).parents[1] / "data" / "golden" / "vae").glob("vae-*.npz"))
SMALL = MaskCodecConfig(embedding_dim=5, encoder_widths=(2, 3, 4, 6), decoder_widths=(9, 8, 7, 6, 5))


@pytest.fixture
def arrays():
    """A small codec as the arrays of its file."""
    generator = np.random.default_rng(0)
    names = {"embedding": "_vq_vae._embedding"}
    return {
        names.get(name, name): generator.normal(size=tuple(tensor.shape)).astype(np.float32)
        for name, tensor in MaskCodec(SMALL).state_dict().items()
    }


def read(path):
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        assert np.array_equal(array, theirs[name]), name


def test_the_published_layout_comes_back_exactly(tmp_path):
    codec = load_codec(GOLDEN)
    assert codec.config == MaskCodecConfig()
    assert not codec.training
    assert_same(read(save_codec(codec, tmp_path / "again.npz")), read(GOLDEN))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_any_widths_come_back_exactly(tmp_path, arrays, dtype):
    stored = {name: array.astype(dtype) for name, array in arrays.items()}
    codec = load_codec(write(tmp_path / "a.npz", stored))
    assert codec.config == SMALL
    assert {tensor.dtype for tensor in codec.parameters()} == {torch.float32}
    again = save_codec(codec, tmp_path / "b.npz", np.dtype(dtype).name)
    assert_same(read(again), stored)
    first = again.read_bytes()
    assert save_codec(codec, again, np.dtype(dtype).name).read_bytes() == first


def test_left_overs_of_training_are_passed_over(tmp_path, arrays):
    more = {
        **arrays,
        "_vq_vae._ema_cluster_size": np.arange(NUM_SEG_TOKENS),  # a type no weight has
        "_vq_vae._ema_w": np.zeros((2, 2), np.float32),
    }
    assert load_codec(write(tmp_path / "a.npz", more)).config == SMALL


def complaint(path, arrays):
    with pytest.raises(CheckpointError) as caught:
        load_codec(write(path, arrays))
    assert "paligemma pull vae-oid" in str(caught.value)
    return str(caught.value)


def test_strictness(tmp_path, arrays):
    path = tmp_path / "a.npz"
    missing = {k: v for k, v in arrays.items() if k not in ("encoder.9.net.2.bias", "_vq_vae._embedding")}
    said = complaint(path, missing | {"decoder.13.bias": np.zeros(1, np.float32)})
    assert "2 missing (_vq_vae._embedding, encoder.9.net.2.bias); 1 unknown (decoder.13.bias)" in said
    said = complaint(path, arrays | {"decoder.4.bias": np.zeros(3, np.float32)})
    assert "1 of another shape (decoder.4.bias [3] instead of [8])" in said
    assert "encoder.0.weight [2]" in complaint(path, arrays | {"encoder.0.weight": np.zeros(2, np.float32)})
    assert "of another shape" in complaint(path, arrays | {"encoder.0.weight": np.zeros((0, 1, 4, 4), np.float32)})
    said = complaint(path, arrays | {"_vq_vae._embedding": np.zeros((99, 5), np.float32)})
    assert "codebook of 99 codes, expected one for each of the 128" in said
    assert "47 missing" in (said := complaint(path, {"x": np.zeros(1, np.float32)}))
    assert said.count("decoder") + said.count("encoder") < 10


def test_what_is_no_archive_or_holds_objects_is_refused(tmp_path, arrays):
    broken = tmp_path / "a.npz"
    broken.write_bytes(GOLDEN.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="no sound npz archive"):
        load_codec(broken)
    objects = arrays | {"encoder.0.bias": np.array([{}, None], dtype=object)}
    with pytest.raises(CheckpointError, match="pickles and never opened"):
        load_codec(write(tmp_path / "b.npz", objects))
    with pytest.raises(CheckpointError, match="there is no file"):
        load_codec(tmp_path / "missing.npz")
    with pytest.raises(UsageError, match=r"ending in \.npz"):
        save_codec(load_codec(GOLDEN), tmp_path / "codec.bin")


# --- which codec belongs to a model ----------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return tmp_path / "hf"


def test_the_codec_beside_the_weights_comes_first(cache, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    assert find_codec(model) is None
    pulled = cache / "assets" / "paligemma" / "vae-oid.npz"
    pulled.parent.mkdir(parents=True)
    pulled.touch()
    assert find_codec(model) == pulled
    snapshots = cache / "hub" / "spaces--big-vision--paligemma-hf" / "snapshots"
    for commit in ("a" * 40, "b" * 40):
        (snapshots / commit).mkdir(parents=True)
        (snapshots / commit / "vae-oid.npz").touch()
    assert find_codec(model) == snapshots / ("a" * 40) / "vae-oid.npz"
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("b" * 40)
    assert find_codec(model) == snapshots / ("b" * 40) / "vae-oid.npz"
    (model / "vae-oid.npz").touch()
    assert find_codec(model) == find_codec(model / "weights.npz") == model / "vae-oid.npz"
    (model / "mask_codec.npz").touch()
    assert find_codec(model) == model / "mask_codec.npz"


def test_a_codec_is_no_weight_file_and_goes_with_its_model(tmp_path):
    source = Path(__file__).parents[1] / "data" / "golden" / "bv-v1-tiny"
    model = tmp_path / "model"
    model.mkdir()
    for name in ("ckpt.f16.npz", "config.json"):
        (model / name).write_bytes((source / name).read_bytes())
    for name in hub.CODEC_FILES:
        (model / name).write_bytes(b"a codec")
    report = convert(model, tmp_path / "hf")
    assert report.source_format == "big_vision"
    assert (tmp_path / "hf" / "mask_codec.npz").read_bytes() == b"a codec"
    assert tmp_path / "hf" / "mask_codec.npz" in report.files
    back = convert(tmp_path / "hf", tmp_path / "npz" / "x.npz", format="big_vision")
    assert back.files[-1] == tmp_path / "npz" / "mask_codec.npz"
    convert(tmp_path / "npz", tmp_path / "npz" / "y.npz", format="big_vision")  # its codec is there already
    (tmp_path / "npz" / "mask_codec.npz").write_bytes(b"another codec")
    with pytest.raises(UsageError, match="mask codec of another model"):
        convert(tmp_path / "hf", tmp_path / "npz" / "z.npz", format="big_vision")
    assert not (tmp_path / "npz" / "z.npz").exists()
    convert(tmp_path / "hf", tmp_path / "npz" / "z.npz", format="big_vision", overwrite=True)
    assert (tmp_path / "npz" / "mask_codec.npz").read_bytes() == b"a codec"
