"""`quantize`: a directory in fewer bits is, bit for bit, what packing the source while it is loaded gives."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.test_packing import logits, tiny
from tests.oracle import randomize

from paligemma.checkpoints import convert, quantize, save
from paligemma.checkpoints.fingerprint import fingerprint, stored_fingerprint
from paligemma.checkpoints.load import build_model, open_checkpoint
from paligemma.checkpoints.packing import build_packed, chosen_methods
from paligemma.checkpoints.parts import methods_of
from paligemma.checkpoints.quantized import QUANTIZED, QuantizedTensors, check_original, part
from paligemma.checkpoints.safetensors_io import read_header, read_metadata
from paligemma.checkpoints.tensors import empty_model
from paligemma.errors import CheckFailed, CheckpointError, UsageError
from paligemma.linear.packed import METHODS
from paligemma.model import PaliGemmaModel
from paligemma.native import products

FILE = "quantized.safetensors"
UP = "language_model.layers.0.mlp.up_proj.weight"
CHOICES = [*METHODS, "lm=nf4,head=int8", "vision=int4"]


@pytest.fixture(scope="module")
def model():
    return randomize(PaliGemmaModel(tiny(width=72, mlp=140)), 3)  # neither whole panels nor whole groups


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    target = tmp_path_factory.mktemp("source")
    save(model, target)
    return target


def loaded(path, quantize=None, dtype=torch.float32):
    opened = open_checkpoint(path)
    return build_packed(opened, dtype, chosen_methods(opened, quantize))


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("choice", CHOICES)
def test_it_loads_as_the_source_packs_bit_for_bit(source, tmp_path, choice, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(products, "library", lambda: None)
    written = quantize(source, tmp_path / "q", method=choice)
    (wanted, told), (found, read_back) = loaded(source, choice), loaded(tmp_path / "q")
    expected, state = wanted.state_dict(), found.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert torch.equal(logits(found), logits(wanted))
    for one, other, third in zip(told.rows, read_back.rows, written.packed.rows, strict=True):
        assert (one.name, one.method, one.shape) == (other.name, other.method, other.shape)
        assert other.error == pytest.approx(one.error, rel=1e-5)
        assert third.error == pytest.approx(one.error, rel=1e-5)
        assert third.bytes <= one.bytes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shard_bytes", [10**9, 9_000])
def test_in_any_type_and_in_shards(model, tmp_path, dtype, shard_bytes):
    save(model, tmp_path / "source", dtype=dtype)
    report = quantize(tmp_path / "source", tmp_path / "q", method="int4", shard_bytes=shard_bytes)
    assert (len([f for f in report.files if f.suffix == ".safetensors"]) > 2) == (shard_bytes < 10**9)
    assert report.dtype == dtype
    type_ = getattr(torch, dtype)
    expected, found = (loaded(tmp_path / "source", "int4", type_)[0], loaded(tmp_path / "q", None, type_)[0])
    for (name, one), (_, other) in zip(expected.state_dict().items(), found.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_the_file_says_what_it_is(source, model, tmp_path):
    quantize(source, tmp_path, method="lm=int4,head=nf4")
    assert read_metadata(tmp_path / FILE) == {
        "format": "paligemma-quantized", "version": "2", "parts": "lm=int4,head=nf4", "dtype": "float32",
        "sha256": fingerprint(model),
    }  # fmt: skip
    entries = read_header(tmp_path / FILE)
    found = {what: entries[part(UP, what)] for what in ("codes", "scales", "error")}
    assert {what: (entry.stored, entry.shape) for what, entry in found.items()} == {
        "codes": ("U8", (140, 36)), "scales": ("BF16", (140, 2)), "error": ("F32", ()),
    }  # fmt: skip
    assert entries["vision_tower.layers.0.mlp.fc1.weight"].stored == "F32"
    widths = {"U8": 1, "I8": 1, "BF16": 2, "F32": 4}
    assert all(entry.start % widths[entry.stored] == 0 for entry in entries.values())
    assert open_checkpoint(tmp_path).format == QUANTIZED


def test_from_big_visions_file(model, tmp_path):
    save(model, tmp_path / "x.npz", format="big_vision")
    quantize(tmp_path / "x.npz", tmp_path / "q", method="int4")
    expected, found = logits(loaded(tmp_path / "x.npz", "int4")[0]), logits(loaded(tmp_path / "q")[0])
    assert torch.equal(found[..., :300], expected[..., :300])


def test_from_int8_files_whose_codes_are_kept(source, tmp_path):
    convert(source, tmp_path / "int8", format="int8")
    report = quantize(tmp_path / "int8", tmp_path / "q", method="lm=int8,head=int4")
    errors = {row.name: row.error for row in report.packed.rows}
    assert errors[UP.removesuffix(".weight")] is None
    assert errors["language_model.embed_tokens"] > 0
    expected, found = loaded(tmp_path / "int8", "lm=int8,head=int4")[0], loaded(tmp_path / "q")[0]
    for (name, one), (_, other) in zip(expected.state_dict().items(), found.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_decoded_it_is_a_plain_checkpoint_again(source, tmp_path):
    quantize(source, tmp_path / "q", method="nf4")
    plain = build_model(open_checkpoint(tmp_path / "q"), torch.float32)
    packed = loaded(tmp_path / "q")[0]
    name = UP.removesuffix(".weight")
    assert torch.equal(plain.get_submodule(name).weight, packed.get_submodule(name).dequantize())
    assert convert(tmp_path / "q", tmp_path / "back", verify=True).max_logits_difference == 0.0


def test_whose_weights_these_were(source, model, tmp_path):
    """An adapter that was trained on the source is known to belong here."""
    quantize(source, tmp_path)
    assert stored_fingerprint(open_checkpoint(tmp_path)) == stored_fingerprint(open_checkpoint(source))
    assert stored_fingerprint(open_checkpoint(source)) == fingerprint(model)


def test_what_is_refused(source, tmp_path):
    quantize(source, tmp_path / "q", method="int4")
    with pytest.raises(UsageError, match="as vision=int8,lm=int4,head=int4, expected original weights to quantise"):
        quantize(tmp_path / "q", tmp_path / "again", method="int8")
    assert not (tmp_path / "again").exists()
    with pytest.raises(UsageError, match=r"already holds quantized\.safetensors"):
        quantize(source, tmp_path / "q", method="int8")
    with pytest.raises(UsageError, match="holds the source itself"):
        quantize(source, source, method="int8", overwrite=True)
    with pytest.raises(UsageError, match="unknown quantize 'int3'"):
        quantize(source, tmp_path / "other", method="int3")
    with pytest.raises(UsageError, match=r"quantised already, as .* and lm=int8 was asked for"):
        loaded(tmp_path / "q", "lm=int8")
    assert quantize(source, tmp_path / "q", method="lm=int8", overwrite=True).methods == {"lm": "int8"}
    loaded(tmp_path / "q", "lm=int8")


@pytest.mark.parametrize("doing", ["merge into", "train"])
def test_codes_are_there_to_answer(source, tmp_path, doing):
    quantize(source, tmp_path, method="lm=int4")
    with pytest.raises(UsageError, match=f"as lm=int4, expected original weights to {doing}; take those"):
        check_original(open_checkpoint(tmp_path).tensors, doing)
    check_original(open_checkpoint(source).tensors, doing)


def test_numbers_that_are_none_are_refused_and_leave_nothing(model, tmp_path):
    broken = empty_model(model.config).to_empty(device="cpu")
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.get_parameter(UP)[1, 2] = float("inf")
    save(broken, tmp_path / "source")
    with pytest.raises(CheckFailed, match=r"layers\.0\.mlp\.up_proj.* cannot be quantised"):
        quantize(tmp_path / "source", tmp_path / "q")
    assert list((tmp_path / "q").iterdir()) == []


CODES, SCALES, ERROR = (part(UP, what) for what in ("codes", "scales", "error"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(SCALES), f"1 missing .{SCALES}"),
        (lambda t: t.pop(ERROR), f"1 missing .{ERROR}"),
        (lambda t: t.update({SCALES: t[SCALES][:, :1].clone()}), "one scale for each group of the 140 rows"),
        (lambda t: t.update({SCALES: t[SCALES].float()}), "as F32, expected BF16"),
        (lambda t: t.update({ERROR: t[ERROR].repeat(2)}), "expected one number"),
        (lambda t: t.update({CODES: t[CODES].view(torch.int8)}), "as I8, expected U8"),
        (lambda t: t.update({CODES: t[CODES][:, :-1].clone()}), "1 of another shape"),
        (lambda t: t.update({UP: torch.zeros(140, 72)}), "1 unknown"),
        (lambda t: t[SCALES].__setitem__((1, 1), float("nan")), "no sizes"),
    ],
)
def test_strict(source, tmp_path, change, said):
    quantize(source, tmp_path, method="int4")
    tensors, words = load_file(tmp_path / FILE), read_metadata(tmp_path / FILE)
    change(tensors)
    save_file(tensors, tmp_path / FILE, words)
    with pytest.raises(CheckpointError, match=said):
        loaded(tmp_path)


@pytest.mark.parametrize("words", [{"parts": "lm=int3"}, {"parts": ""}, {"dtype": "int8"}, {"version": "9"}])
def test_what_a_later_program_wrote(source, tmp_path, words):
    quantize(source, tmp_path, method="int4")
    tensors, told = load_file(tmp_path / FILE), read_metadata(tmp_path / FILE)
    save_file(tensors, tmp_path / FILE, told | words)
    with pytest.raises(CheckpointError, match="write it again with `paligemma quantize`"):
        open_checkpoint(tmp_path)


def test_shards_of_two_checkpoints(source, tmp_path):
    first = quantize(source, tmp_path, method="int4", shard_bytes=9_000).files[0]
    save_file(load_file(first), first, read_metadata(first) | {"sha256": "0"})
    with pytest.raises(CheckpointError, match="shards of different checkpoints"):
        open_checkpoint(tmp_path)


def test_the_rows_are_read_past_the_map(source, tmp_path):
    quantize(source, tmp_path, method="int4")
    tensors = open_checkpoint(tmp_path).tensors
    assert isinstance(tensors, QuantizedTensors)
    whole = torch.cat([codes.clone() for codes, _ in tensors.rows(UP, 64)])
    assert torch.equal(whole, tensors.codes(UP))
    assert torch.equal(torch.cat(list(tensors.decoded(UP, 33, torch.float32))), tensors.read(UP, torch.float32))


PEAK = """
import json, sys, torch
from pathlib import Path
from paligemma.checkpoints import quantize
from paligemma.checkpoints.load import open_checkpoint
from paligemma.checkpoints.packing import build_packed, chosen_methods
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
source, target = map(Path, sys.argv[1:])
quantize(source, target / "first", method={"vision": "int8"})
before = peak()
report = quantize(source, target / "q", method="int4")
written = peak()
opened = open_checkpoint(target / "q")
model, _ = build_packed(opened, torch.bfloat16, chosen_methods(opened, None))
print(json.dumps([written - before, peak() - before, sum(p.numel() * p.itemsize for p in model.parameters())]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_little_memory_while_writing_and_beside_the_codes(tmp_path):
    model = empty_model(tiny(width=512, mlp=16384)).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    save(model, tmp_path / "source", dtype="bfloat16")  # 125 MB of matrices
    del model
    run = [sys.executable, "-c", PEAK, str(tmp_path / "source"), str(tmp_path)]
    said = subprocess.run(run, capture_output=True, text=True, check=True)
    writing, loading, held = json.loads(said.stdout)
    assert held < 70e6
    assert writing < 24 * 2**20
    assert loading < 1.15 * held + 24 * 2**20


def test_methods_of_the_file_win_where_nothing_is_asked(source, tmp_path):
    quantize(source, tmp_path, method="head=int8")
    assert chosen_methods(open_checkpoint(tmp_path), None) == {"head": "int8"}
    assert chosen_methods(open_checkpoint(source), None) is None
    assert chosen_methods(open_checkpoint(source), "int4") == methods_of("int4")
