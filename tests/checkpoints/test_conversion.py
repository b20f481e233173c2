import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.oracle import TINY, draw_model

from paligemma.checkpoints import FORMATS, LAYOUTS, ImageSettings, convert, load_checkpoint, save
from paligemma.errors import CheckpointError, ResourceError, UsageError
from paligemma.linear.quantized import Int8Linear
from paligemma.linear.swap import matching, swap_linears

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SOURCES = [GOLDEN / "hf-pg1-tiny", GOLDEN / "hf-pg2-tiny", *sorted(GOLDEN.glob("bv-*/ckpt.bf16.npz"))]


def weights(path):
    return load_checkpoint(path).model.state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_conversion_is_invertible(tmp_path, source):
    """hub -> 4.5x -> 5.23 -> npz -> hub: the same bits, each step with the same logits."""
    report = convert(source, tmp_path / "hub", verify=True)
    assert report.max_logits_difference == 0.0
    start = weights(tmp_path / "hub")
    previous = tmp_path / "hub"
    for layout in ("4.5x", "5.23"):
        report = convert(previous, tmp_path / layout, layout=layout, shard_bytes=100_000, verify=True)
        assert report.max_logits_difference == 0.0
        assert len([p for p in report.files if p.suffix == ".safetensors"]) > 1
        previous = tmp_path / layout
        assert equal(weights(previous), start)
    assert convert(previous, tmp_path / "x.npz", format="big_vision", verify=True).max_logits_difference == 0.0
    report = convert(tmp_path / "x.npz", tmp_path / "back", verify=True)
    assert report.max_logits_difference == 0.0
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (
        tmp_path / "hub" / "model.safetensors"
    ).read_bytes()
    assert (tmp_path / "back" / "config.json").read_text() == (tmp_path / "hub" / "config.json").read_text()


@pytest.mark.parametrize("source", sorted(GOLDEN.glob("bv-*/ckpt.*.npz")), ids=lambda p: f"{p.parent.name}-{p.name}")
def test_conversion_is_idempotent(tmp_path, source):
    """An npz written here is written again byte by byte; its arrays are those of big_vision."""
    for number, prefix in ((1, True), (2, False)):
        path = tmp_path / f"{number}.npz"
        convert(source, path, format="big_vision", params_prefix=prefix)
        convert(path, tmp_path / "again.npz", format="big_vision", params_prefix=prefix, overwrite=True)
        assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
        before, after = np.load(source), np.load(path)
        assert {k.removeprefix("params/") for k in before.files} == {k.removeprefix("params/") for k in after.files}
        for key in before.files:
            ours = after[("params/" if prefix else "") + key.removeprefix("params/")]
            assert (ours.dtype, ours.shape) == (before[key].dtype, before[key].shape)
            assert ours.tobytes() == before[key].tobytes()


