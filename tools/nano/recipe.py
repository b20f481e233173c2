"""Nano through its stages, each from what the one before left; `python -m tools.nano stage see`, then pt-112, ...

    see        stage 0   vision tower alone: the truth about every patch, 112 px, half of it windows of larger pictures
    pt-112     stage 1   everything, eight packed questions a picture, the truth about patches and names beside them
    pt-224     stage 2   the same at 224 px, with more to read
    mix-224    stage 3   more masks, which weigh more; the rate falls to 0

A stage stops at its last step, or at a signal, and goes on when it is started again. Weights of a finished stage lie in
`runs/nano1/STAGE/last`, the read-outs, which the next stage takes up, in `STAGE/heads.safetensors`. On two CPU cores
two processes are faster than two threads: `torchrun --nproc-per-node 2 -m tools.nano stage see --threads 1`.
"""

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paligemma.checkpoints import save
from paligemma.checkpoints.load import build_model, open_checkpoint
from paligemma.checkpoints.mask_codec import load_codec
from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS, nano
from paligemma.model import PaliGemmaModel, resample_positions
from paligemma.processor import Processor
from paligemma.tokenizer import Tokenizer
from paligemma.train.checks.preflight import grouped
from paligemma.train.config import DataConfig, LossConfig, OptimConfig, TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.loop import Trainer
from paligemma.train.pretraining.looking import SeeAndSpeakObjective
from paligemma.train.pretraining.packed_checks import check_scenes
from paligemma.train.pretraining.scenes import ScenePlan, SceneStream
from paligemma.train.pretraining.scratch import initialise
from paligemma.train.pretraining.seeing import PatchObjective
from paligemma.train.reports.report import Journal, Terminal
from paligemma.train.saving.state import RunState

OPTIM = OptimConfig(
    name="muon", lr=1.2e-3, betas=(0.9, 0.98), weight_decay=0.02, decay_rule="matrices",
    schedule="rsqrt", warmup=150, timescale=1500,
)  # fmt: skip
LOSS = LossConfig(per="root", location_spread=5.0, mask_token_weight=0.25, chunk=16_384)
CODEC = "mask_codec.npz"
LANGUAGES: Mapping[str, float] = {"en": 0.32, "de": 0.17, "fr": 0.17, "es": 0.17, "zh": 0.17}
OFTENER: Mapping[str, float] = {  # an answer of one word is learnt slowly, one that compares two things slowest
    **{"caption": 1.5, "presence": 3.0, "relation": 5.0, "size": 8.0, "count": 2.0, "read": 1.5}
}
READ_MORE: Mapping[str, float] = {"objects": 0.5, "text": 0.26, "hand": 0.07, "chart": 0.09, "table": 0.08}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the recipe.

    Attributes:
        after: the stage whose weights it begins with.
        patch_weight, mention_weight: of the truth about patches and about what questions name beside the answers.
    """

    name: str
    after: str | None
    image_size_px: int
    plan: ScenePlan
    steps: int
    optim: OptimConfig = OPTIM
    patch_weight: float = 0.3
    mention_weight: float = 0.3
    loss: LossConfig = field(default_factory=lambda: LOSS)


STAGES = {
    step.name: step
    for step in (
        Step(
            name="see", after=None, image_size_px=112, steps=5_623, optim=replace(OPTIM, lr=1.5e-3),
            plan=ScenePlan(pictures=64, micro=64, questions=0, zoomed=0.4, text_zoomed=2.2, kinds=READ_MORE),
        ),
        Step(
            name="pt-112", after="see", image_size_px=112, steps=8_000,
            optim=replace(OPTIM, vision_lr_scale=0.5, vision_warmup=400),
            plan=ScenePlan(
                pictures=160, micro=160, alone=0.1, clips=10, moving=0.25, oftener=OFTENER, languages=LANGUAGES
            ),
        ),
        Step(
            name="pt-224", after="pt-112", image_size_px=224, steps=8_000,
            plan=ScenePlan(
                pictures=160, micro=160, questions=12, alone=0.1, clips=10, moving=0.1, kinds=READ_MORE,
                oftener=OFTENER, languages=LANGUAGES,
            ),
        ),
        Step(
            name="mix-224", after="pt-224", image_size_px=224, steps=3_000,
            optim=replace(OPTIM, schedule="cosine", warmup=50),
            loss=replace(LOSS, mask_token_weight=0.5),
            plan=ScenePlan(
                pictures=160, micro=160, questions=12, alone=0.08, clips=10, moving=0.15, kinds=READ_MORE,
                oftener={**OFTENER, "segment": 2.0}, languages=LANGUAGES,
            ),
        ),
    )
}  # fmt: skip


def run(
    name: str, folder: Path, *,
    threads: int = 2, workers: int = 1, device: str = "cpu", steps: int = 0, pictures: int = 0,
) -> None:  # fmt: skip
    """Goes through one stage, from where it stopped; `steps` and `pictures` of a step instead of the recipe's."""
    stage = STAGES[name] if not pictures else with_pictures(STAGES[name], pictures)
    tokenizer_file, codec_file, out = folder / "tokenizer.json", folder / CODEC, folder / name
    objective = objective_of(stage, folder)
    stream = stream_of(stage, folder)

    def export(kind: str) -> None:
        if parallel.main:
            codec = codec_file if codec_file.exists() else None
            save(objective.model, out / kind, tokenizer_path=tokenizer_file, codec_path=codec, overwrite=True)
            save_file(read_outs(objective), out / "heads.safetensors")

    settings = TrainConfig(
        out=out, optim=stage.optim, loss=stage.loss, batch_size=stage.plan.pictures, steps=steps or stage.steps,
        data=DataConfig(workers=workers), threads=threads, compile=True,
        save_every=0, save_minutes=4.0,
    )  # fmt: skip
    with Parallel.start("auto", device) as parallel:
        if parallel.main and isinstance(objective, SeeAndSpeakObjective):
            for warning in grouped(check_scenes(objective.to(parallel.device), stream, settings.precision)):
                print(f"warning: {warning}", file=sys.stderr)
        state = RunState(out, device=parallel.device, world=parallel.world)
        with state if parallel.main else nullcontext():
            trainer = Trainer(
                objective,
                stream,
                settings,
                observers=[Journal(out), Terminal(settings.steps or 0, every_s=30)] if parallel.main else [],
                state=state,
                export=export,
                facts={"stage": name, "data": stream.fingerprint},
                bad_steps=out / "bad",
                parallel=parallel,
            )
            print(json.dumps(vars(trainer.run()), default=str))


