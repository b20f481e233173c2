import json

import torch
from safetensors.torch import load_file
from tests.train.made import record
from tests.train.tiny import Stream

from paligemma.train.bad_steps import ids_of, keep_bad_step, tensors_of
from paligemma.train.pretraining.seeing import PatchBatch, SeenBatch


def test_a_bad_step_can_be_looked_at_again(tmp_path):
    batches = Stream(3).micro_batches(0)
    folder = keep_bad_step(tmp_path / "bad", record(12, loss=float("inf"), grad_norm=float("nan")), batches, rank=1)
    assert folder == tmp_path / "bad" / "step_12"
    for number, batch in enumerate(batches):
        kept = load_file(folder / f"1-{number}.safetensors")
        assert torch.equal(kept["tokens"], batch.tokens)
        assert torch.equal(kept["pixels"], batch.pixels)
        assert torch.equal(kept["mask_input"], batch.mask_input)
    told = json.loads((folder / "1.json").read_text())
    assert told["losses"] == {"loss": "inf"}
    assert told["grad_norm"] == "nan"
    assert told["examples"] == [["row:0", "row:1", "row:2"], ["row:3", "row:4", "row:5"], ["row:6", "row:7"]]


def test_records_inside_a_batch_are_kept_too():
    numbers = torch.zeros(1, 4, dtype=torch.int64)
    patches = PatchBatch(label=numbers, color=numbers, box=torch.zeros(1, 4, 4), characters=torch.zeros(1, 4, 2))
    batch = SeenBatch(pixels=torch.zeros(1, 3, 8, 8), patches=patches)
    assert set(dict(tensors_of(batch))) == {
        "pixels",
        "patches.label",
        "patches.color",
        "patches.box",
        "patches.characters",
    }
    assert ids_of(batch) == ()
