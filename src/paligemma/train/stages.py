"""The training recipe of the published models as values: what each stage sees, for how long, at which rates.

    stage 0  the towers apart: SigLIP and Gemma, as they were published; nano: the truth about every patch
    stage 1  everything trained together at the lowest resolution
    stage 2  higher resolutions, longer texts, tasks that need detail asked more often
    stage 3  transfer to one task (pt -> ft) or to a mixture (pt -> mix)

`stage_config(1, "paligemma2-3b-pt-224")` is a `TrainConfig` with these numbers; options and a file change single ones.
What was not published is marked "ours". Sources: PaliGemma report (arXiv 2407.07726) sections 3.2 and 5, PaliGemma 2
report (arXiv 2412.03555) section 3, big_vision `configs/proj/paligemma`.
"""

from dataclasses import dataclass

from paligemma.config import Variant, find_variant
from paligemma.data.sources import DRAWN_TEXT_TOKENS
from paligemma.errors import UsageError
from paligemma.train.config import DataConfig, LossConfig, OptimConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage at one resolution.

    Attributes:
        image_size_px, text_tokens: of a row.
        examples: seen in all; None where the data decide (`epochs`).
        lr: for the 3B of the first generation; `LR_SCALE` has the others.
        batch_size: examples of a step.
        train: parts that move, see `train.config.PARTS`.
    """

    name: str
    what: str
    image_size_px: int
    text_tokens: int
    examples: int | None
    lr: float
    batch_size: int
    schedule: str
    train: tuple[str, ...] = ("all",)
    vision_warmup: float = 0.0
    epochs: float | None = None


BATCH_SIZE = 2048  # ours: that of stages 1 and 2 was not published
WARMUP_STEPS = 10_000  # ours, as is the time scale of the root: only that the schedule is one without an end is known
VISION_WARMUP = 0.1  # ours: "a slow linear warm-up" of the tower's rate is known, not its length

STAGES: tuple[Stage, ...] = (
    Stage(
        name="1", what="multimodal pre-training", image_size_px=224, text_tokens=128, examples=1_000_000_000,
        lr=2e-5, batch_size=BATCH_SIZE, schedule="rsqrt", vision_warmup=VISION_WARMUP,
    ),
    Stage(
        name="2a", what="resolution increase", image_size_px=448, text_tokens=512, examples=50_000_000,
        lr=2e-5, batch_size=BATCH_SIZE, schedule="rsqrt",
    ),
    Stage(
        name="2b", what="resolution increase", image_size_px=896, text_tokens=512, examples=10_000_000,
        lr=2e-5, batch_size=BATCH_SIZE, schedule="rsqrt",
    ),
    Stage(
        name="3", what="transfer, first try", image_size_px=224, text_tokens=128, examples=None, epochs=10,
        lr=1e-5, batch_size=256, schedule="cosine",
    ),
)  # fmt: skip

# Learning rates of stages 1 and 2 relative to the first generation's 3B (PaliGemma 2 report, section 3). For transfers
# the report swept 0.03 to 3 times 1e-5 for each task; larger models want smaller ones.
LR_SCALE = {
    ("PaliGemma", "3B"): 1.0,
    ("PaliGemma 2", "3B"): 0.5,
    ("PaliGemma 2", "10B"): 0.25,
    ("PaliGemma 2", "28B"): 0.25,
}

# Tasks that need detail are asked more often in stage 2 (report, section 3.2.3); by how much was not published: ours.
DETAIL_WEIGHT = {"ocr": 3.0, "detect": 2.0, "segment": 2.0}


def stage_config(stage: int, model: str, image_size_px: int | None = None) -> TrainConfig:
    """The published numbers of a stage for a model; data and output folder are still to be filled in.

    Args:
        stage: 1, 2 or 3. Stage 0 trains the vision tower of a drawn world alone (`python -m tools.nano`).
        model: where to start.
        image_size_px: the resolution to train at; default the stage's first, for stage 3 the model's own.

    Raises:
        UsageError: no such stage, or a resolution it was not published for.
    """
    found = [one for one in STAGES if one.name.startswith(str(stage))]
    if not found:
        known = sorted({int(one.name[0]) for one in STAGES})
        raise UsageError(
            f"found stage {stage}, expected one of {known}; stage 0 is two published models, not a training"
        )
    if stage == 3:
        return _config(found[0], model, image_size_px)
    wanted = image_size_px or found[0].image_size_px
    for one in found:
        if one.image_size_px == wanted:
            return _config(one, model, wanted)
    sizes = ", ".join(str(one.image_size_px) for one in found)
    raise UsageError(f"found stage {stage} at {wanted} px, expected one of {sizes}; name one, or train without a stage")


def _config(stage: Stage, model: str, image_size_px: int | None) -> TrainConfig:
    scale = lr_scale(model)
    rsqrt = stage.schedule == "rsqrt"
    return TrainConfig(
        model=model,
        stage=int(stage.name[0]),
        data=DataConfig(max_tokens=text_tokens(stage, model)),
        train=stage.train,
        loss=LossConfig(per="example", softcap=False),
        optim=OptimConfig(
            lr=stage.lr * scale,
            schedule="rsqrt" if rsqrt else "cosine",
            warmup=WARMUP_STEPS if rsqrt else 0.05,
            vision_warmup=stage.vision_warmup,
        ),
        batch_size=stage.batch_size,
        steps=None if stage.examples is None else stage.examples // stage.batch_size,
        epochs=stage.epochs,
        image_size_px=image_size_px,
        checkpointing=True,
    )


def text_tokens(stage: Stage, model: str) -> int:
    """Of a row; nano's smaller vocabulary spells the same text with more of them."""
    known = _variant(model)
    real = known is not None and known.kind != "nano"
    return stage.text_tokens if real else max(stage.text_tokens, DRAWN_TEXT_TOKENS)


def lr_scale(model: str) -> float:
    """How much smaller the rates of this model's size are; 1 for what is not published."""
    known = _variant(model)
    return 1.0 if known is None else LR_SCALE.get((known.family, known.size), 1.0)


def _variant(model: str) -> Variant | None:
    return find_variant(model.removeprefix("scratch:"))


def table() -> str:
    """The stages as a Markdown table."""
    lines = [
        "| stage | what | px | text tokens | examples | learning rate | batch | schedule |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in STAGES:
        examples = f"{one.examples:,}" if one.examples else f"{one.epochs:g} epochs"
        lines.append(
            f"| {one.name} | {one.what} | {one.image_size_px} | {one.text_tokens} | {examples} | {one.lr:g} | "
            f"{one.batch_size:,} | {one.schedule} |"
        )
    return "\n".join(lines)
