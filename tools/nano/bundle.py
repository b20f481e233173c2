"""Puts a trained run into the package: bfloat16 weights, tokenizer, mask codec, and a record of how it was made."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from tools.nano.report import fit_calibration, report

import paligemma
from paligemma.api.calibrating import save_calibration
from paligemma.checkpoints import save
from paligemma.config import NANO
from paligemma.model import PaliGemmaModel

TARGET = Path(paligemma.__file__).parent / "checkpoints" / "nano"


def bundle(folder: Path, target: Path = TARGET, scenes: int = 500) -> dict:
    """Writes `target` and returns the report that lies in its nano.json."""
    model = PaliGemmaModel(NANO)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    target.mkdir(parents=True, exist_ok=True)
    save(model, target, dtype=torch.bfloat16, tokenizer_path=folder / "tokenizer.json", overwrite=True)
    shutil.copyfile(folder / "mask_codec.npz", target / "mask_codec.npz")
    (target / "calibration.json").unlink(missing_ok=True)
    save_calibration(fit_calibration(paligemma.load(target), scenes), target)
    figures = report(paligemma.load(target), scenes)
    progress = json.loads((folder / "progress.json").read_text())
    made = {"pictures": progress["seed"], "steps": progress["steps"], "seconds": progress["spent_s"]}
    record = {"name": "nano", "licence": "apache-2.0", "data": "paligemma.scenes, drawn by program", "training": made,
              "held_out": figures}  # fmt: skip
    (target / "nano.json").write_text(json.dumps(record, indent=2) + "\n")
    return record
