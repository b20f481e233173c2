import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.checkpoints.test_load import MEASURE, draw_ones
from tests.oracle import TINY, draw_model

from paligemma.checkpoints import convert, load_checkpoint, save
from paligemma.checkpoints.load import open_checkpoint
from paligemma.checkpoints.parts import is_matrix
from paligemma.checkpoints.quantized import FORMAT, INT8, QuantizedTensors, part
from paligemma.checkpoints.safetensors_io import read_header, read_metadata
from paligemma.config import Config, TextConfig
from paligemma.errors import CheckpointError
from paligemma.linear.quantized import Int8Linear

UP = "language_model.layers.0.mlp.up_proj.weight"
TABLE = "language_model.embed_tokens.weight"


@pytest.fixture(params=TINY)
def stored(request, tmp_path):
    """A small model and the directory of its int8 codes."""
    model = draw_model(TINY[request.param])
    save(model, tmp_path / "q", format="int8")
    return model, tmp_path / "q"


def rewrite(directory, change, **metadata):
    """Changes the tensors of a directory, its header's words kept but for `metadata`."""
    file = directory / "int8.safetensors"
    tensors, words = load_file(file), read_metadata(file)
    change(tensors)
    save_file(tensors, file, words | metadata)


def test_every_matrix_comes_back_within_half_a_step_of_its_rows(stored):
    model, directory = stored
    found = load_checkpoint(directory)
    assert (found.format, found.dtype, found.config) == (INT8, torch.float32, model.config)
    after = found.model.state_dict()
    for name, weight in model.state_dict().items():
        if is_matrix(name, tuple(weight.shape)):
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            assert ((after[name] - weight).abs() <= 0.5001 * step).all(), name
        else:
            assert torch.equal(after[name], weight), name


def test_the_file_says_what_it_is_and_holds_each_matrix_once(stored):
    model, directory = stored
    file = directory / "int8.safetensors"
    assert read_metadata(file) == {"format": FORMAT, "version": "1", "method": "int8", "dtype": "float32"}
    entries = read_header(file)
    expected = set()
    for name, weight in model.state_dict().items():
        if not is_matrix(name, tuple(weight.shape)):
            expected.add(name)
            continue
        expected |= {part(name, "codes"), part(name, "scales")}
        codes, scales = entries[part(name, "codes")], entries[part(name, "scales")]
        assert (codes.stored, codes.shape, scales.stored, scales.shape) == (
            "I8", tuple(weight.shape), "F32", (len(weight),),
        )  # fmt: skip
    assert entries.keys() == expected
    assert sum(key.endswith(".codes") for key in entries) > 10
    widths = {"I8": 1, "BF16": 2, "F32": 4}
    assert all(entry.start % widths[entry.stored] == 0 for entry in entries.values())


def test_the_codes_are_those_of_the_layer(stored):
    """What runs without decoding takes them as they lie."""
    model, directory = stored
    tensors = open_checkpoint(directory).tensors
    assert isinstance(tensors, QuantizedTensors)
    linear = model.get_submodule(UP.removesuffix(".weight"))
    layer = Int8Linear.from_linear(linear)
    assert torch.equal(tensors.codes(UP), layer.codes.view(torch.int8))
    assert torch.equal(tensors.scales(UP), layer.scales.view(torch.float32))
    assert torch.equal(tensors.read(UP, torch.bfloat16), layer.dequantize(torch.bfloat16))


@settings(max_examples=20, deadline=None)
@given(piece=st.integers(1, 3000), seed=st.integers(0, 100))
def test_pieces_do_not_show(piece, seed):
    """However few rows are coded and decoded at a time."""
    from tempfile import TemporaryDirectory

    from paligemma.checkpoints import quantized

    model = draw_model(TINY[2], seed)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized, "AT_ONCE", piece)
        save(model, Path(folder) / "q", format="int8")
        found = load_checkpoint(Path(folder) / "q").model.state_dict()
    for name, weight in model.state_dict().items():
        if is_matrix(name, tuple(weight.shape)):
            layer = Int8Linear(weight.shape[1], weight.shape[0], None)
            layer.encode(weight)
            assert torch.equal(found[name], layer.dequantize())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_type_in_memory_is_the_wanted_one_or_the_one_that_was_quantised(tmp_path, dtype):
    model = draw_model(TINY[1])
    save(model, tmp_path / "q", format="int8", dtype=dtype)
    found = load_checkpoint(tmp_path / "q")
    assert {str(p.dtype) for p in found.model.parameters()} == {f"torch.{dtype}"}
    assert {p.dtype for p in load_checkpoint(tmp_path / "q", dtype="float32").model.parameters()} == {torch.float32}
    save(model, tmp_path / "f", format="int8")  # codes are made from the weights before these are rounded
    assert torch.equal(
        open_checkpoint(tmp_path / "f").tensors.codes(UP), open_checkpoint(tmp_path / "q").tensors.codes(UP)
    )


