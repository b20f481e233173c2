"""An adapter made part of its model: one checkpoint like any other, with a report of how near it computes."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import paligemma
from paligemma.checkpoints.merging import merge
from paligemma.train.config import DataConfig, LoraConfig, OptimConfig, SourceConfig, TrainConfig
from paligemma.train.run import train

with TemporaryDirectory() as name:
    folder = Path(name)
    picture = Path(shutil.copy(Path(__file__).with_name("scene.png"), folder))
    rows = folder / "train.jsonl"
    rows.write_text('{"image": "scene.png", "prefix": "caption en", "suffix": "a cat on a red moon"}\n')
    config = TrainConfig(
        model="nano-pt-112", out=folder / "run", data=DataConfig(train=(SourceConfig(path=str(rows)),)),
        lora=LoraConfig(where=("lm",)), optim=OptimConfig(lr=5e-3), batch_size=2, steps=12,
    )  # fmt: skip
    train(config, quiet=True)
    adapter = folder / "run" / "last"

    report = merge("nano-pt-112", adapter, folder / "merged", dtype="float32")
    print(f"{report.layers} adapted layers merged: {report.num_bytes / 2**20:.1f} MiB")
    print(
        f"logits differ by {report.max_logits_difference:.1e}; the adapter changed them by {report.adapter_effect:.1e}"
    )

    print("base:  ", paligemma.load("nano-pt-112").caption(picture).text)
    print("apart: ", paligemma.load("nano-pt-112", adapter=adapter).caption(picture).text)
    print("merged:", paligemma.load(folder / "merged").caption(picture).text)
