import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.oracle import TINY, draw_model

from paligemma.checkpoints.big_vision import write_npz
from paligemma.checkpoints.conversion import save
from paligemma.checkpoints.load import PICKLES, load_checkpoint, open_checkpoint
from paligemma.checkpoints.tensors import ModelTensors, empty_model, parameter_shapes
from paligemma.config import IMAGE_SLOT, Config, TextConfig, nano
from paligemma.errors import CheckpointError, ResourceError, UnavailableError, UsageError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
HF = ("hf-pg1-tiny", "hf-pg2-tiny")


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def old_keys(tmp_path):
    """A golden model in the hub's key layout as a directory."""

    def make(name):
        shutil.copyfile(GOLDEN / f"{name}-oldkeys.safetensors", tmp_path / "model.safetensors")
        shutil.copyfile(GOLDEN / f"{name}-oldkeys.config.json", tmp_path / "config.json")
        return tmp_path

    return make


@pytest.mark.parametrize("name", HF)
def test_golden_logits(name):
    """Every case, also padded on either side, gives transformers' logits."""
    found = load_checkpoint(GOLDEN / name)
    expected = np.load(GOLDEN / name / "expected.npz")
    pixels = torch.from_numpy((expected["pixels_u8"] * (1 / 255) - 0.5) / 0.5).float()
    for case in ("prefix1", "train3_left", "train3_right", "two_images", "text_only"):
        ids, valid, mask_ar = (
            torch.from_numpy(expected[f"{case}.{key}"]) for key in ("input_ids", "attention_mask", "token_type_ids")
        )
        images = pixels[expected[f"{case}.image_index"]] if f"{case}.image_index" in expected else None
        with torch.no_grad():
            logits = found.model(
                ids.masked_fill(ids == found.image_token_id, IMAGE_SLOT), images, mask_ar, valid.bool()
            )
        total = logits.double().logsumexp(-1).numpy()
        assert np.abs(total - expected[f"{case}.logsumexp"])[valid.bool()].max() < 2e-4
        if f"{case}.logits_sub" in expected:
            difference = np.abs(logits[..., expected["sub_ids"]].numpy() - expected[f"{case}.logits_sub"])
            assert difference[valid.bool()].max() < 2e-4


@pytest.mark.parametrize("name", HF)
def test_golden_layouts_hold_the_same_model(name, old_keys):
    new, old = load_checkpoint(GOLDEN / name), load_checkpoint(old_keys(name), dtype="float32")
    assert (new.config, new.image_token_id) == (old.config, old.image_token_id)
    assert equal(new.model, old.model)


def test_one_file_with_its_configuration_beside_it(old_keys):
    directory = old_keys("hf-pg2-tiny")
    found = load_checkpoint(directory / "model.safetensors")
    assert (found.format, found.path, found.dtype) == ("hf", directory / "model.safetensors", torch.bfloat16)
    assert equal(found.model, load_checkpoint(directory).model)
    assert not found.model.training


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.float32])
def test_weights_come_in_the_wanted_type(dtype):
    found = load_checkpoint(GOLDEN / "hf-pg1-tiny", dtype=dtype)
    assert {p.dtype for p in found.model.parameters()} == {found.dtype}
    expected = load_checkpoint(GOLDEN / "hf-pg1-tiny").model.to(found.dtype)
    assert equal(found.model, expected)


def test_mixed_types_are_widened(old_keys):
    directory = old_keys("hf-pg1-tiny")
    tensors = load_file(directory / "model.safetensors")
    save_file({key: t.float() if "vision" in key else t for key, t in tensors.items()}, directory / "model.safetensors")
    found = load_checkpoint(directory)
    assert {p.dtype for p in found.model.parameters()} == {torch.float32} == {found.dtype}


def test_changing_the_model_leaves_the_file_alone(old_keys):
    directory = old_keys("hf-pg1-tiny")
    before = (directory / "model.safetensors").read_bytes()
    model = load_checkpoint(directory).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (directory / "model.safetensors").read_bytes() == before


def test_a_trained_step_works_on_mapped_weights(old_keys):
    model = load_checkpoint(old_keys("hf-pg1-tiny")).model
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    model(torch.tensor([[2, 5]])).float().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


@pytest.mark.parametrize("suffix", PICKLES)
def test_pickles_are_refused(tmp_path, suffix, forbidden):
    path = tmp_path / f"pytorch_model{suffix}"
    torch.save({"a": torch.ones(1)}, path)
    for source in (path, tmp_path):
        with pytest.raises(CheckpointError, match="never"):
            load_checkpoint(source)
    assert not forbidden


def test_a_pickle_under_another_name_is_refused(tmp_path, forbidden):
    for name in ("model.safetensors", "x.npz"):
        (tmp_path / name).unlink(missing_ok=True)
        torch.save({"a": torch.ones(1)}, tmp_path / name)
        (tmp_path / "config.json").write_text((GOLDEN / "hf-pg1-tiny" / "config.json").read_text())
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / name)
    assert not forbidden


@pytest.mark.parametrize(("name", "said"), [("x.gguf", "GGUF"), ("x.h5", "Keras"), ("x.txt", ".txt"), ("x", "unknown")])
def test_other_formats_are_named(tmp_path, name, said):
    (tmp_path / name).write_text("x")
    with pytest.raises(CheckpointError, match=f"is a {said} file, expected .safetensors or .npz"):
        load_checkpoint(tmp_path / name)


