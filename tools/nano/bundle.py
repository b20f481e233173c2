"""Puts finished stages into the package: int8 weights of each, what they share once, and a record of how good they are.

nano/tokenizer.json, mask_codec.npz    shared by all
nano/nano.json                         figures of each, before and after int8; the tables of docs/nano.md
nano/nano-mix-224/int8.safetensors     weights, with config.json, calibration.json, ... beside them
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tools.nano import page
from tools.nano.recipe import STAGES
from tools.nano.report import SHARED, assembled, calibration_error, fitted, judged, seeing

import paligemma
from paligemma.api.calibrating import save_calibration
from paligemma.checkpoints import convert
from paligemma.checkpoints.hub import BUNDLE, CALIBRATION
from paligemma.train.judging.benchmark import Report

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = {f"nano-{name}": name for name, stage in STAGES.items() if stage.plan.questions}  # name: the stage it is
PICTURED = "nano-mix-224"
RECORD = "nano.json"


def bundle(
    folder: Path, target: Path = BUNDLE, *, scenes: int = 2000, compared: int = 500, only: str | None = None,
    docs: Path = DOCS,
) -> dict[str, Any]:  # fmt: skip
    """Writes `target` and the tables and pictures of `docs/nano.md`; returns the record.

    Args:
        folder: of the run, with a folder for each stage.
        scenes: held-out ones the figures are about.
        compared: how many of them the weights before int8 are asked about too.
        only: one model; what is known of the others stays.
    """
    target.mkdir(parents=True, exist_ok=True)
    page.draw_examples(EXAMPLES)
    for name in SHARED:
        shutil.copyfile(folder / name, target / name)
    file = target / RECORD
    record: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    record |= {"licence": "apache-2.0", "data": "paligemma.scenes, drawn by program"}
    models = record.setdefault("models", {})
    for name in [only] if only else MODELS:
        models[name] = one(name, folder, target, scenes, compared, docs)
    record["models"] = {name: models[name] for name in MODELS if name in models}
    record["seeing"] = {
        stage: seeing(folder / stage, folder / SHARED[0], compared)
        for stage in STAGES
        if (folder / stage / "heads.safetensors").is_file()
    }
    record["training"] = {stage: told for stage in STAGES if (told := training(folder / stage))}
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(record, docs)
    return record


def one(name: str, folder: Path, target: Path, scenes: int, compared: int, docs: Path) -> dict[str, Any]:
    """Converts, calibrates and judges one model; returns its entry of the record."""
    weights, home = folder / MODELS[name] / "last", target / name
    convert(weights, home, format="int8", overwrite=True)
    for file in (*SHARED, CALIBRATION):
        (home / file).unlink(missing_ok=True)
    with assembled(weights, folder, name) as place:
        before = judged(place, compared)
    with assembled(home, folder, name) as place:
        rounded = judged(place, compared)
        calibration = fitted(place, compared)
        whole = rounded if scenes == compared else judged(place, scenes)
    save_calibration(calibration, home)
    if name == PICTURED:
        page.save_pictures(whole, docs / "images" / "nano")
        with assembled(home, folder, name) as place:
            page.save_demo(paligemma.load(place), EXAMPLES / "scene.png", docs / "images" / "demo.png")
    errors = {
        "calibration_error_raw": round(calibration_error(whole), 4),
        "calibration_error": round(calibration_error(whole, calibration), 4),
    }
    return {
        "stage": MODELS[name],
        "bytes": (home / "int8.safetensors").stat().st_size,
        "int8": {**whole.to_dict(), **errors}, "float": brief(before), "rounded": brief(rounded),
    }  # fmt: skip


def brief(report: Report) -> dict[str, Any]:
    """Facts and figures without their parts."""
    return {key: value for key, value in report.to_dict().items() if not key.startswith("by_")}


def training(stage: Path) -> dict[str, Any]:
    """Steps of a stage, the pictures they learnt from and the minutes they took, by its journal; empty without one."""
    journal, times = (_rows(stage / name) for name in ("metrics.jsonl", "timings.jsonl"))
    pictures = {row["step"]: row["examples"] for row in journal if "examples" in row}
    seconds = {row["step"]: row["seconds"] for row in times if "seconds" in row}
    if not pictures:
        return {}
    return {
        "steps": len(pictures), "pictures": round(sum(pictures.values())),
        "minutes": round(sum(seconds.values()) / 60),
    }  # fmt: skip


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def write_page(record: dict[str, Any], docs: Path) -> None:
    """Puts the tables into nano.md, where it has a place for them."""
    file = docs / "nano.md"
    if file.is_file() and page.BEGIN in (text := file.read_text(encoding="utf-8")):
        file.write_text(page.placed(text, record), encoding="utf-8")
