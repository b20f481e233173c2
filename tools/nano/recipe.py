"""Nano through its stages, each from what the one before left; `python -m tools.nano stage see`, then pt-112, ...

    see        stage 0   vision tower alone: the truth about every patch, 112 px, half of it windows of larger pictures
    pt-112     stage 1   everything, eight packed questions a picture, the patches' truth beside them
    pt-224     stage 2   the same at 224 px, reading, boxes and masks asked more often

A stage stops at its last step, or at a signal, and goes on when it is started again. Weights of a finished stage lie in
`runs/nano1/STAGE/last`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from paligemma.checkpoints import save
from paligemma.checkpoints.load import build_model, open_checkpoint
from paligemma.checkpoints.mask_codec import load_codec
from paligemma.config import nano
from paligemma.model import PaliGemmaModel, resample_positions
from paligemma.processor import Processor
from paligemma.tokenizer import Tokenizer
from paligemma.train.config import DataConfig, LossConfig, OptimConfig, TrainConfig
from paligemma.train.loop import Trainer
from paligemma.train.objective import Objective
from paligemma.train.pretraining.scenes import ScenePlan, SceneStream
from paligemma.train.pretraining.scratch import initialise
from paligemma.train.pretraining.seeing import PatchObjective, SeeAndSpeakObjective
from paligemma.train.reports.report import Journal, Terminal
from paligemma.train.saving.state import RunState

OPTIM = OptimConfig(
    lr=1.2e-3, betas=(0.9, 0.98), weight_decay=0.02, decay_rule="matrices", schedule="rsqrt", warmup=150, timescale=1500
)
LOSS = LossConfig(per="token", location_spread=5.0, mask_token_weight=0.25)
LANGUAGES: Mapping[str, float] = {"en": 0.32, "de": 0.17, "fr": 0.17, "es": 0.17, "zh": 0.17}
READ_MORE: Mapping[str, float] = {"objects": 0.45, "text": 0.28, "hand": 0.1, "chart": 0.09, "table": 0.08}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the recipe.

    Attributes:
        after: the stage whose weights it begins with.
        patch_weight: of the patches' truth beside the questions.
    """

    name: str
    after: str | None
    image_size_px: int
    plan: ScenePlan
    steps: int
    optim: OptimConfig = OPTIM
    patch_weight: float = 0.3
    loss: LossConfig = field(default_factory=lambda: LOSS)


STAGES = {
    step.name: step
    for step in (
        Step(
            name="see", after=None, image_size_px=112, steps=12_000, optim=replace(OPTIM, lr=1.5e-3),
            plan=ScenePlan(pictures=64, micro=64, questions=0, zoomed=0.4, text_zoomed=2.2, kinds=READ_MORE),
        ),
        Step(
            name="pt-112", after="see", image_size_px=112, steps=12_000,
            optim=replace(OPTIM, vision_lr_scale=0.5, vision_warmup=300),
            plan=ScenePlan(pictures=32, micro=32, alone=0.25, languages=LANGUAGES),
        ),
        Step(
            name="pt-224", after="pt-112", image_size_px=224, steps=12_000,
            optim=replace(OPTIM, lr=9e-4, vision_lr_scale=0.5),
            plan=ScenePlan(pictures=16, micro=16, alone=0.25, kinds=READ_MORE, languages=LANGUAGES),
        ),
    )
}  # fmt: skip


def run(name: str, folder: Path, threads: int) -> None:
    """Goes through one stage, from where it stopped."""
    stage = STAGES[name]
    config = nano(stage.image_size_px)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    processor = Processor(tokenizer, image_size_px=stage.image_size_px, num_image_tokens=config.vision.num_image_tokens)
    codec = load_codec(folder / "mask_codec.npz") if stage.plan.questions else None
    first_location = config.text.vocab_size - 1152
    model = PaliGemmaModel(config)
    initialise(model, seed=0, first_location=first_location)
    if stage.after:
        begin_with(model, folder / stage.after / "last")
    objective: Objective = PatchObjective(model)
    if stage.plan.questions:
        objective = SeeAndSpeakObjective(
            model, stage.loss, first_location=first_location, patch_weight=stage.patch_weight
        )
    out = folder / name
    if not stage.plan.questions:
        model.language_model.requires_grad_(False)
        model.projector.requires_grad_(False)

    def export(kind: str) -> None:
        save(model, out / kind, tokenizer_path=folder / "tokenizer.json", overwrite=True)

    order = list(STAGES).index(name)
    stream = SceneStream(processor, stage.plan, codec, first_seed=order * 10_000_000)
    settings = TrainConfig(
        out=out, optim=stage.optim, loss=stage.loss, batch_size=stage.plan.pictures, steps=stage.steps,
        data=DataConfig(workers=1), threads=threads, save_every=0, save_minutes=4.0,
    )  # fmt: skip
    with RunState(out) as state:
        observers = [Journal(out), Terminal(stage.steps, every_s=30)]
        facts = {"stage": name, "data": stream.fingerprint}
        trainer = Trainer(
            objective,
            stream,
            settings,
            observers=observers,
            state=state,
            export=export,
            facts=facts,
            bad_steps=out / "bad",
        )
        print(json.dumps(vars(trainer.run()), default=str))


def begin_with(model: PaliGemmaModel, directory: Path) -> None:
    """Takes the weights of an earlier stage, its position table resampled to the resolution as the reference does."""
    opened = open_checkpoint(directory)
    before = build_model(opened, dtype=torch.float32, device=torch.device("cpu"))
    weights = before.state_dict()
    name = "vision_tower.position_embedding"
    weights[name] = resample_positions(weights[name], model.config.vision.grid_size)
    model.load_state_dict(weights)
