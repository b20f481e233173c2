"""`paligemma plan`: what a model takes in memory and time, before anything is loaded.

Options in, a table or JSON out; the formulas are `planning.plan`'s. Cards are sold in binary units: 24GB is 24 GiB.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from paligemma.config import VARIANTS, Config
from paligemma.errors import UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.models import read_config
from paligemma.interfaces.cli.options import Flag, Json, at_least

if TYPE_CHECKING:
    from paligemma.train.planning.plan import Plan, Wanted

Method = Literal["full", "frozen", "attention", "lora", "qlora"]
GIB = 2**30
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:gi?b?)?", re.IGNORECASE)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What is run, and how."""

    batch_size: int | None = None
    """Examples of a step over all processes, or prompts answered together; by default one a process."""
    micro_batch: int | None = None
    """Examples at a time in one process; by default its share of the batch."""
    text_tokens: int = 128
    """Of a row, image tokens apart; half of them are the answer."""
    images: int = 1
    """Pictures of a row."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the computation."""
    checkpointing: Flag = False
    """Activations are computed again in the backward pass."""
    optimizer: Literal["adamw", "adamw8bit", "sgd"] = "adamw"
    """What keeps how much memory of past gradients."""
    processes: int = 1
    """Cards that share the work."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """ddp keeps the whole model on each card, fsdp2 a part."""

    def __post_init__(self) -> None:
        at_least("--batch-size", self.batch_size, 1)
        at_least("--micro-batch", self.micro_batch, 1)
        at_least("--text-tokens", self.text_tokens, 2)
        at_least("--images", self.images, 0)
        at_least("--processes", self.processes, 1)


_DEFAULT = PlanOptions()


def plan(
    *,
    model: str | None = None,
    task: Literal["train", "infer"] = "train",
    method: Method | None = None,
    options: PlanOptions = _DEFAULT,
    gpu: str | None = None,
    examples: int | None = None,
    tflops: float | None = None,
    json: Json = False,
) -> None:
    """Tell the memory and time of training or answering, before anything is loaded.

    Without --model or --method a table of all of them; with --gpu what fits, and how many examples at a time.

    Args:
        model: published name or local directory; only its architecture is read.
        task: train, or infer for answering.
        method: what is trained: everything (full), all but the image encoder (frozen), the language model's attention,
            adapters in the language model (lora), or adapters over a 4-bit base (qlora).
        gpu: memory of one card, such as 24GB.
        examples: in all, to tell the time they take.
        tflops: matrix rate of one card in 10^12 operations a second; by default this machine's, measured in a second.
        json: one JSON object on stdout and nothing else.
    """
    at_least("--examples", examples, 1)
    if tflops is not None and not 0 < tflops < math.inf:
        raise UsageError(f"--tflops {tflops} is out of range; give a number above 0")
    if task == "infer" and method is not None:
        raise UsageError(f"--method {method} says how to train, but --task infer only answers; leave one of them out")
    from paligemma.train.planning.plan import METHODS, Wanted
    from paligemma.train.planning.plan import usable as usable_of

    budget = None if gpu is None else usable_of(card_bytes(gpu))
    models = [model] if model else [v.name for v in VARIANTS.values() if v.kind in ("pt", "nano")]
    methods = [""] if task == "infer" else [method] if method else list(METHODS)
    given = {**vars(options), "batch_size": options.batch_size or options.processes}
    wanted = {
        (name, kind): Wanted(architecture=architecture_of(name), method=kind, **given)
        for name in models
        for kind in methods
    }
    if len(wanted) > 1:
        _table(wanted, gpu, budget, json)
        return
    ((name, _), one) = next(iter(wanted.items()))
    rate = tflops * 1e12 if tflops else measured_rate(one.precision)
    _one(name, one, gpu, budget, examples, rate, json)


def architecture_of(name: str) -> Config:
    """Of a published name, or of a directory or cached model."""
    known = VARIANTS.get(name.removeprefix("google/"))
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


def measured_rate(precision: str) -> float:
    """Operations a second of this machine's best device."""
    import torch

    from paligemma.checkpoints.placement import choose_device
    from paligemma.train.planning.speed import matrix_rate

    return matrix_rate(choose_device(), torch.bfloat16 if precision == "bf16" else torch.float32)


