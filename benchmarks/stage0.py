"""How a vision tower should begin, judged by what stage 1 makes of it.

    python benchmarks/stage0.py --steps 400 400 --json out.json      the same pictures for both objectives
    python benchmarks/stage0.py --minutes 15 --json out.json         the same time
    python benchmarks/stage0.py --device cuda --size nano --pictures 512 256 --workers 12 --minutes 10 --json out.json

*patches*: stage 0 is the truth about every patch. *contrastive*: SigLIP's loss on the same pictures and their captions.
*none*: stage 1 begins with a random tower; *none, longer* spends the time of the first column's stage 0 on stage 1 too.
Stage 1 is the same in all columns: plain scenes of objects, packed questions in English, the suffix loss alone, a new
decoder each time; of stage 0 the tower is kept and nothing else. The rate of the contrastive objective is the best of
`--rates` in a quarter of its steps, by held-out pairs; the other objective has nano's.

Judged on scenes no column has seen: mean suffix loss, and answers through the public interface. Time is the processor's
on a CPU, so that a busy machine changes little, and the clock's elsewhere. Columns that the JSON file has already are
not run again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from harness.alone import machine

from paligemma.api import PaliGemma
from paligemma.checkpoints import find_tokenizer
from paligemma.config import Config, nano
from paligemma.data.scenes import SceneSource
from paligemma.model import PaliGemmaModel
from paligemma.processor import Processor
from paligemma.tokenizer import Tokenizer
from paligemma.train.config import DataConfig, LossConfig, OptimConfig, TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.judging.benchmark import evaluate
from paligemma.train.loop import Trainer
from paligemma.train.objective import Objective, StepStream
from paligemma.train.pretraining.packing import PackedObjective
from paligemma.train.pretraining.scenes import ScenePlan, SceneStream
from paligemma.train.pretraining.scratch import initialise
from paligemma.train.pretraining.seeing import ContrastiveObjective, PatchObjective
from paligemma.train.records import Observer, StepRecord
from paligemma.train.streams import ExampleStream

ASKED = {"caption": 0.3, "color": 0.15, "count": 0.15, "presence": 0.15, "detect": 0.25}
FIGURES = ("loss", "caption_exact", "question_accuracy", "ap50")
PATCHES, CONTRASTIVE, NONE, LONGER = "patches", "contrastive", "none", "none, longer"
COLUMNS = (PATCHES, CONTRASTIVE, NONE, LONGER)
HELD_OUT = 900_000_000  # seeds from here on are judged by; every stage begins far below
PACE = 6  # steps by which the pace of an objective is measured


@dataclass(frozen=True)
class Setting:
    """What all columns share."""

    config: Config
    processor: Processor
    device: torch.device
    pictures: tuple[int, int]  # of a step of stage 0 and of stage 1
    questions: int
    asked: tuple[str, ...]  # kinds of questions
    rate: float
    seed: int
    workers: int
    limit: int

    def model(self) -> PaliGemmaModel:
        """Random weights, the same every time."""
        model = PaliGemmaModel(self.config)
        initialise(model, seed=self.seed, first_location=self.processor.tokenizer.loc_start)
        return model

    def objective(self, column: str, model: PaliGemmaModel) -> Objective:
        """Of stage 0 for `PATCHES` and `CONTRASTIVE`, of stage 1 for `NONE`."""
        torch.manual_seed(self.seed)  # of heads
        if column == PATCHES:
            model.language_model.requires_grad_(False)
            model.projector.requires_grad_(False)
            return PatchObjective(model)
        if column == CONTRASTIVE:
            model.projector.requires_grad_(False)
            return ContrastiveObjective(model)
        loss = LossConfig(per="token", location_spread=5.0)
        return PackedObjective(model, loss, first_location=self.processor.tokenizer.loc_start)

    def stream(self, column: str, first_seed: int) -> StepStream:
        """What that objective learns from; both of stage 0 see the same scenes."""
        if column == CONTRASTIVE:
            side = self.processor.image_size_px
            captions = SceneSource(start=first_seed, kind="objects", languages=["en"], asks=["caption"], side_px=side)
            return ExampleStream(captions, self.processor, batch_size=self.pictures[0])
        count = self.size(column)
        plan = ScenePlan(
            pictures=count, micro=count, questions=0 if column == PATCHES else self.questions,
            kinds={"objects": 1.0}, asked={kind: ASKED[kind] for kind in self.asked}, languages={"en": 1.0},
        )  # fmt: skip
        return SceneStream(self.processor, plan, first_seed=first_seed)

    def size(self, column: str) -> int:
        """Pictures of a step."""
        return self.pictures[column == NONE]

    def learn(self, column: str, model: PaliGemmaModel, steps: int, rate: float, first_seed: int) -> dict[str, Any]:
        """Trains; returns the last losses and the seconds."""
        pace = Pace(self.device)
        optim = OptimConfig(lr=rate, betas=(0.9, 0.98), weight_decay=0.02, decay_rule="matrices", warmup=0.1)
        settings = TrainConfig(
            optim=optim, batch_size=self.size(column), steps=steps, seed=self.seed,
            data=DataConfig(workers=self.workers), threads=torch.get_num_threads(),
        )  # fmt: skip
        objective = self.objective(column, model)
        Trainer(
            objective,
            self.stream(column, first_seed),
            settings,
            observers=[pace],
            parallel=Parallel(device=self.device),
        ).run()
        return {"steps": steps, "rate": rate, "seconds": round(pace.ends[-1] - pace.ends[0], 1), "step_s": pace.typical,
                **pace.last(), "held_out": self.held_out(column, objective)}  # fmt: skip

    @torch.no_grad()
    def held_out(self, column: str, objective: Objective) -> dict[str, float]:
        """Mean losses over `limit` scenes nobody learnt from."""
        objective.eval()
        stream = self.stream(column, HELD_OUT)
        sums: dict[str, float] = {}
        weight = 0.0
        for step in range(-(-self.limit // self.size(column))):
            for batch in stream.micro_batches(step, 0, 1):
                with torch.autocast(self.device.type, torch.bfloat16):
                    found = objective(batch.to(self.device))
                weight += objective.weight(batch)
                sums = {name: sums.get(name, 0.0) + float(value) for name, value in found.items()}
        return {name: round(value / weight, 4) for name, value in sums.items()}


class Pace(Observer):
    """Losses and seconds of the steps of a run, but for those of its first."""

    def __init__(self, device: torch.device) -> None:
        self.clock = time.process_time if device.type == "cpu" else time.perf_counter
        self.ends: list[float] = []
        self.losses: list[dict[str, float]] = []

    def on_step(self, record: StepRecord) -> None:
        self.ends.append(self.clock())
        self.losses.append(record.losses)

    @property
    def typical(self) -> float:
        return round(statistics.median(after - before for before, after in pairwise(self.ends)), 4)

    def last(self) -> dict[str, float]:
        """Means over the last tenth of the steps."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return {name: round(statistics.fmean(one[name] for one in tail), 4) for name in tail[0]}


