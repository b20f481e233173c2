"""How much memory and time training will take, before anything is loaded.

    training   weights + optimizer + average, and the largest of
                 A  forward done    activations + logits (+ gradients of earlier micro-batches)
                 B  tower's turn    what the image encoder keeps + gradients of the language model and its embedding
                 C  update          gradients + what the optimizer needs for the largest tensor

All by formula from an architecture's numbers (`inventory`, `activations`); no weight is read. Compared with what was
measured in docs/safety-checks.md. Not done here: operations and time (`speed`), answering (`engine.planning`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from paligemma.config import Config
from paligemma.engine.planning import BFLOAT16, FLOAT32
from paligemma.errors import UsageError
from paligemma.train.config import LoraConfig, OptimConfig, TrainConfig
from paligemma.train.planning.activations import Kept, Shape, kept
from paligemma.train.planning.inventory import Inventory, inventory
from paligemma.train.planning.speed import step_flops

# Of a trained number; sgd without momentum, muon outside of the matrices of which it keeps one moment.
OPTIMIZER_BYTES = {"adamw": 8.0, "adamw8bit": 2.0 + 2 * 4 / 256, "muon": 8.0, "sgd": 0.0}
MOMENTUM_BYTES = 4.0
# A number of the tensor being updated, for a moment: one copy. On the CPU bitsandbytes unpacks both moments, scales the
# gradient, and makes a root and a quotient of their own.
UPDATE_BYTES, UPDATE_BYTES_8BIT_CPU = 4, 5 * 4
MAX_BATCH = 2**16

# What people call the ways to train, as settings; also the options of `paligemma plan`.
METHODS: dict[str, dict[str, Any]] = {
    "full": {"train": ("all",)},
    "frozen": {"train": ("lm", "projector")},  # the image encoder stays as it is
    "attention": {"train": ("attention",)},
    "lora": {"lora": LoraConfig(where=("lm",))},
    "qlora": {"lora": LoraConfig(where=("lm",)), "quantize": "nf4"},
}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes in one process; `peak` is the most at a time, which is less than the sum of all."""

    weights: int
    optimizer: int = 0
    gradients: int = 0
    average: int = 0
    activations: int = 0
    logits: int = 0
    working: int = 0
    peak: int

    def parts(self) -> dict[str, int]:
        """Everything but the peak, where there is some."""
        return {name: value for name, value in vars(self).items() if name != "peak" and value}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one way to run a model takes.

    Attributes:
        trained, total: numbers of the model.
        micro_batch: examples at a time in one process. batch_size: of a step, over all processes.
        flops: operations of a step over all processes.
    """

    trained: int
    total: int
    micro_batch: int
    batch_size: int
    memory: Memory
    flops: float


def training(
    architecture: Config, config: TrainConfig, shape: Shape, *,
    processes: int = 1, weight_bytes: int = BFLOAT16, device: str = "cuda",
) -> Memory:  # fmt: skip
    """Bytes of one process of a training run.

    Args:
        shape: of its largest micro-batch.
        weight_bytes: of a number in the model's file; what stays frozen under adapters keeps its type.
        device: "cuda" or "cpu".
    """
    parts = inventory(architecture, config)
    fsdp = config.parallel == "fsdp2" and processes > 1
    bf16 = config.precision == "bf16"
    frozen_bytes = weight_bytes if config.lora is not None and bf16 and not fsdp else FLOAT32
    weights = FLOAT32 * parts.trained + frozen_bytes * parts.frozen + parts.quantized_bytes
    optimizer = _optimizer_bytes(config, parts)
    average = FLOAT32 * parts.trained if config.optim.ema else 0
    gradients = FLOAT32 * parts.trained
    gathered = 0
    if fsdp:
        weights, optimizer, average = (value // processes for value in (weights, optimizer, average))
        outside = parts.outside + parts.frozen_outside
        gathered = FLOAT32 * outside + 2 * (BFLOAT16 if bf16 else FLOAT32) * _largest_block(architecture)
        gradients = gradients // processes + FLOAT32 * parts.outside
    held = kept(
        architecture, parts, shape, bf16=bf16, checkpointing=config.checkpointing, casts=not fsdp,
        residual=frozen_bytes if config.lora is not None else FLOAT32, chunk=config.loss.chunk,
        weight_bytes=frozen_bytes, device=device,
    )  # fmt: skip
    static = weights + optimizer + average + gathered
    unpacked = config.optim.name == "adamw8bit" and device == "cpu"
    update = gradients + parts.largest * (UPDATE_BYTES_8BIT_CPU if unpacked else UPDATE_BYTES)
    phases = _phases(architecture, parts, config, held, gradients, processes=processes, learnt=shape.learnt)
    peak = static + max(update, *phases)
    return Memory(
        weights=weights + gathered, optimizer=optimizer, gradients=gradients, average=average,
        activations=held.vision + held.lm + held.casts, logits=held.logits, working=held.working, peak=peak,
    )  # fmt: skip


def _phases(
    architecture: Config, parts: Inventory, config: TrainConfig, held: Kept, gradients: int, *,
    processes: int, learnt: int,
) -> Iterator[int]:  # fmt: skip
    """Bytes beside what is always there, at the two moments of the passes that can be a step's peak."""
    several = config.micro_batch is not None and config.batch_size > config.micro_batch * processes
    earlier = gradients if several or config.parallel == "ddp" else 0
    embedding = architecture.text.embedding_rows * architecture.text.width * parts.embedding_trained
    cast = (BFLOAT16 if config.precision == "bf16" else FLOAT32) * embedding
    forward = held.vision + held.lm + held.casts
    head = held.logits + (FLOAT32 * embedding if learnt > config.loss.chunk else 0)  # of one chunk after another
    yield forward + max(held.working, head, FLOAT32 * embedding + cast) + earlier
    yield held.vision + max(gradients, earlier) + FLOAT32 * embedding


