"""Below the verbs: a processor's tensors, the model's logits, the suffix loss one would train on."""

from pathlib import Path

import torch

import paligemma
from paligemma.model import suffix_loss

loaded = paligemma.load(dtype="float32")
model, processor = loaded.model, loaded.processor

image = paligemma.open_image(Path(__file__).with_name("scene.png"))
right = processor.encode(image, "answer en how many cats are there?", "2")
wrong = processor.encode(image, "answer en how many cats are there?", "4")
batch = processor.collate([right, wrong], side="right")

with torch.no_grad():
    hidden = model.hidden(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)
for row, name in enumerate(("right", "wrong")):
    part = slice(row, row + 1)
    loss = suffix_loss(model, hidden[part], batch.tokens[part], batch.mask_loss[part])
    print(f"{name} answer: {loss:.2f} nats per token")