def with_pictures(stage: Step, pictures: int) -> Step:
    """The stage in smaller or larger steps; the rate follows the square root, clips stay in proportion."""
    plan, share = stage.plan, pictures / stage.plan.pictures
    clips = round(plan.clips * share)
    optim = replace(stage.optim, lr=stage.optim.lr * share**0.5)
    return replace(
        stage, optim=optim, plan=replace(plan, pictures=pictures, micro=min(plan.micro, pictures), clips=clips)
    )


def objective_of(stage: Step, folder: Path) -> PatchObjective | SeeAndSpeakObjective:
    """What the stage minimises, with the weights and read-outs of the stage before."""
    config = nano(stage.image_size_px)
    first_location = config.text.vocab_size - NUM_LOC_TOKENS - NUM_SEG_TOKENS
    model = PaliGemmaModel(config)
    initialise(model, seed=0, first_location=first_location)
    objective: PatchObjective | SeeAndSpeakObjective
    if stage.plan.questions:
        objective = SeeAndSpeakObjective(
            model, stage.loss, first_location=first_location, patch_weight=stage.patch_weight,
            mention_weight=stage.mention_weight,
        )  # fmt: skip
    else:
        objective = PatchObjective(model)
        model.language_model.requires_grad_(False)
        model.projector.requires_grad_(False)
    if stage.after:
        begin_with(model, folder / stage.after / "last")
        kept = load_file(folder / stage.after / "heads.safetensors")
        unknown = objective.load_state_dict(kept, strict=False).unexpected_keys  # what is missing is new in this stage
        assert not unknown, f"{stage.after}/heads.safetensors has {unknown}, expected read-outs of {stage.name}"
    return objective


def read_outs(objective: PatchObjective | SeeAndSpeakObjective) -> dict[str, Tensor]:
    """What an objective has beside the model: the linear read-outs of patches, names and prompts."""
    return {name: value for name, value in objective.state_dict().items() if not name.startswith("model.")}


def stream_of(stage: Step, folder: Path) -> SceneStream:
    """The stage's scenes; no scene is seen in two stages."""
    config = nano(stage.image_size_px)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    processor = Processor(tokenizer, image_size_px=stage.image_size_px, num_image_tokens=config.vision.num_image_tokens)
    codec = load_codec(folder / CODEC) if stage.plan.questions else None
    return SceneStream(processor, stage.plan, codec, first_seed=list(STAGES).index(stage.name) * 10_000_000)


def begin_with(model: PaliGemmaModel, directory: Path) -> None:
    """Takes the weights of an earlier stage, its position table resampled to the resolution as the reference does."""
    opened = open_checkpoint(directory)
    before = build_model(opened, dtype=torch.float32, device=torch.device("cpu"))
    weights = before.state_dict()
    name = "vision_tower.position_embedding"
    weights[name] = resample_positions(weights[name], model.config.vision.grid_size)
    name = "language_model.embed_tokens.weight"
    weights[name] = weights[name][: model.config.text.embedding_rows]  # the files have empty rows behind `<image>`
    model.load_state_dict(weights)