def _optimizer_bytes(config: TrainConfig, parts: Inventory) -> int:
    name = config.optim.name
    if name == "sgd" and config.optim.momentum:
        return round(MOMENTUM_BYTES * parts.trained)
    matrices = parts.trained - parts.outside if name == "muon" and config.lora is None else 0
    return round(OPTIMIZER_BYTES[name] * parts.trained - MOMENTUM_BYTES * matrices)


def _largest_block(architecture: Config) -> int:
    """Numbers of the largest block, which "fsdp2" puts together while it computes."""
    text, vision = architecture.text, architecture.vision
    one = replace(text, depth=1).num_parameters - replace(text, depth=0).num_parameters
    other = replace(vision, depth=1).num_parameters - replace(vision, depth=0).num_parameters
    return max(one, other)


# --- whole plans -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be planned for one architecture.

    Attributes:
        method: one of `METHODS`.
        micro_batch: at a time in one process; default its share of the batch.
        text_tokens: of a row, image tokens apart; half of them are learnt.
        device: what it runs on, "cuda" or "cpu".
    """

    architecture: Config
    method: str = "full"
    batch_size: int = 1
    micro_batch: int | None = None
    text_tokens: int = 128
    images: int = 1
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpointing: bool = False
    optimizer: Literal["adamw", "adamw8bit", "muon", "sgd"] = "adamw"
    processes: int = 1
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    device: str = "cuda"

    def config(self) -> TrainConfig:
        """The same as settings of a run."""
        return TrainConfig(
            batch_size=self.batch_size, micro_batch=self.micro_batch, precision=self.precision,
            checkpointing=self.checkpointing, optim=OptimConfig(name=self.optimizer),
            parallel=self.parallel if self.processes > 1 else "auto", **METHODS[self.method],
        )  # fmt: skip

    def shape(self, rows: int, learnt: int) -> Shape:
        """So many rows at a time, `learnt` tokens of each in the loss."""
        tokens = self.images * self.architecture.vision.num_image_tokens + self.text_tokens
        return Shape(rows=rows, tokens=tokens, learnt=rows * learnt, pictures=rows * self.images)


def plan(wanted: Wanted) -> Plan:
    """Memory and operations of training by a method.

    Raises:
        UsageError: a batch that cannot be shared.
    """
    if wanted.batch_size % wanted.processes:
        raise UsageError(
            f"a batch of {wanted.batch_size} cannot be shared by {wanted.processes} processes; give a multiple of it"
        )
    share = wanted.batch_size // wanted.processes
    micro = min(wanted.micro_batch or share, share)
    config, shape = wanted.config(), wanted.shape(micro, -(-wanted.text_tokens // 2))
    memory = training(wanted.architecture, config, shape, processes=wanted.processes, device=wanted.device)
    parts = inventory(wanted.architecture, config)
    return Plan(
        trained=parts.trained, total=wanted.architecture.num_parameters, micro_batch=micro,
        batch_size=wanted.batch_size, memory=memory,
        flops=step_flops(wanted.architecture, config, shape) * wanted.batch_size / micro,
    )  # fmt: skip


def largest(wanted: Wanted, budget: int) -> int:
    """The largest number of examples at a time in one process that fits; 0 where not even one does."""

    def fits(rows: int) -> bool:
        batch = rows * wanted.processes
        return plan(replace(wanted, batch_size=batch, micro_batch=rows)).memory.peak <= budget

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < MAX_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def advice(wanted: Wanted, budget: int) -> list[dict[str, Any]]:
    """The smallest changes with which a plan that does not fit would, as options; one for each way to train.

    In order: fewer examples at a time, activations computed again, an 8-bit optimizer, more cards, another method.
    """
    found = []
    for method in dict.fromkeys((wanted.method, *METHODS)):
        for change in _changes(wanted):
            options = {"method": method} | change if method != wanted.method else change
            if options and plan(replace(wanted, **options)).memory.peak <= budget:
                found.append({name: value for name, value in options.items() if value != getattr(wanted, name)})
                break
    return found


def _changes(wanted: Wanted) -> Iterator[dict[str, Any]]:
    """What can be changed about a run without learning anything else, the cheapest first."""
    yield {}
    yield {"micro_batch": 1}
    yield {"checkpointing": True}
    yield {"micro_batch": 1, "checkpointing": True}
    yield {"micro_batch": 1, "checkpointing": True, "optimizer": "adamw8bit"}
    for cards in (2, 4, 8):
        if cards > wanted.processes:
            batch = -(-wanted.batch_size // cards) * cards
            yield {
                "micro_batch": 1, "checkpointing": True, "parallel": "fsdp2", "processes": cards, "batch_size": batch
            }  # fmt: skip
