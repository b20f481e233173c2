"""Fine-tuning on pictures of one's own: rows of JSONL, a LoRA, and answers before and after."""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

import paligemma
from paligemma.train.config import DataConfig, LoraConfig, OptimConfig, SourceConfig, TrainConfig
from paligemma.train.run import train

COLORS = {"yes": (200, 30, 20), "no": (90, 150, 40)}  # of a ripe one, and of one that is not
QUESTION = "may it be picked?"


def tomato(ripe: str, rng: random.Random) -> Image.Image:
    """A picture of a tomato somewhere before a wall."""
    image = Image.new("RGB", (112, 112), (rng.randint(190, 230),) * 3)
    x, y, radius = rng.randint(30, 80), rng.randint(30, 80), rng.randint(16, 28)
    color = tuple(part + rng.randint(-15, 15) for part in COLORS[ripe])
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return image


rng = random.Random(0)
with TemporaryDirectory() as name:
    folder = Path(name)
    with open(folder / "train.jsonl", "w") as rows:
        for number, ripe in enumerate(["yes", "no"] * 20):
            tomato(ripe, rng).save(folder / f"{number}.png")
            rows.write(json.dumps({"image": f"{number}.png", "prefix": f"answer en {QUESTION}", "suffix": ripe}) + "\n")
    new = [(tomato(ripe, rng), ripe) for ripe in ["yes", "no"] * 4]

    config = TrainConfig(
        model="nano-pt-112", out=folder / "run",
        data=DataConfig(train=(SourceConfig(path=str(folder / "train.jsonl")),)),
        lora=LoraConfig(rank=8, where=("lm",)), optim=OptimConfig(lr=5e-3), batch_size=8, steps=12,
    )  # fmt: skip
    summary = train(config, quiet=True)
    print((folder / "run" / "trainable.txt").read_text().splitlines()[-1])

    before, after = paligemma.load("nano-pt-112"), paligemma.load("nano-pt-112", adapter=folder / "run" / "last")
    for told, model in (("before", before), ("after", after)):
        answers = [model.ask(picture, QUESTION).text for picture, _ in new]
        right = sum(answer == ripe for answer, (_, ripe) in zip(answers, new, strict=True))
        print(f"{told}: {right} of {len(new)} right, such as {answers[:2]}")
