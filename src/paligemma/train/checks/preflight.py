"""Refuse to be wrong: everything that is looked at before the first step of a run.

    rows of the first batches -> examples.html -> token checks -> tests on the model -> dry run -> overfit, on request

In: a prepared run. Out: notes, or one sentence about what must be mended first. The run itself is not touched: weights,
optimizer and random numbers are afterwards as before, bit for bit. Not done here: the checks themselves
(`token_checks`, `model_checks`, `dry_run`), and rows behind the first batches (`data.check`).
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from paligemma.errors import CheckFailed, InputError
from paligemma.processor import Processor
from paligemma.results.files import writing
from paligemma.train.checks.dry_run import DryRun, Overfit, dry_run, overfit
from paligemma.train.checks.model_checks import TESTS, check_model
from paligemma.train.checks.rows import Row, rows_of
from paligemma.train.checks.token_checks import Alphabet, Finding, check_rows
from paligemma.train.checks.view import show
from paligemma.train.checks.view_html import page
from paligemma.train.config import TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.judging.evaluate import Evaluation
from paligemma.train.loop import Trainer
from paligemma.train.objective import Objective, StepStream
from paligemma.train.planning.plan import training

EXAMPLES = 16  # shown
MAX_STEPS = 4  # looked at to find so many
FEW = 2  # examples of the evaluation in a dry run
PAGE = "examples.html"


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The checks of one run, in two parts: `inspect` before its `Trainer` is made, `rehearse` with it.

    Every process of a run must call both.

    Attributes:
        objective: of the run, not wrapped yet. stream, processor: where its rows come from.
        say: is told what was seen, in sentences, in the main process.
        show: where the rows are printed; None: `examples.html` alone.
    """

    objective: Objective
    stream: StepStream
    processor: Processor
    config: TrainConfig
    parallel: Parallel
    say: Callable[[str], None]
    show: TextIO | None = None

    def inspect(self) -> None:
        """Looks at the main process's rows of the first steps, and at the model on them; writes `examples.html`.

        Raises:
            InputError: an example that would teach something wrong; the first one is named.
            CheckFailed: the model leaks answers or sees padding.
        """
        self.objective.to(self.parallel.device)
        self.parallel.on_main(self._inspect)

    def rehearse(
        self, trainer: Trainer, evaluate: Callable[[int], dict[str, float]] | None = None,
        overfit_steps: int | None = None,
    ) -> tuple[DryRun, Overfit | None]:  # fmt: skip
        """Two steps and an evaluation as the run would do them, and on request a batch learnt by heart.

        Args:
            evaluate: an `Evaluation` looks at `FEW` examples and saves no pictures; anything else is called as it is.

        Raises:
            CheckFailed: the batch was not learnt.
        """
        cost = dry_run(trainer, of_few(evaluate) if isinstance(evaluate, Evaluation) else evaluate)
        learnt = None if overfit_steps is None else overfit(trainer, overfit_steps)
        if self.parallel.main:
            self.say(told(cost, self._estimate(cost)))
            for warning in cost.warnings():
                self.say(f"warning: {warning}")
            if learnt is not None:
                self.say(f"one batch was learnt by heart: loss {learnt.first:.4g} to {learnt.last:.4g} in "
                         f"{learnt.steps} steps")  # fmt: skip
        return cost, learnt

    def _estimate(self, cost: DryRun) -> int:
        """Bytes that `plan` expects of what was measured."""
        model = self.objective.model
        frozen = [parameter.itemsize for parameter in model.parameters() if not parameter.requires_grad]
        return training(
            model.config, self.config, cost.shape, processes=self.parallel.world,
            weight_bytes=max(frozen, default=4), device=self.parallel.device.type,
        ).peak  # fmt: skip

    def _inspect(self) -> None:
        batches = first_batches(self.stream, self.parallel.world)
        rows = rows_of(batches, self.processor)
        model = self.objective.model
        findings = check_rows(rows, Alphabet.of(self.processor, model.config.text.max_positions))
        if not any(found.refused for found in findings):
            findings += check_model(self.objective, batches[0], self.config.precision)
        write_page(self.config.out, once(rows), findings)
        if self.show is not None:
            show(once(rows)[:EXAMPLES], self.show)
        refuse(findings, len({row.id for row in rows}))
        for warning in grouped(findings):
            self.say(f"warning: {warning}")


def first_batches(stream: StepStream, world: int = 1) -> list[Any]:
    """Micro-batches of the main process's first steps, until there are enough rows to show."""
    found: list[Any] = []
    for step in range(MAX_STEPS):
        found += stream.micro_batches(step, 0, world)
        if sum(len(batch.tokens) for batch in found) >= EXAMPLES:
            break
    return found


def once(rows: Iterable[Row]) -> list[Row]:
    """Each example once: a small data set comes round again within the first steps."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.id, row)
    return list(found.values())


def write_page(folder: Path, rows: Sequence[Row], findings: Sequence[Finding]) -> Path:
    """Writes `examples.html`: the first rows, after those something was found about."""
    wrong = {found.id for found in findings}
    shown = sorted(rows, key=lambda row: row.id not in wrong)[:EXAMPLES]
    with writing(folder / PAGE) as file:
        file.write(page(shown, findings))
    return folder / PAGE


def refuse(findings: Sequence[Finding], examples: int) -> None:
    """
    Raises:
        InputError, CheckFailed: something is refused; one sentence about the first, and how many there are.
    """
    refused = [found for found in findings if found.refused]
    if not refused:
        return
    first, bad = refused[0], len({found.id for found in refused})
    more = f" ({bad} of the first {examples} examples are refused)" if bad > 1 else ""
    kind = CheckFailed if first.check in {test.name for test in TESTS} else InputError
    raise kind(f"{first}{more}")


def grouped(findings: Sequence[Finding]) -> list[str]:
    """One sentence for each kind of finding: the first of it, and how many more there are."""
    kinds: dict[str, list[Finding]] = {}
    for found in findings:
        kinds.setdefault(found.check, []).append(found)
    return [f"{same[0]}" + (f" (and {len(same) - 1} more)" if len(same) > 1 else "") for same in kinds.values()]


def of_few(evaluation: Evaluation) -> Evaluation:
    """The same of `FEW` examples, without pictures."""
    few = copy(evaluation)
    few.config = replace(few.config, evaluate=replace(few.config.evaluate, limit=FEW, pictures=0))
    return few


def told(cost: DryRun, estimate: int) -> str:
    """What the first steps cost, on one line."""
    words = [f"dry run: {cost.seconds:.3g} s a step", f"{cost.data_s:.3g} s to make its examples"]
    if cost.memory_bytes is not None:
        words.append(f"{cost.memory_bytes / 1e9:.3g} GB at most (planned {estimate / 1e9:.3g})")
    words.append(f"loss {cost.losses[0]:.4g}, gradient norm {cost.grad_norms[0]:.3g}")
    if cost.figures:
        words.append(f"evaluation of {FEW} examples {cost.evaluation_s:.3g} s")
    return ", ".join(words)
