"""What each stage of nano gets right on scenes that no training saw: measured as `paligemma evaluate` does.

In: folders of models, the tower's read-outs. Out: plain figures for JSON (`judged`, `seeing`) and the calibration of a
model's scores. Not done here: tables and pictures (`page`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import paligemma
from paligemma.checkpoints import load_checkpoint
from paligemma.metrics import Calibration, expected_calibration_error
from paligemma.metrics.calibration import fit
from paligemma.processor import Processor
from paligemma.scenes import draw_scene
from paligemma.scenes.patches import BLANK, NOTHING, READ_AT, UNKNOWN, patch_truth
from paligemma.tokenizer import Tokenizer
from paligemma.train.judging.benchmark import Report, evaluate
from paligemma.train.judging.grading import Grade
from paligemma.train.judging.scene_questions import SCENES_HELD_OUT
from paligemma.train.pretraining.seeing import PatchBatch, PatchHeads

SEED = 0  # of the scenes that are reported on
CALIBRATION_SEED = 1000  # of those the calibration is fitted on
BATCH = 32
SHARED = ("tokenizer.json", "mask_codec.npz")  # beside the folders of the models


@contextmanager
def assembled(weights: Path, shared: Path, name: str) -> Iterator[Path]:
    """A folder called `name` that holds a model and, by links, what it shares with others."""
    with TemporaryDirectory() as place:
        folder = Path(place) / name
        folder.mkdir()
        for file in weights.iterdir():
            (folder / file.name).symlink_to(file.resolve())
        for file in SHARED:
            if not (folder / file).exists():
                (folder / file).symlink_to((shared / file).resolve())
        yield folder


def judged(folder: Path, scenes: int, seed: int = SEED, kinds: Sequence[str] | None = None) -> Report:
    """The report on `scenes` held-out scenes."""

    def progress(done: int, total: int) -> None:
        if done % 100 == 0:
            print(f"{folder.name}: {done} of {total} pictures", flush=True)

    return evaluate(paligemma.load(folder), seed=seed, limit=scenes, kinds=kinds, batch_size=BATCH, on_example=progress)


def fitted(folder: Path, scenes: int) -> Calibration:
    """The calibration of a model without one, from scenes that are neither trained on nor reported on."""
    found = fit(*scored(judged(folder, scenes, CALIBRATION_SEED, ["detect"]).grades))
    return Calibration(temperature=round(found.temperature, 4), shift=round(found.shift, 4), examples=found.examples)


def calibration_error(report: Report, calibration: Calibration | None = None) -> float:
    """Of the scores of `detect`, mended by `calibration`."""
    scores, correct = scored(report.grades)
    return expected_calibration_error((calibration or Calibration()).apply(scores), correct)


def scored(grades: Sequence[Grade]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score and rightness of every box that was found."""
    matches = [one.match for one in grades if one.match is not None]
    if not matches:
        return np.zeros(0), np.zeros(0, bool)
    return np.concatenate([m.scores for m in matches]), np.concatenate([m.correct for m in matches])


@torch.inference_mode()
def seeing(stage: Path, tokenizer: Path, scenes: int) -> dict[str, Any]:
    """What linear read-outs of a stage's tower say rightly about single patches.

    Args:
        stage: folder with `last`, a model, and `heads.safetensors`, its read-outs.
    """
    model = load_checkpoint(stage / "last", dtype="float32").model
    vision = model.config.vision
    heads = PatchHeads(vision.width)
    kept = load_file(stage / "heads.safetensors").items()
    heads.load_state_dict({key.removeprefix("heads."): value for key, value in kept if key.startswith("heads.")})
    processor = Processor(
        Tokenizer.load(tokenizer), image_size_px=vision.image_size_px, num_image_tokens=vision.num_image_tokens
    )
    right, total = np.zeros(3), np.zeros(3)
    for start in range(0, scenes, BATCH):
        drawn = [
            draw_scene(SCENES_HELD_OUT + number, vision.image_size_px)
            for number in range(start, min(start + BATCH, scenes))
        ]
        truth = PatchBatch.of([patch_truth(scene, vision.grid_size) for scene in drawn])
        seen = model.vision_tower(torch.stack([processor.pixels(scene.image) for scene in drawn]))
        read = heads.characters(seen).unflatten(-1, (len(READ_AT), -1))
        parts = (
            (heads.label(seen).argmax(-1), truth.label, truth.label != NOTHING),
            (heads.color(seen).argmax(-1), truth.color, truth.color != UNKNOWN),
            (read.argmax(-1), truth.characters, truth.characters != BLANK),
        )
        for i, (said, true, there) in enumerate(parts):
            right[i] += int((said == true)[there].sum())
            total[i] += int(there.sum())
    names = ("patch_object", "patch_color", "patch_character")
    shares = {name: round(float(r / max(1, n)), 4) for name, r, n in zip(names, right, total, strict=True)}
    return {"scenes": scenes, **shares, "n": dict(zip(names, total.astype(int).tolist(), strict=True))}
