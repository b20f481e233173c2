"""Training where only an accelerator can show it; `make gpu-check` runs these."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.oracle import TINY, draw_model
from tests.train.tiny import Seen, Stream, equal, tiny_config, tiny_trainer, weights

from paligemma.config import IMAGE_SLOT, Config, TextConfig, VisionConfig
from paligemma.data.example import Example
from paligemma.model import PaliGemmaModel, suffix_loss
from paligemma.train.config import LoraConfig, LossConfig, OptimConfig, TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.loop import Trainer
from paligemma.train.objective import SuffixObjective
from paligemma.train.parts import prepare
from paligemma.train.planning.activations import Shape
from paligemma.train.planning.plan import training
from paligemma.train.saving.state import RunState
from paligemma.train.start import begin
from paligemma.train.streams import TrainingBatch, encode

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA first multiplies
DEVICE = "cuda"
SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
PLAIN_STEPS = OptimConfig(name="sgd", lr=0.05, schedule="constant", warmup=0.0)  # in proportion to the gradient

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine"),
    pytest.mark.filterwarnings("ignore:.*deterministic"),
]


@pytest.fixture(autouse=True)
def full_float32():
    """Products in float32 proper, not in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def trained(device, steps=3, **changes):
    """(losses, moved weights on the CPU, what they were) of a tiny model after some steps on one device."""
    config = tiny_config(steps=steps, optim=PLAIN_STEPS, **changes)
    model, seen = draw_model(TINY[2]), Seen()
    if config.lora is not None:
        prepare(model, config)
        one = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first, which would hide the other factor's gradient
                parameter.data.normal_(0, 0.1, generator=one)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    parallel = Parallel("none", device)
    Trainer(SuffixObjective(model, config.loss), Stream(), config, observers=[seen], parallel=parallel).run()
    after = {name: p.detach().float().cpu() for name, p in model.named_parameters() if p.requires_grad}
    return [record.losses["loss"] for record in seen.records], after, before


def apart(one, other):
    """Relative distance of two sets of weights from what moved them, in the Euclidean norm."""
    (_, a, start), (_, b, _) = one, other
    assert a.keys() == b.keys()
    difference = sum(float((a[name] - b[name]).square().sum()) for name in a)
    moved = sum(float((b[name] - start[name].float()).square().sum()) for name in a)
    assert moved > 0
    return (difference / moved) ** 0.5


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"loss": LossConfig(chunk=3)}], ids=str)
def test_float32_steps_are_those_of_the_cpu(changes):
    here, there = trained("cpu", **changes), trained(DEVICE, **changes)
    assert there[0] == pytest.approx(here[0], rel=1e-5)
    assert apart(there, here) < 1e-3


def test_bfloat16_steps_are_near_those_of_the_cpu():
    here, there = trained("cpu", precision="fp32"), trained(DEVICE, precision="bf16")
    assert there[0] == pytest.approx(here[0], rel=0.03)
    assert apart(there, here) < 0.15
    rounded = trained("cpu", precision="bf16")
    assert apart(there, here) < 3 * apart(rounded, here) + 0.02


@pytest.mark.parametrize("lora", [LoraConfig(rank=4), LoraConfig(rank=4, where=("all-linear",), dora=True)], ids=str)
def test_adapters_learn_the_same(lora):
    here, there = trained("cpu", lora=lora), trained(DEVICE, lora=lora)
    assert there[0] == pytest.approx(here[0], rel=1e-5)
    assert apart(there, here) < 1e-3


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_adapters_over_few_bits_learn_the_same(method):
    lora = LoraConfig(rank=4, where=("lm", "vision"))
    here, there = (trained(device, lora=lora, quantize=method) for device in ("cpu", DEVICE))
    assert there[0] == pytest.approx(here[0], rel=1e-5)
    assert apart(there, here) < 1e-3
    assert there[0] != pytest.approx(trained(DEVICE, lora=lora)[0], rel=1e-6), "the base was not quantised"


def test_a_step_with_8_bit_adamw():
    pytest.importorskip("bitsandbytes")
    optim = OptimConfig(lr=1e-2, schedule="constant", warmup=0.0)
    seen, config = Seen(), tiny_config(steps=8)
    for name in ("adamw", "adamw8bit"):
        config = replace(config, optim=replace(optim, name=name))
        objective = SuffixObjective(draw_model(TINY[2]), config.loss)
        parallel = Parallel("none", DEVICE)
        Trainer(objective, Stream(same=True), config, observers=[seen], parallel=parallel).run()
    whole, few = ([record.losses["loss"] for record in seen.records[i : i + 8]] for i in (0, 8))
    assert whole[-1] < whole[0] / 2
    assert few == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize("changes", [
    {}, {"precision": "bf16"}, {"precision": "bf16", "checkpointing": True},
], ids=str)  # fmt: skip
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, changes):
    optim = OptimConfig(lr=1e-2, schedule="constant", ema=0.5)
    ended, losses = [], []
    for out, stops in (("whole", [6]), ("in two", [3, 6])):
        seen = Seen()
        for steps in stops:
            config = tiny_config(**{"steps": steps, "optim": optim, **changes})
            parallel = Parallel("none", DEVICE)
            with RunState(tmp_path / out, device=parallel.device) as state:
                trainer = tiny_trainer(config, observers=[seen], state=state, parallel=parallel)
                trainer.run()
        assert trainer.resumed == sum(stops[:-1])
        ended.append({**weights(trainer), **{f"average of {name}": a for name, a in trainer.average.values.items()}})
        losses.append([record.losses["loss"] for record in seen.records])
    assert losses[0] == losses[1]
    assert equal(*ended)


# --- memory and pace -------------------------------------------------------------------------------------------------