def test_shards_and_the_way_back(tmp_path):
    model = draw_model(TINY[2])
    save(model, tmp_path / "hf")
    report = convert(tmp_path / "hf", tmp_path / "q", format="int8", shard_bytes=5_000, verify=True)
    assert len([file for file in report.files if file.suffix == ".safetensors"]) > 2
    assert 0 < report.max_logits_difference < 0.5
    assert (report.format, report.layout) == ("int8", None)
    back = convert(tmp_path / "q", tmp_path / "back", verify=True)
    assert (back.source_format, back.max_logits_difference) == ("int8", 0.0)
    assert convert(tmp_path / "q", tmp_path / "x.npz", format="big_vision", verify=True).max_logits_difference == 0.0
    again = convert(tmp_path / "back", tmp_path / "again", format="int8", verify=True)
    assert again.max_logits_difference < 1e-5  # the same codes: what was rounded once stays


def test_rows_behind_the_vocabulary_are_made_as_in_other_files(tmp_path):
    model = draw_model(TINY[1])
    save(model, tmp_path / "x.npz", format="big_vision")  # without these rows
    convert(tmp_path / "x.npz", tmp_path / "q", format="int8")
    convert(tmp_path / "x.npz", tmp_path / "hf")
    mine, theirs = load_checkpoint(tmp_path / "q"), load_checkpoint(tmp_path / "hf")
    assert mine.config == theirs.config
    assert torch.allclose(mine.model.language_model.embed_tokens.weight[-1],
                          theirs.model.language_model.embed_tokens.weight[-1], atol=1e-3)  # fmt: skip


SCALES, CODES = part(UP, "scales"), part(UP, "codes")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(SCALES), f"1 missing .{SCALES}"),
        (lambda t: t.pop(CODES), f"1 missing .{CODES}"),
        (lambda t: t.update({SCALES: t[SCALES][:-1].clone()}), "expected one scale for each of the"),
        (lambda t: t.update({SCALES: t[SCALES][:, None].clone()}), "expected one scale for each of the"),
        (lambda t: t.update({SCALES: t[SCALES].half()}), "as F16, expected F32"),
        (lambda t: t.update({CODES: t[CODES].float()}), "as F32, expected I8"),
        (lambda t: t.update({CODES: t[CODES][:, :-1].clone()}), "1 of another shape"),
        (lambda t: t.update({UP: t[CODES].float()}), "1 unknown"),
        (lambda t: t.update({"more.codes": t[CODES].clone()}), "1 unknown .more.codes"),
        (lambda t: t.pop("language_model.norm.weight"), "1 missing .language_model.norm.weight"),
        (lambda t: t.update({"language_model.norm.weight": torch.ones(1, dtype=torch.int64)}), "as I64, expected F32"),
    ],
)
def test_strict(tmp_path, change, said):
    save(draw_model(TINY[1]), tmp_path, format="int8")
    rewrite(tmp_path, change)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_scales_that_are_no_sizes(tmp_path, wrong):
    save(draw_model(TINY[1]), tmp_path, format="int8")
    rewrite(tmp_path, lambda t: t[SCALES].__setitem__(1, wrong))
    with pytest.raises(CheckpointError, match="no sizes"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("words", [{"version": "3"}, {"method": "int3"}, {"dtype": "float64"}])
def test_what_a_later_program_wrote_is_said(tmp_path, words):
    save(draw_model(TINY[1]), tmp_path, format="int8")
    rewrite(tmp_path, lambda t: None, **words)
    with pytest.raises(CheckpointError, match="expected version 1, int8, or version 2; write it again with `paligemma"):
        open_checkpoint(tmp_path)


def test_transformers_refuses_it(tmp_path):
    """Rather than to draw random weights for every name it does not find."""
    from transformers import PaliGemmaForConditionalGeneration

    save(draw_model(TINY[2]), tmp_path, format="int8")
    with pytest.raises((OSError, ValueError), match=r"no file named .*model\.safetensors"):
        PaliGemmaForConditionalGeneration.from_pretrained(tmp_path)


def test_a_truncated_file(tmp_path):
    save(draw_model(TINY[1]), tmp_path, format="int8")
    file = tmp_path / "int8.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
def test_peak_memory_is_the_decoded_weights_own(tmp_path):
    text = TextConfig(width=768, depth=8, mlp_dim=3072, num_heads=8, num_kv_heads=1, head_dim=128, vocab_size=4000)
    save(draw_ones(Config(vision=TINY[1].vision, text=text)).bfloat16(), tmp_path, format="int8")
    run = [sys.executable, "-c", MEASURE, str(tmp_path), "bfloat16"]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    own, peak, _ = (float(word) for word in result.stdout.split())
    assert own > 120
    assert peak < 1.3 * own, "MiB"  # the codes beside the weights would be 1.5
