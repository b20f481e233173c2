"""Small objects in large pictures: what the bundled model finds with and without tiles.

    python benchmarks/tiles.py [--sheets 12] [--grid 3]

A sheet is grid x grid drawn scenes of 224 px side by side, so each object has a third of its usual side once the sheet
is squeezed into the model's 224 px. Every sheet is asked for every label that is in it, the label alone in the prompt.
Recall and precision at IoU 0.5, and the mean number of seconds for one question.
"""

import argparse
import time

import numpy as np
from PIL import Image

import paligemma
from paligemma.api import Tiles
from paligemma.metrics.detection import match
from paligemma.scenes import draw_scene

SIDE_PX = 224
WAYS = {
    "whole picture": None,
    "tiles=True": True,
    "Tiles(size_px=300)": Tiles(size_px=300),
    "tiles=(3, 3)": (3, 3),
    "tiles=(4, 4)": (4, 4),
    "tiles=(4, 4), windows only": Tiles(rows=4, cols=4, include_whole=False),
}


def sheet(seed, grid):
    """A picture of grid x grid scenes, and label -> boxes [n, 4] in pixels, x first."""
    picture = Image.new("RGB", (grid * SIDE_PX, grid * SIDE_PX))
    truth = {}
    for i in range(grid * grid):
        scene = draw_scene(10**9 + seed * grid * grid + i, SIDE_PX, "objects")
        left, top = i % grid * SIDE_PX, i // grid * SIDE_PX
        picture.paste(scene.image, (left, top))
        for thing in scene.things:
            y1, x1, y2, x2 = (value * SIDE_PX for value in thing.box)
            truth.setdefault(thing.label, []).append((left + x1, top + y1, left + x2, top + y2))
    return picture, {label: np.array(boxes) for label, boxes in truth.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sheets", type=int, default=12)
    parser.add_argument("--grid", type=int, default=3)
    arguments = parser.parse_args()
    model = paligemma.load()
    sheets = [sheet(seed, arguments.grid) for seed in range(arguments.sheets)]
    for name, tiles in WAYS.items():
        true = right = found_in_all = questions = 0
        began = time.perf_counter()
        for picture, truth in sheets:
            for label, boxes in truth.items():
                found = model.detect(picture, label, tiles=tiles, batch_size=16)
                hits = match(found.xyxy, np.nan_to_num(found.scores), boxes)
                true, right = true + hits.true, right + int(hits.correct.sum())
                found_in_all, questions = found_in_all + len(found), questions + 1
        seconds = (time.perf_counter() - began) / questions
        print(f"{name:28} recall {right / true:.3f}  precision {right / max(1, found_in_all):.3f}  {seconds:.2f} s")
    print(f"{questions} questions, {true} objects, {len(sheets)} sheets of {arguments.grid} x {arguments.grid} scenes")


if __name__ == "__main__":
    main()
