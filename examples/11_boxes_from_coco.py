"""Boxes from a COCO file: imported, checked, trained on for a few steps, and found in a new picture."""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

import paligemma
from paligemma.data import formats
from paligemma.data.check import check
from paligemma.data.convert import Rules, to_rows
from paligemma.data.sources import open_source
from paligemma.train.config import DataConfig, LoraConfig, OptimConfig, SourceConfig, TrainConfig
from paligemma.train.run import train

COLORS = {"apple": (200, 40, 30), "ball": (40, 80, 200)}
LABELS = list(COLORS)


def shelf(rng: random.Random) -> tuple[Image.Image, list[tuple[str, list[int]]]]:
    """A picture of an apple and a ball, and each with its box: left, top, width, height in pixels."""
    image, objects = Image.new("RGB", (112, 112), (rng.randint(190, 230),) * 3), []
    for label, left in zip(rng.sample(LABELS, 2), (rng.randint(4, 14), rng.randint(60, 70)), strict=True):
        top, side = rng.randint(8, 66), rng.randint(28, 38)
        ImageDraw.Draw(image).ellipse((left, top, left + side, top + side), fill=COLORS[label])
        objects.append((label, [left, top, side + 1, side + 1]))
    return image, objects


rng = random.Random(0)
with TemporaryDirectory() as name:
    folder = Path(name)
    images, annotations = [], []
    for number in range(48):
        image, objects = shelf(rng)
        image.save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 112, "height": 112})
        for label, box in objects:
            one = {"id": len(annotations), "image_id": number, "category_id": LABELS.index(label)}
            annotations.append({**one, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": number, "name": label} for number, label in enumerate(LABELS)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(coco))

    entries, reading = formats.read(folder / "annotations.json", "coco")
    rows = formats.write(to_rows(entries, reading, Rules()).entries, "jsonl", folder / "rows").written[0]
    print(json.loads(rows.read_text().splitlines()[0]))

    before = paligemma.load("nano-pt-112")
    print(check(open_source(rows), before.processor, max_tokens=128).to_text().splitlines()[0])

    config = TrainConfig(
        model="nano-pt-112", out=folder / "run", data=DataConfig(train=(SourceConfig(path=str(rows)),)),
        lora=LoraConfig(where=("lm",)), optim=OptimConfig(lr=3e-3), batch_size=6, steps=16,
    )  # fmt: skip
    train(config, quiet=True)
    after = paligemma.load("nano-pt-112", adapter=folder / "run" / "last")

image, objects = shelf(rng)
print("there: ", [(label, [left, top, left + width, top + height]) for label, (left, top, width, height) in objects])
for told, model in (("before:", before), ("after: ", after)):
    found = model.detect(image, LABELS)
    print(told, [(box.label, [round(edge) for edge in box.xyxy], round(box.score or 0.0, 2)) for box in found])
found.plot().save("boxes.png")