@pytest.mark.parametrize("source", SOURCES[:2], ids=lambda p: p.name)
@pytest.mark.parametrize("format", ["hf", "big_vision"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_type_is_reported_with_its_rounding(tmp_path, source, format, dtype):
    """The golden weights are exact in bfloat16; in float16 small ones are rounded."""
    target = tmp_path / ("x.npz" if format == "big_vision" else "x")
    report = convert(source, target, format=format, dtype=dtype, verify=True)
    assert (report.dtype, report.format, report.source_format) == (dtype, format, "hf")
    assert report.max_logits_difference == 0.0 if dtype == "bfloat16" else report.max_logits_difference < 0.1
    assert report.num_bytes == sum(path.stat().st_size for path in report.files)
    assert report.num_bytes >= 2 * report.num_parameters
    expected = {name: t.to(getattr(torch, dtype)) for name, t in weights(source).items()}
    assert equal(weights(target), expected)


def test_a_difference_would_be_seen(tmp_path, monkeypatch):
    from paligemma.checkpoints import hf

    monkeypatch.setattr(hf, "pad_rows", lambda tensor, rows: tensor + 0.5)
    assert convert(SOURCES[0], tmp_path / "x", verify=True).max_logits_difference > 0.1


@pytest.mark.parametrize("generation", TINY)
def test_padding_rows_go_and_come_back(tmp_path, generation):
    """Rows that nothing produces: dropped in npz, anew in Hugging Face's files; the vocabulary stays bit by bit."""
    model = draw_model(TINY[generation])
    vocab = model.config.text.vocab_size
    save(model, tmp_path / "hf")
    assert equal(weights(tmp_path / "hf"), model.state_dict())
    convert(tmp_path / "hf", tmp_path / "x.npz", format="big_vision", verify=True)
    assert np.load(tmp_path / "x.npz")["params/llm/embedder/input_embedding"].shape[0] == vocab
    report = convert(tmp_path / "x.npz", tmp_path / "back", verify=True)
    assert report.max_logits_difference == 0.0
    table = weights(tmp_path / "back")["language_model.embed_tokens.weight"]
    assert torch.equal(table[:vocab], model.language_model.embed_tokens.weight[:vocab])
    assert len(table) == 64
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["image_token_index"] == vocab
    assert load_checkpoint(tmp_path / "back").config.text.vocab_size == vocab


def test_what_lies_beside_the_weights_comes_along(tmp_path):
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    save(
        draw_model(TINY[1]),
        tmp_path / "a",
        tokenizer_path=tokenizer,
        image=ImageSettings(8, "bilinear"),
        image_token_id=7,
    )
    convert(tmp_path / "a", tmp_path / "b", layout="5.23")
    found = load_checkpoint(tmp_path / "b")
    assert (found.image_token_id, found.image.resize, found.tokenizer_path) == (7, "bilinear", tmp_path / "b")
    convert(tmp_path / "b", tmp_path / "x.npz", format="big_vision")
    found = load_checkpoint(tmp_path / "x.npz")
    assert (found.image_token_id, found.image.resize) == (7, "bilinear")


def test_weights_in_the_way_are_kept(tmp_path):
    model, other = draw_model(TINY[1], 1), draw_model(TINY[1], 2)
    save(model, tmp_path / "a", shard_bytes=20_000)
    save(model, tmp_path / "a.npz", format="big_vision")
    for target, format in ((tmp_path / "a", "hf"), (tmp_path / "a.npz", "big_vision")):
        with pytest.raises(UsageError, match="already holds"):
            save(other, target, format=format)
        assert equal(weights(target), model.state_dict() if format == "hf" else weights(tmp_path / "a.npz"))
        save(other, target, format=format, overwrite=True)
    assert equal(weights(tmp_path / "a"), other.state_dict())
    assert [p.name for p in (tmp_path / "a").glob("*.safetensors*")] == ["model.safetensors"]  # old shards are gone


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"format": "gguf"}, "unknown format"),
        ({"format": "big-vision"}, "did you mean 'big_vision'"),
        ({"layout": "4.52"}, "did you mean '4.5x'"),
        ({"shard_bytes": 0}, "impossible"),
        ({"format": "big_vision"}, "ending in .npz"),
        ({"dtype": "int8"}, "unknown weight type"),
    ],
)
def test_impossible_wishes(tmp_path, arguments, said):
    with pytest.raises(UsageError, match=said):
        convert(SOURCES[0], tmp_path / "x", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_never_written_onto_itself(tmp_path):
    save(draw_model(TINY[1]), tmp_path / "a")
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    for source in (tmp_path / "a", tmp_path / "a" / "model.safetensors"):
        with pytest.raises(UsageError, match="holds the source itself"):
            convert(source, tmp_path / "a", layout="5.23", overwrite=True)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before
    with pytest.raises(UsageError, match="is a file, expected a directory"):
        convert(tmp_path / "a", tmp_path / "a" / "config.json")


def test_a_broken_source_leaves_no_half_target(tmp_path):
    source = tmp_path / "x.npz"
    save(draw_model(TINY[1]), source, format="big_vision")
    whole = bytearray(source.read_bytes())
    whole[len(whole) // 2] ^= 0xFF  # in the data: only the CRC tells
    source.write_bytes(whole)
    with pytest.raises(CheckpointError, match="CRC"):
        convert(source, tmp_path / "y")
    assert not list((tmp_path / "y").glob("*.safetensors"))


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    for target, format in ((tmp_path / "a", "hf"), (tmp_path / "a.npz", "big_vision")):
        with pytest.raises(ResourceError, match=r"0\.0 GB free"):
            save(draw_model(TINY[1]), target, format=format)


def test_layouts_and_formats_are_these():
    assert FORMATS == ("hf", "big_vision", "int8")
    assert list(LAYOUTS) == ["hub", "4.5x", "5.23"]


def test_the_tokenizer_comes_from_where_it_is_told(tmp_path):
    convert(GOLDEN / "bv-v2-tiny" / "ckpt.bf16.npz", tmp_path / "hf", tokenizer=GOLDEN / "processor" / "tok-hub")
    assert (tmp_path / "hf" / "tokenizer.json").is_file()


def test_a_model_in_memory_keeps_its_mask_codec_and_tokenizer(tmp_path):
    """What a fine-tune is saved with: the codec under a name that is found again, the tokenizer's file."""
    codec = tmp_path / "mine.npz"
    codec.write_bytes(b"codes")
    tokenizer = GOLDEN / "processor" / "tok-added"
    files = save(draw_model(TINY[2]), tmp_path / "model", codec_path=codec, tokenizer_path=tokenizer)
    assert tmp_path / "model" / "mask_codec.npz" in files
    assert (tmp_path / "model" / "mask_codec.npz").read_bytes() == b"codes"
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    codec.write_bytes(b"other")
    with pytest.raises(UsageError, match="mask codec of another model"):
        save(draw_model(TINY[2]), tmp_path / "model", codec_path=codec, overwrite=False)
    again = save(draw_model(TINY[2]), tmp_path / "model", codec_path=tmp_path / "model" / "mask_codec.npz",
                 overwrite=True)  # fmt: skip
    assert tmp_path / "model" / "mask_codec.npz" not in again
    written = save(draw_model(TINY[2]), tmp_path / "x" / "model.npz", format="big_vision", codec_path=codec)
    assert tmp_path / "x" / "mask_codec.npz" in written


def test_a_model_with_adapters_is_not_saved_as_if_it_had_none(tmp_path):
    model = draw_model(TINY[2])
    swap_linears(model, Int8Linear.from_linear, matching("projector"))
    with pytest.raises(UsageError, match="other tensors than its architecture"):
        save(model, tmp_path / "model")
