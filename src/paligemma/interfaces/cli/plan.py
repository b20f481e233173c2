"""`paligemma plan`: what a model takes in memory and time, before anything is loaded.

Options in, a table or JSON out. Answering here, by the formulas of `engine.planning`; training in `plan_training`.
Cards are sold in binary units: 24GB is 24 GiB.
"""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from paligemma.config import VARIANTS, Config, find_variant
from paligemma.errors import UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.models import read_config
from paligemma.interfaces.cli.options import Flag, Json, at_least

if TYPE_CHECKING:
    from paligemma.engine.machine import Rates
    from paligemma.engine.planning import Load

Method = Literal["full", "frozen", "attention", "lora", "qlora"]
GIB = 2**30
NEW_TOKENS = 64  # of an answer, unless told: a caption
BUSY = 0.5  # programs that wait for each core, from which on measurements are doubted
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:gi?b?)?", re.IGNORECASE)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is run, and how."""

    batch_size: int | None = None
    """Prompts answered together, or examples of a step over all processes; by default one (a process)."""
    text_tokens: int = 128
    """Of a row, image tokens apart; half of them are the answer."""
    images: int = 1
    """Pictures of a row."""
    precision: Literal["bf16", "fp32", "int8", "int4", "nf4", "fp8"] | None = None
    """How weights are kept and computed; by default all that this device has for answering, bf16 for training."""
    tflops: float | None = None
    """Matrix rate of one device in 10^12 operations a second; by default this machine's, measured in a moment."""
    bandwidth: float | None = None
    """Memory read by one device in 10^9 bytes a second; by default this machine's."""

    def __post_init__(self) -> None:
        at_least("--batch-size", self.batch_size, 1)
        at_least("--text-tokens", self.text_tokens, 2)
        at_least("--images", self.images, 0)
        for name in ("tflops", "bandwidth"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name} {value} is out of range; give a number above 0")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Of training alone."""

    train: Flag = False
    """Plan training instead of answering; --method does so too."""
    method: Method | None = None
    """What is trained: everything (full), all but the image encoder (frozen), the language model's attention,
    adapters in the language model (lora), or adapters over a 4-bit base (qlora). By default a table of all."""
    micro_batch: int | None = None
    """Examples at a time in one process; by default its share of the batch."""
    checkpointing: Flag = False
    """Activations are computed again in the backward pass."""
    optimizer: Literal["adamw", "adamw8bit", "muon", "sgd"] = "adamw"
    """What keeps how much memory of past gradients."""
    processes: int = 1
    """Cards that share the work."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """ddp keeps the whole model on each card, fsdp2 a part."""
    examples: int | None = None
    """In all, to tell the time they take."""

    def __post_init__(self) -> None:
        at_least("--micro-batch", self.micro_batch, 1)
        at_least("--processes", self.processes, 1)
        at_least("--examples", self.examples, 1)
        given = [one.name.replace("_", "-") for one in fields(self) if getattr(self, one.name) != one.default]
        if given and not (self.train or self.method):
            raise UsageError(f"--{given[0]} says how to train; add --train or --method, or leave it out")


_ANY, _ANSWERING = PlanOptions(), TrainingOptions()


def plan(
    model: str | None = None,
    *,
    options: PlanOptions = _ANY,
    training: TrainingOptions = _ANSWERING,
    gpu: str | None = None,
    json: Json = False,
) -> None:
    """Tell the memory and time of answering or training, before anything is loaded.

    Without a model, a table of all of them; what does not fit this machine, or --gpu, is marked.

    Args:
        model: published name or local directory; only its architecture is read.
        gpu: memory of one card, such as 24GB; by default what is free here.
        json: one JSON object on stdout and nothing else.
    """
    models = [model] if model else [v.name for v in VARIANTS.values() if v.kind in ("pt", "nano")]
    architectures = {name: architecture_of(name) for name in models}
    budget = None if gpu is None else card_bytes(gpu)
    if training.train or training.method:
        from paligemma.interfaces.cli.plan_training import plan_training

        plan_training(architectures, options, training, gpu, budget, json)
        return
    plan_answers(architectures, options, gpu, budget, json)


def architecture_of(name: str) -> Config:
    """Of a published name, or of a directory or cached model."""
    known = find_variant(name)
    return known.config if known else read_config(name)


def card_bytes(gpu: str) -> int:
    """Bytes of a card of `24GB`, `24GiB` or `24`.

    Raises:
        UsageError: another word.
    """
    found = _SIZE.fullmatch(gpu.strip())
    if found is None or not float(found[1]):
        raise UsageError(f"--gpu {gpu} cannot be read; give the memory of one card, such as 24GB")
    return round(float(found[1]) * GIB)


def plan_answers(
    architectures: dict[str, Config], options: PlanOptions, gpu: str | None, card: int | None, as_json: bool
) -> None:
    """Every architecture at every precision: memory, first token, tokens a second."""
    from paligemma.checkpoints.placement import choose_device
    from paligemma.engine.machine import free_memory, usable
    from paligemma.engine.planning import PRECISIONS, Load
    from paligemma.linear.cuda import has_fp8

    answer = min(NEW_TOKENS, -(-options.text_tokens // 2))
    load = Load(
        rows=options.batch_size or 1, images=options.images, new_tokens=answer,
        text_tokens=options.text_tokens - answer,
    )  # fmt: skip
    told = gpu is not None and options.tflops is not None
    known = [name for name in PRECISIONS if name != "fp8" or told or has_fp8(choose_device())]
    names = [options.precision] if options.precision else known
    rates = rates_of(options, {PRECISIONS[name].matrix for name in names} | {"bf16"})
    free = usable(card) if card is not None else free_memory(choose_device())
    cards = card is not None or choose_device().type == "cuda"
    plans = [_facts(model, of, name, load, rates, free, cards) for model, of in architectures.items() for name in names]
    if as_json:
        console.print_json({
            "batch_size": load.rows, "prompt_text_tokens": load.text_tokens, "new_tokens": load.new_tokens, "gpu": gpu,
            "usable_bytes": free, "read_bytes_per_s": rates.read, "matrix_ops_per_s": rates.matrix, "plans": plans,
        })  # fmt: skip
        return
    header = ["model", "precision", "weights", "cache", "activations", "at most", "first token", "limit"]
    rows = [_row(fact) for fact in plans]
    header += ["tokens/s", "limit", "fits" if free is not None else ""]
    console.say(console.table(header, rows, right=tuple(range(2, 10))))
    where = gpu or "this machine"
    console.note(f"{where}: reads {rates.read / 1e9:.3g} GB/s; " + ", ".join(
        f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in rates.matrix.items()
    ) + (f"; {gib(free)} usable" if free is not None else ""))  # fmt: skip
    _doubts(gpu, options)


def _doubts(gpu: str | None, options: PlanOptions) -> None:
    """Says where measured rates are not those that count."""
    if options.tflops and options.bandwidth:
        return
    busy = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
    if busy > BUSY:
        console.note(f"other programs keep this machine busy ({busy:.1f} a core), so it was measured slower than it is")
    if gpu:
        console.note(f"times are this machine's, not those of {gpu}: give --tflops and --bandwidth of that card")


def _facts(
    model: str, architecture: Config, precision: str, load: "Load", rates: "Rates", free: int | None, card: bool
) -> dict[str, Any]:
    from paligemma.engine.planning import PRECISIONS, answer_plan, layer_bytes, layers_that_wait

    found = answer_plan(architecture, precision, load, rates)
    waiting = None
    if card and free is not None:
        layer, room = layer_bytes(architecture, PRECISIONS[precision]), free - found.cache - found.activations
        waiting = layers_that_wait(found.weights, layer, architecture.text.depth, room)
    return {
        "model": model, "precision": precision, "image_size_px": architecture.vision.image_size_px,
        "weights_bytes": found.weights, "cache_bytes": found.cache, "activations_bytes": found.activations,
        "peak_bytes": found.peak, "first_token_s": found.first_token_s, "tokens_per_s": found.tokens_per_s(load),
        "limit_first_token_s": found.limit_first_token_s, "limit_tokens_per_s": load.rows / found.limit_step_s,
        "fits": None if free is None else found.peak <= free, "offload_layers": waiting,
    }  # fmt: skip


def _row(fact: dict[str, Any]) -> list[str]:
    sizes = [gib(fact[f"{name}_bytes"]) for name in ("weights", "cache", "activations", "peak")]
    first = [_or_dash(fact[name], duration) for name in ("first_token_s", "limit_first_token_s")]
    speeds = [_or_dash(fact[name], "{:.3g}".format) for name in ("tokens_per_s", "limit_tokens_per_s")]
    fits = {None: "", True: "yes", False: "no"}[fact["fits"]]
    fits = f"--offload {fact['offload_layers']}" if fact["offload_layers"] else fits
    return [fact["model"], fact["precision"], *sizes, *first, *speeds, fits]


def _or_dash(value: float | None, shown: Callable[[float], str]) -> str:
    return "-" if value is None else shown(value)


def matrix_rates(options: PlanOptions, types: set[str]) -> dict[str, float]:
    """Operations a second by name of a type: as told, else measured here, of this machine's best device.

    Raises:
        UsageError: fp8 is to be measured, and this device does not multiply it.
    """
    from paligemma.checkpoints.placement import choose_device
    from paligemma.engine.machine import FP8, TYPES, matrix_rate
    from paligemma.linear.cuda import has_fp8

    if options.tflops:
        return dict.fromkeys(sorted(types), options.tflops * 1e12)
    device = choose_device()
    if "fp8" in types and not has_fp8(device):
        raise UsageError(
            f"the rate of fp8 cannot be measured here, {device.type} does not multiply it; "
            "give --tflops and --bandwidth of the card, and its memory as --gpu 80GB"
        )
    return {name: matrix_rate(device, {**TYPES, "fp8": FP8}[name]) for name in sorted(types)}


def rates_of(options: PlanOptions, types: set[str]) -> "Rates":
    """The same with the bytes that are read in a second."""
    from paligemma.checkpoints.placement import choose_device
    from paligemma.engine.machine import Rates, read_rate

    read = options.bandwidth * 1e9 if options.bandwidth else read_rate(choose_device())
    return Rates(read=read, matrix=matrix_rates(options, types))


def gib(size: int) -> str:
    return f"{size / GIB:.3g} GiB" if size < 100 * GIB else f"{size / GIB:,.0f} GiB"


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= 2 * length or unit == "ms":
            return f"{seconds / length:.3g} {unit}"
    raise AssertionError
