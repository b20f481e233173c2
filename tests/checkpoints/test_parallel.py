"""Two processes (gloo) with a share of the decoder each say what one process with all of it says."""

from dataclasses import replace

import pytest
import torch
from tests.oracle import EOS, TINY, draw_model
from tests.train.test_distributed import together
from torch.distributed.tensor import DTensor

from paligemma.checkpoints import save
from paligemma.checkpoints.load import load_checkpoint, open_checkpoint
from paligemma.checkpoints.parallel import build_share, local_device, mesh_of
from paligemma.config import IMAGE_SLOT
from paligemma.engine import Engine, Sampling, generate_slowly
from paligemma.errors import UsageError
from paligemma.processor import Encoded

CPU = torch.device("cpu")
# one as wide as the kernels of the CPU take
WIDE = replace(TINY[2], text=replace(TINY[2].text, width=256, mlp_dim=1024, head_dim=64))


def prompts(count=5):
    generator, rows = torch.Generator().manual_seed(0), []
    for length in range(3, 3 + count):
        images = length % 3
        words = torch.randint(3, 40, (length,), generator=generator)
        tokens = torch.cat([torch.full((images * 4,), IMAGE_SLOT), words])
        pixels = torch.rand(images, 3, 8, 8, generator=generator) * 2 - 1 if images else None
        rows.append(
            Encoded(tokens=tokens, pixels=pixels, mask_ar=torch.zeros_like(tokens), mask_loss=torch.zeros_like(tokens))
        )
    return rows


@pytest.mark.parametrize("config", [TINY[2], WIDE], ids=["tiny", "wide"])
def test_two_processes_give_the_tokens_of_one(tmp_path, config):
    directory = tmp_path / "hf"
    save(draw_model(config, seed=3), directory, dtype="float32")
    model = load_checkpoint(directory).model
    text = model.config.text
    want = [generate_slowly(model, prompt, 8, eos_ids=(EOS,)) for prompt in prompts()]

    def share(rank):
        split = build_share(open_checkpoint(directory), torch.float32, CPU, mesh_of(CPU))
        shared = {name: p for name, p in split.named_parameters() if isinstance(p, DTensor)}
        assert len(shared) == 7 * text.depth + 1
        assert all(2 * p.to_local().numel() == p.numel() for p in shared.values())
        whole = dict(model.named_parameters())
        assert all(torch.equal(p, whole[name]) for name, p in split.named_parameters() if name not in shared)
        found = Engine(split, eos_id=EOS).generate(prompts(), Sampling(max_tokens=8), batch_size=3)
        assert [one.tokens for one in found] == want
        hidden = torch.randn(2, text.width, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            head, own = model.language_model, split.language_model
            for rows in (None, slice(3, text.embedding_rows - 1), slice(0, 2)):
                assert torch.allclose(own.logits(hidden, rows=rows), head.logits(hidden, rows=rows), atol=1e-4)

    together(share, tmp_path)


def test_heads_that_cannot_be_shared_are_refused(tmp_path):
    directory = tmp_path / "hf"
    save(draw_model(TINY[1]), directory, dtype="float32")

    def share(rank):
        with pytest.raises(UsageError, match="2 processes cannot share 1 key-value heads evenly"):
            build_share(open_checkpoint(directory), torch.float32, CPU, mesh_of(CPU))

    together(share, tmp_path)


def test_one_process_alone_is_told_how_to_start(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match="torchrun --nproc-per-node N"):
        local_device(CPU)


def test_each_process_has_its_own_card(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert local_device(CPU) == CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="process 1 of this machine has no CUDA device"):
        local_device(torch.device("cuda"))