def run(column: str, setting: Setting, steps: dict[str, int], rates: Sequence[float]) -> dict[str, Any]:
    """Stage 0 where the column has one, stage 1 with its tower, and how good that is."""
    began = time.monotonic()
    found: dict[str, Any] = {}
    model = setting.model()
    if column in (PATCHES, CONTRASTIVE):
        rate = setting.rate
        if column == CONTRASTIVE:
            tried = [setting.learn(column, setting.model(), max(2, steps[column] // 4), one, 0) for one in rates]
            rate = min(tried, key=lambda one: one["held_out"]["loss"])["rate"]
            found["tried"] = tried
        first = setting.model()
        found["stage 0"] = setting.learn(column, first, steps[column], rate, 0)
        model.vision_tower.load_state_dict(first.vision_tower.state_dict())
    found["stage 1"] = setting.learn(NONE, model, steps[column if column == LONGER else NONE], setting.rate, 10_000_000)
    report = evaluate(
        PaliGemma(model, setting.processor, name=column),
        f"scenes:objects?languages=en&asks={','.join(setting.asked)}", limit=setting.limit,
    ).to_dict()  # fmt: skip
    found["loss"] = found["stage 1"]["held_out"]["loss"]
    return {**found, **{name: report.get(name) for name in FIGURES if name != "loss"},
            "clock_s": round(time.monotonic() - began)}  # fmt: skip


def steps_of(minutes: float | None, given: Sequence[int], setting: Setting) -> dict[str, int]:
    """Steps of each objective: those given, or so many that every column takes its share of the minutes."""
    pace = {
        column: setting.learn(column, setting.model(), PACE, setting.rate, 0)["step_s"]
        for column in (PATCHES, CONTRASTIVE, NONE)
    }
    if minutes is None:
        before, after = given
        steps = {PATCHES: before, CONTRASTIVE: before, NONE: after}
    else:
        half = 60 * minutes / 7  # three columns of two halves, and one of stage 1 alone
        steps = {column: max(4, round(half / seconds)) for column, seconds in pace.items()}
    return {**steps, LONGER: steps[NONE] + round(steps[PATCHES] * pace[PATCHES] / pace[NONE])}


def table(rows: dict[str, Any]) -> str:
    columns = [column for column in COLUMNS if column in rows]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]

    def line(name: str, cells: Sequence[Any]) -> None:
        lines.append(f"| {name} | {' | '.join('-' if cell is None else str(cell) for cell in cells)} |")

    for stage in ("stage 0", "stage 1"):
        for what in ("steps", "seconds"):
            line(f"{stage}: {what}", [rows[column].get(stage, {}).get(what) for column in columns])
    for name in FIGURES:
        line(name, [rows[column][name] for column in columns])
    return "\n".join(lines)


def setting_of(arguments: argparse.Namespace) -> Setting:
    tokenizer = Tokenizer.load(arguments.tokenizer or find_tokenizer("nano"))
    config = nano(arguments.px)
    config = replace(config, text=replace(config.text, vocab_size=tokenizer.vocab_size))
    if arguments.size == "tiny":
        narrow: dict[str, Any] = {"width": 96, "depth": 3, "mlp_dim": 384, "num_heads": 3}
        text = replace(config.text, **narrow, num_kv_heads=1)
        config = replace(config, vision=replace(config.vision, **narrow), text=text)
    processor = Processor(tokenizer, image_size_px=arguments.px, num_image_tokens=config.vision.num_image_tokens)
    return Setting(
        config=config, processor=processor, device=torch.device(arguments.device), pictures=tuple(arguments.pictures),
        questions=arguments.questions, asked=tuple(arguments.asked), rate=arguments.rate, seed=arguments.seed,
        workers=arguments.workers, limit=arguments.limit,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the columns are kept; those in it are not run again")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=["tiny", "nano"], default="tiny", help="tiny: 1.1 million parameters")
    parser.add_argument("--px", type=int, default=112)
    parser.add_argument("--steps", type=int, nargs=2, default=[400, 400], metavar=("STAGE0", "STAGE1"))
    parser.add_argument("--minutes", type=float, help="of all columns together, instead of steps")
    parser.add_argument(
        "--pictures", type=int, nargs=2, default=[64, 32], metavar=("STAGE0", "STAGE1"), help="of a step"
    )
    parser.add_argument("--questions", type=int, default=4, help="about each picture of stage 1")
    parser.add_argument("--asked", nargs="+", choices=list(ASKED), default=list(ASKED), help="kinds of questions")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1.5e-3], help="tried for contrastive")
    parser.add_argument("--limit", type=int, default=512, help="scenes to judge by")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, help="default the bundled model's")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = setting_of(arguments)
    kept: dict[str, Any] = {"columns": {}}
    if arguments.json and arguments.json.exists():
        kept = json.loads(arguments.json.read_text())
    asked = {name: value for name, value in vars(arguments).items() if name not in ("json", "columns", "tokenizer")}
    if kept.setdefault("settings", asked) != asked:
        parser.error(f"{arguments.json} holds columns of other settings; give another file")
    steps = kept.setdefault("steps", steps_of(arguments.minutes, arguments.steps, setting))
    for column in arguments.columns:
        if column not in kept["columns"]:
            kept["columns"][column] = run(column, setting, steps, arguments.rates)
            print(json.dumps({column: kept["columns"][column]}), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps({**machine(), **kept}, indent=1) + "\n")
    print(table(kept["columns"]))


if __name__ == "__main__":
    main()
