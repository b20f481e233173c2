"""Losses and gradients of both references through the trainer's own step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.tiny import Seen

from paligemma.checkpoints import load_checkpoint
from paligemma.checkpoints.big_vision import places
from paligemma.checkpoints.hf import hf_key
from paligemma.config import IMAGE_SLOT
from paligemma.processor import Batch
from paligemma.train.config import DataConfig, LossConfig, OptimConfig, TrainConfig
from paligemma.train.loop import Trainer
from paligemma.train.objective import SuffixObjective

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


class Fixed:
    fingerprint = "golden"

    def __init__(self, batches):
        self.batches = batches

    def micro_batches(self, step, rank=0, world=1):
        return self.batches


def one_step(model, batches, loss):
    """The record of one step, and the gradients it used."""
    model.requires_grad_(True)
    config = TrainConfig(
        steps=1, batch_size=1, precision="fp32", loss=loss, data=DataConfig(workers=0),
        optim=OptimConfig(name="sgd", lr=1e-9, clip_norm=0.0, warmup=0),
    )  # fmt: skip
    seen, gradients = Seen(), {}
    trainer = Trainer(SuffixObjective(model, loss), Fixed(batches), config, observers=[seen])
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: gradients.update({name: p.grad.clone()}))
    trainer.run()
    return seen.records[0], gradients


def check_gradients(found, expected, total):
    largest = max(expected.values())
    assert found.keys() == expected.keys()
    for key, norm in expected.items():
        assert found[key] == pytest.approx(norm, rel=2e-3, abs=1e-6 * largest), key
    assert total == pytest.approx(sum(norm**2 for norm in expected.values()) ** 0.5, rel=1e-3)


def hf_batch(directory, case, image_token_id):
    arrays = np.load(directory / "expected.npz")
    ids = torch.from_numpy(arrays[f"{case}.input_ids"])
    pixels = (torch.from_numpy(arrays["pixels_u8"]).float() / 255 - 0.5) / 0.5
    batch = Batch(
        tokens=ids.masked_fill(ids == image_token_id, IMAGE_SLOT),
        pixels=pixels[torch.from_numpy(arrays[f"{case}.image_index"])],
        mask_ar=torch.from_numpy(arrays[f"{case}.token_type_ids"]),
        mask_input=torch.from_numpy(arrays[f"{case}.attention_mask"]) != 0,
        mask_loss=torch.from_numpy(arrays[f"{case}.labels"] != -100).long(),
    )
    return batch, float(arrays[f"{case}.loss"])


def rows_apart(batch):
    images = len(batch.pixels) // len(batch.tokens)
    parts = {name: tensor.split(1) for name, tensor in vars(batch).items() if name != "pixels"}
    pixels = batch.pixels.split(images)
    return [
        Batch(pixels=pixels[i], **{name: rows[i] for name, rows in parts.items()}) for i in range(len(batch.tokens))
    ]


@pytest.mark.parametrize("name", ["hf-pg1-tiny", "hf-pg2-tiny"])
def test_hugging_faces_loss_and_gradients(name):
    checkpoint = load_checkpoint(GOLDEN / name, dtype=torch.float32)
    batch, expected = hf_batch(GOLDEN / name, "train1", checkpoint.image_token_id)
    record, gradients = one_step(checkpoint.model, [batch], LossConfig(per="token"))
    assert record.losses["loss"] == pytest.approx(expected, abs=1e-4)
    post_norms = checkpoint.config.text.post_norms
    norms = {hf_key(key, post_norms, "5.23"): float(g.double().norm()) for key, g in gradients.items()}
    check_gradients(norms, json.loads((GOLDEN / name / "train1_grad_norms.json").read_text()), record.grad_norm)


@pytest.mark.parametrize("name", ["hf-pg1-tiny", "hf-pg2-tiny"])
@pytest.mark.parametrize("case", ["train3_left", "train3_right"])
@pytest.mark.parametrize("cut", [False, True])
def test_hugging_faces_loss_of_a_padded_batch_however_it_is_cut(name, case, cut):
    checkpoint = load_checkpoint(GOLDEN / name, dtype=torch.float32)
    batch, expected = hf_batch(GOLDEN / name, case, checkpoint.image_token_id)
    record, _ = one_step(checkpoint.model, rows_apart(batch) if cut else [batch], LossConfig(per="token"))
    assert record.losses["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["bv-v1-tiny", "bv-v2-tiny"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_big_visions_loss_and_gradients(name, smoothing):
    directory = GOLDEN / name
    weights = sorted(directory.glob("ckpt.*.npz"), key=lambda path: ".f32." not in path.name)[0]
    checkpoint = load_checkpoint(weights, dtype=torch.float32)
    arrays = np.load(directory / "expected.npz")
    text = torch.from_numpy(arrays["train.text"]).long()
    slots = torch.zeros(len(text), checkpoint.config.vision.num_image_tokens, dtype=torch.int64)

    def behind_the_image(name):
        return torch.cat([slots, torch.from_numpy(arrays[name]).long()], dim=1)

    batch = Batch(
        tokens=torch.cat([slots + IMAGE_SLOT, text], dim=1),
        pixels=torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2).contiguous(),
        mask_ar=behind_the_image("train.mask_ar"),
        mask_input=torch.ones_like(behind_the_image("train.mask_ar"), dtype=torch.bool),
        mask_loss=behind_the_image("train.mask_loss"),
    )
    loss = LossConfig(per="example", softcap=False, label_smoothing=smoothing)
    record, gradients = one_step(checkpoint.model, rows_apart(batch), loss)
    wanted = "train.loss_label_smoothing_0.3" if smoothing else "train.loss"
    assert record.losses["loss"] == pytest.approx(float(arrays[wanted]), abs=1e-4)
    if smoothing:
        return
    expected = json.loads((directory / "train_grad_norms.json").read_text())
    squares = dict.fromkeys(expected, 0.0)
    for key, place in places(checkpoint.config).items():
        squares[place.key] = squares.get(place.key, 0.0) + float(gradients[key].double().square().sum())
    check_gradients({key: square**0.5 for key, square in squares.items()}, expected, record.grad_norm)
