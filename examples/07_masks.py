"""Masks of a data set as training lines: a PNG of ids, polygons, run lengths -> `<loc>` and `<seg>` tokens, and back"""

import numpy as np
from PIL import Image

from paligemma.checkpoints import find_codec, load_codec, resolve
from paligemma.scenes import draw_scene
from paligemma.tasks.mask_sources import read_instances
from paligemma.tasks.masks import decoder, round_trip
from paligemma.tasks.segment import format_segments, parse_segments, segment_prompt

codec = load_codec(find_codec(resolve("nano")))

# A drawn picture, whose objects' masks are written as data sets keep them: here as one picture of object numbers.
scene = draw_scene(seed=3, size_px=224, kind="objects")
width, height = scene.image.size
ids = np.zeros((height, width), np.uint8)
for number, thing in enumerate(scene.things, start=1):
    ids[thing.mask] = number
Image.fromarray(ids).save("ids.png")

masks = read_instances("ids.png")
labels = [scene.things[number - 1].label for number in masks]
result = round_trip(codec, masks.values(), labels)
print(result.to_text())

prefix, suffix = segment_prompt(list(dict.fromkeys(labels))).text, format_segments(result.boxes)
print(f"{prefix} -> {suffix[:70]}...")

# Polygons and COCO's run lengths of the same objects give the same tokens.
polygons = round_trip(codec, [mask.polygons(0) for mask in masks.values()], labels, image_size_px=(width, height))
runs = round_trip(codec, [mask.rle() for mask in masks.values()], labels)
print("same tokens:", format_segments(polygons.boxes) == suffix == format_segments(runs.boxes))

# What a model that answers so would mean, in pixels.
answer = parse_segments(suffix, (width, height), decode=decoder(codec))
for box, mask in zip(answer.boxes, masks.values(), strict=True):
    print(f"{box.label}: {mask.area_px} px drawn, {box.mask.area_px} px decoded, IoU {box.mask.iou(mask):.2f}")
