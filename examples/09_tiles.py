"""Small objects in a large picture: overlapping windows are asked one by one and their answers merged."""

from PIL import Image

import paligemma
from paligemma.scenes import draw_scene

scenes = [draw_scene(1_000_000_000 + k, 224, "objects") for k in range(9)]
sheet = Image.new("RGB", (672, 672))  # nine drawn scenes side by side
for i, scene in enumerate(scenes):
    sheet.paste(scene.image, (i % 3 * 224, i // 3 * 224))
label = scenes[0].things[0].label
there = sum(thing.label == label for scene in scenes for thing in scene.things)

model = paligemma.load()
found = model.detect(sheet, label, tiles=True)
print(f"{label}: {there} there, {len(model.detect(sheet, label))} found in the whole picture, {len(found)} with tiles")
print("scores:", [round(box.score, 2) for box in found])
found.plot().save("tiles.png")
