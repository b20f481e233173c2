"""Caption, question and detection on one picture, with the bundled model."""

from pathlib import Path

import paligemma

picture = Path(__file__).with_name("scene.png")
model = paligemma.load()

print(model.caption(picture).text)
print(model.ask(picture, "how many cats are there?").text)

found = model.detect(picture, ["cat", "sun"])
for box in found:
    print(box.label, [round(side) for side in box.xyxy], "px")
found.plot().save("found.png")
