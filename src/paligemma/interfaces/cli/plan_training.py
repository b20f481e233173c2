"""`paligemma plan --train`: what each method of training takes; the formulas are those of `train.planning`."""

import math
from typing import TYPE_CHECKING, Any

from paligemma.config import Config
from paligemma.errors import UsageError
from paligemma.interfaces.cli import console
from paligemma.interfaces.cli.plan import PlanOptions, TrainingOptions, duration, gib, matrix_rates

if TYPE_CHECKING:
    from paligemma.train.planning.plan import Plan, Wanted


def plan_training(
    architectures: dict[str, Config], options: PlanOptions, training: TrainingOptions, gpu: str | None,
    card: int | None, as_json: bool,
) -> None:  # fmt: skip
    """A table of architectures and methods, or all about one of them.

    Raises:
        UsageError: a precision in which nothing is trained.
    """
    from paligemma.checkpoints.placement import choose_device
    from paligemma.engine.machine import usable
    from paligemma.train.planning.plan import METHODS, Wanted

    precision = options.precision or "bf16"
    if precision not in ("bf16", "fp32"):
        raise UsageError(f"--precision {precision} is for answering; train with bf16 or fp32, or with --method qlora")
    budget = None if card is None else usable(card)
    methods = [training.method] if training.method else list(METHODS)
    wanted = {
        (name, method): Wanted(
            architecture=architecture, method=method, batch_size=options.batch_size or training.processes,
            micro_batch=training.micro_batch, text_tokens=options.text_tokens, images=options.images,
            precision=precision, checkpointing=training.checkpointing, optimizer=training.optimizer,
            processes=training.processes, parallel=training.parallel, device="cuda" if gpu else choose_device().type,
        )
        for name, architecture in architectures.items()
        for method in methods
    }  # fmt: skip
    if len(wanted) > 1:
        _table(wanted, gpu, budget, as_json)
        return
    ((name, _), one) = next(iter(wanted.items()))
    rate = matrix_rates(options, {precision})[precision]
    _one(name, one, gpu, budget, training.examples, rate, as_json)


def _table(wanted: dict[tuple[str, str], "Wanted"], gpu: str | None, budget: int | None, as_json: bool) -> None:
    from paligemma.train.planning.plan import largest, plan

    rows, facts = [], []
    for (name, method), one in wanted.items():
        found = plan(one)
        fact: dict[str, Any] = {"model": name, "method": method, "trained": found.trained}
        fact["peak_bytes"] = found.memory.peak
        if budget is not None:
            fact["micro_batch_that_fits"] = largest(one, budget)
        facts.append(fact)
        shown = [name, fact["method"], f"{found.trained:,}", gib(found.memory.peak)]
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
        "model": name, "method": wanted.method,
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
    rate = f"{duration(facts['step_seconds'])} at half of {facts['matrix_flops_per_s']:.3g} a second"
    lines = [
        ("model", f"{facts['model']}, {facts['method']}, batch {found.batch_size}, {found.micro_batch} at a time"),
        ("trained", f"{found.trained:,} of {found.total:,}"),
        *((name, gib(value)) for name, value in found.memory.parts().items()),
        ("at most", f"{gib(found.memory.peak)} at a time"),
        ("operations", f"{found.flops:.3g}, {rate}"),
    ]
    if "seconds" in facts:
        lines.append(("in all", duration(facts["seconds"])))
    if gpu is not None:
        most = facts["micro_batch_that_fits"]
        usable = gib(facts["usable_bytes"])
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