def test_what_a_directory_may_lack(tmp_path, old_keys):
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_checkpoint(tmp_path)
    directory = old_keys("hf-pg1-tiny")
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json beside the weights; put it there"):
        load_checkpoint(directory)
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a LoRA adapter, expected a whole model"):
        load_checkpoint(directory)
    with pytest.raises(UnavailableError, match="no file or directory"):
        load_checkpoint(tmp_path / "nowhere")


NANO = nano(112)


def small_nano(tmp_path, px):
    config = NANO.at_resolution(px)
    save(draw_model(config), tmp_path, dtype="bfloat16", image_token_id=3)
    return tmp_path


def test_the_wrong_resolution_is_recognised(tmp_path):
    directory = small_nano(tmp_path, 28)
    data = json.loads((directory / "config.json").read_text())
    data["vision_config"]["image_size"] = 112
    (directory / "config.json").write_text(json.dumps(data))
    (directory / "preprocessor_config.json").unlink()
    expected = r"position_embedding.weight \[4, 192\] instead of \[64, 192\]\); these look like nano at 28 px"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(directory)
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config.json .*these look like nano at 28 px"):
        load_checkpoint(directory)


def test_a_named_variant_replaces_the_configuration(tmp_path):
    directory = small_nano(tmp_path, 112)
    (directory / "config.json").unlink()
    found = load_checkpoint(directory, variant="nano-pt-112")
    assert found.config == NANO
    with pytest.raises(CheckpointError, match=r"does not fit the architecture \S+-mix-448: .*these look like nano"):
        load_checkpoint(directory, variant="google/paligemma2-3b-mix-448")
    with pytest.raises(UsageError, match="did you mean 'nano'"):
        load_checkpoint(directory, variant="nanno")
    path = write_npz(ModelTensors(found.model), NANO, tmp_path / "x.npz", dtype=torch.float16, params_prefix=False)
    assert load_checkpoint(path, variant="nano-pt-112").config == NANO


def test_a_variant_takes_the_rows_the_file_has():
    from paligemma.checkpoints.load import _variant_with_rows

    assert _variant_with_rows("paligemma-3b-pt-224", 257216).text.padding_rows == 64
    assert _variant_with_rows("paligemma-3b-pt-224", 257152).text.padding_rows == 0
    assert _variant_with_rows("nano-pt-112", NANO.text.vocab_size).text.padding_rows == 0


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("nano-pt-112", "nano-pt-112"),
        ("models--google--nano-pt-112/snapshots/abc", "nano-pt-112"),
        ("my-model", None),
        ("paligemma-3b-pt-224", None),  # the name says one thing, the weights another
    ],
)
def test_a_path_may_name_the_variant(tmp_path, place, name):
    directory = tmp_path / place
    directory.mkdir(parents=True)
    small_nano(directory, 112)
    assert load_checkpoint(directory).name == name
    assert open_checkpoint(directory / "model.safetensors").name == name


def test_too_little_memory_is_said(monkeypatch):
    from paligemma.checkpoints import load

    def exhausted(self, name, dtype):
        raise MemoryError

    monkeypatch.setattr(load.HFTensors, "read", exhausted)
    with pytest.raises(ResourceError, match="GB on cpu, which are not free"):
        load_checkpoint(GOLDEN / "hf-pg1-tiny")


def test_opening_reads_no_weights(monkeypatch):
    from paligemma.checkpoints import load

    monkeypatch.setattr(load.HFTensors, "read", None)
    opened = open_checkpoint(GOLDEN / "hf-pg1-tiny")
    assert sum(np.prod(shape) for shape in opened.tensors.shapes.values()) == opened.config.num_parameters
    assert opened.tensors.shapes.keys() == empty_model(opened.config).state_dict().keys()


def test_configurations_of_both_generations_differ_only_in_data():
    first, second = (load_checkpoint(GOLDEN / name).config for name in HF)
    assert type(first) is type(second) is Config
    assert (first.text.post_norms, second.text.post_norms) == (False, True)


MEASURE = """
import gc, sys
from pathlib import Path
from paligemma.checkpoints import load_checkpoint

def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return [int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmHWM", "RssAnon"))]

before = memory()
for source, dtype in zip(sys.argv[1::2], sys.argv[2::2]):
    found = load_checkpoint(source, dtype=dtype)
    print(sum(p.nbytes for p in found.model.parameters()) / 2**20, *(a - b for a, b in zip(memory(), before)))
    del found
    gc.collect()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
def test_peak_memory_is_the_weights_own(tmp_path):
    """Mapped weights cost nothing; converted, or from npz, at most 15 % more than themselves."""
    text = TextConfig(width=768, depth=8, mlp_dim=3072, num_heads=8, num_kv_heads=1, head_dim=128, vocab_size=4000)
    model = draw_ones(Config(vision=TINY[1].vision, text=text)).bfloat16()
    save(model, tmp_path / "hf")
    save(model, tmp_path / "x.npz", format="big_vision")
    steps = [tmp_path / "hf", "bfloat16", tmp_path / "x.npz", "bfloat16", tmp_path / "hf", "float16"]
    run = [sys.executable, "-c", MEASURE, *map(str, steps)]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    mapped, npz, converted = ([float(word) for word in line.split()] for line in result.stdout.splitlines())
    print("own, peak, anonymous MiB:", mapped, npz, converted)
    assert mapped[0] > 120
    assert max(mapped[1:]) < 0.15 * mapped[0]
    assert max(npz[1:]) < 1.15 * npz[0]
    assert max(converted[1:]) < 1.15 * converted[0]


def draw_ones(config):
    model = empty_model(config)
    state = {name: torch.ones(shape) for name, shape in parameter_shapes(config).items()}
    model.load_state_dict(state, assign=True)
    return model