def real_vocabulary(width):
    """A model of 257,152 tokens with next to nothing between them, on the device, and rows of its hidden states."""
    text = TextConfig(width=width, depth=1, mlp_dim=8, num_heads=1, num_kv_heads=1, head_dim=8)
    vision = VisionConfig(width=8, depth=1, mlp_dim=8, num_heads=1, image_size_px=14)
    generator = torch.Generator().manual_seed(0)
    with torch.device(DEVICE):
        model = PaliGemmaModel(Config(vision=vision, text=text)).requires_grad_(False)
    tokens = torch.randint(3, text.vocab_size, (8, 129), generator=generator).to(DEVICE)
    mask_loss = torch.ones_like(tokens)
    mask_loss[:, 0] = 0
    hidden = torch.randn(8, 129, width, generator=generator).to(DEVICE).requires_grad_(True)
    return model, hidden, tokens, mask_loss


def test_the_chunked_loss_is_the_whole_loss_in_less_memory(capsys):
    model, hidden, tokens, mask_loss = real_vocabulary(256)
    found = {}
    for chunk in (64, 1024):
        hidden.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = suffix_loss(model, hidden, tokens, mask_loss, per="token", chunk=chunk)
        loss.backward()
        found[chunk] = loss.item(), hidden.grad.clone(), torch.cuda.max_memory_allocated() - before
    few, every = found[64], found[1024]
    assert few[0] == pytest.approx(every[0], rel=1e-6)
    assert torch.allclose(few[1], every[1], rtol=1e-4, atol=1e-8)
    assert few[2] < every[2] / 4
    with capsys.disabled():
        print(f"\n1,024 rows of 257,152 logits: {every[2] / 1e6:,.0f} MB at once, {few[2] / 1e6:,.0f} MB by 64")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nano_learns_and_how_fast(capsys, checkpointing):
    config = TrainConfig(
        model="nano-pt-112", steps=20, batch_size=64, checkpointing=checkpointing, save_every=0, save_minutes=0.0,
        optim=OptimConfig(lr=3e-4, warmup=0.0), data=tiny_config().data,
    )  # fmt: skip
    start = begin(config)
    asked = (f"answer en what is number {i}?" for i in range(64))
    examples = (Example(id="scene", images=(SCENE,), prefix=prefix, suffix="a drawing") for prefix in asked)
    rows = [encode(example, start.processor) for example in examples]
    batch = TrainingBatch(**vars(start.processor.collate(rows, side="right")))

    stream = SimpleNamespace(fingerprint="the same", micro_batches=lambda step, rank, world: [batch])
    seen = Seen()
    torch.cuda.reset_peak_memory_stats()
    objective = SuffixObjective(start.model, config.loss)
    Trainer(objective, stream, config, observers=[seen], parallel=Parallel("none", DEVICE)).run()
    first, last = seen.records[0], seen.records[-1]
    assert last.losses["loss"] < first.losses["loss"] / 2
    seconds = sorted(record.seconds for record in seen.records)[len(seen.records) // 2]
    with capsys.disabled():
        print(f"\nnano, 64 examples a step, checkpointing {checkpointing}: {64 / seconds:,.0f} examples/s, "
              f"{last.memory_bytes / 1e9:.2f} GB on {torch.cuda.get_device_name()}")  # fmt: skip


METHODS = {
    "full": {},
    "attention": {"train": ("attention",)},
    "lora": {"lora": LoraConfig()},
    "qlora": {"lora": LoraConfig(), "quantize": "nf4"},
    "lora, checkpointing": {"lora": LoraConfig(), "checkpointing": True},
}


@pytest.mark.parametrize("method", METHODS)
def test_no_more_memory_is_taken_than_was_planned(capsys, method):
    """A random model of some 400 million parameters with the real vocabulary, 4 pictures of 224 px a step."""
    text = TextConfig(
        width=1024, depth=8, mlp_dim=4096, num_heads=8, num_kv_heads=4, head_dim=128, post_norms=True,
        attn_logit_softcap=50.0, final_logit_softcap=30.0, sliding_window=4096, query_scale_dim=128.0,
    )  # fmt: skip
    vision = VisionConfig(width=512, depth=8, mlp_dim=2048, num_heads=8, image_size_px=224)
    config = tiny_config(steps=3, batch_size=4, precision="bf16", **METHODS[method])
    shape = Shape(rows=4, tokens=vision.num_image_tokens + 48, learnt=4 * 32, pictures=4)
    planned = training(Config(vision=vision, text=text), config, shape).peak

    tokens = torch.cat([torch.full((4, vision.num_image_tokens), IMAGE_SLOT), torch.randint(3, 9999, (4, 48))], dim=1)
    suffix = torch.zeros_like(tokens)
    suffix[:, -32:] = 1
    batch = TrainingBatch(
        tokens=tokens, pixels=torch.rand(4, 3, 224, 224), mask_ar=suffix, mask_loss=suffix,
        mask_input=torch.ones_like(tokens, dtype=torch.bool),
    )  # fmt: skip
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    with torch.device(DEVICE):
        model = PaliGemmaModel(Config(vision=vision, text=text))
    model.to(torch.bfloat16 if config.lora else torch.float32)
    prepare(model, config)
    stream = SimpleNamespace(fingerprint="the same", micro_batches=lambda step, rank, world: [batch])
    trainer = Trainer(SuffixObjective(model, config.loss), stream, config, parallel=Parallel("none", DEVICE))
    torch.cuda.reset_peak_memory_stats()
    trainer.run()
    taken = torch.cuda.max_memory_allocated() - before
    with capsys.disabled():
        print(f"\n{method}: {taken / 1e9:.2f} GB taken, {planned / 1e9:.2f} GB planned")
    assert 0 < taken <= planned