def _table(wanted: dict[tuple[str, str], "Wanted"], gpu: str | None, budget: int | None, as_json: bool) -> None:
    from paligemma.train.planning.plan import largest, plan

    rows, facts = [], []
    for (name, method), one in wanted.items():
        found = plan(one)
        fact: dict[str, Any] = {"model": name, "method": method or "infer", "trained": found.trained}
        fact["peak_bytes"] = found.memory.peak
        if budget is not None:
            fact["micro_batch_that_fits"] = largest(one, budget)
        facts.append(fact)
        shown = [name, fact["method"], f"{found.trained:,}", _gib(found.memory.peak)]
        rows.append(shown + ([_fitting(fact["micro_batch_that_fits"])] if budget is not None else []))
    if as_json:
        console.print_json({"gpu": gpu, "plans": facts})
        return
    header = ["model", "method", "trained", "at most"] + ([f"at a time in {gpu}"] if gpu else [])
    console.say(console.table(header, rows, right=(2, 3, 4)))
    if budget is not None and not next(iter(wanted.values())).checkpointing:
        console.note("with --checkpointing more fits, at about a third more time")


def _fitting(micro_batch: int) -> str:
    return f"{micro_batch:,}" if micro_batch else "-"


def _one(
    name: str, wanted: "Wanted", gpu: str | None, budget: int | None, examples: int | None, rate: float, as_json: bool
) -> None:  # fmt: skip
    from paligemma.train.planning.plan import advice, largest, plan
    from paligemma.train.planning.speed import SHARE_REACHED

    found = plan(wanted)
    step_s = found.flops / (rate * SHARE_REACHED * wanted.processes)
    facts: dict[str, Any] = {
        "model": name, "task": "train" if wanted.method else "infer", "method": wanted.method or None,
        "trained": found.trained, "parameters": found.total, "batch_size": found.batch_size,
        "micro_batch": found.micro_batch, "memory_bytes": found.memory.parts(), "peak_bytes": found.memory.peak,
        "step_flops": found.flops, "matrix_flops_per_s": rate, "step_seconds": step_s,
    }  # fmt: skip
    if examples is not None:
        facts["seconds"] = step_s * math.ceil(examples / found.batch_size)
    if budget is not None:
        facts["usable_bytes"], facts["fits"] = budget, found.memory.peak <= budget
        facts["micro_batch_that_fits"] = largest(wanted, budget)
        if not facts["fits"]:
            facts["advice"] = advice(wanted, budget)
    if as_json:
        console.print_json(facts)
    else:
        console.say("\n".join(f"{label:<14}{text}" for label, text in _lines(facts, found, gpu)))


def _lines(facts: dict[str, Any], found: "Plan", gpu: str | None) -> list[tuple[str, str]]:
    """What is told of one plan."""
    what = facts["method"] or "answering"
    rate = f"{_time(facts['step_seconds'])} at half of {facts['matrix_flops_per_s']:.3g} a second"
    lines = [
        ("model", f"{facts['model']}, {what}, batch {found.batch_size}, {found.micro_batch} at a time"),
        ("trained", f"{found.trained:,} of {found.total:,}"),
        *((name, _gib(value)) for name, value in found.memory.parts().items()),
        ("at most", f"{_gib(found.memory.peak)} at a time"),
        ("operations", f"{found.flops:.3g}, {rate}"),
    ]
    if "seconds" in facts:
        lines.append(("in all", _time(facts["seconds"])))
    if gpu is not None:
        most = facts["micro_batch_that_fits"]
        usable = _gib(facts["usable_bytes"])
        fits = "fits" if facts["fits"] else "does not fit"
        lines.append((gpu, f"{fits} ({usable} of it usable)" + (f"; up to {most:,} at a time" if most else "")))
        for options in facts.get("advice", []):
            lines.append(("", f"fits with {_words(options)}"))
        if facts.get("advice") == []:
            lines.append(("", "nothing fits; take a larger card or a smaller model"))
    return lines


def _words(options: dict[str, Any]) -> str:
    """Options as one would type them."""
    return " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in options.items()
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.3g} GiB" if size < 100 * GIB else f"{size / GIB:,.0f} GiB"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= 2 * length or unit == "ms":
            return f"{seconds / length:.3g} {unit}"
    raise AssertionError
