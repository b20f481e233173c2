"""Boxes with scores and masks: choose among them, draw them, cut them out, and write them for other programs."""

from pathlib import Path

import paligemma
from paligemma.results import export

pictures = sorted(Path(__file__).parent.glob("scene*.png"))
model = paligemma.load()

several = model.detect(pictures, ["cat", "sun"])
for found in several:
    for box in found[found.scores > 0.3]:
        print(f"{Path(found.paths[0]).name}: {box.label} {box.score:.2f} at {[round(edge) for edge in box.xyxy]}")

cats = several[0].filter(labels="cat", min_area_px=400).nms(iou=0.5)
cats.plot().save("cats.png")
print([path.name for path in cats.save_crops("crops", margin=0.1)])

print("one file for all pictures:", export.write_coco(several, "found.json"), export.write_csv(several, "found.csv"))

masks = [box.mask for box in model.segment(pictures[0], "cat") if box.mask is not None]
print("pixels of each mask:", [mask.area_px for mask in masks])
