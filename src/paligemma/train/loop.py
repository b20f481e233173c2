"""The training loop: an objective and a stream of steps -> trained weights. One step is

    micro-batches -> sums of losses -> gradient of their weighted mean -> guard -> clip -> update -> average

and then, where due: figures, evaluation, a checkpoint set. All randomness is a function of (seed, step, rank) and
saving touches nothing, so a run that is killed and resumed ends with the same bits as one that was not. Not done here:
reading data (`streams`), what a set holds and its files (`snapshot`, `sets`), other processes (`distributed`), showing
progress (`report`).
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from paligemma.config import did_you_mean
from paligemma.errors import DivergedError, InputError, ResourceError, UsageError
from paligemma.model.fused import compiled
from paligemma.train.bad_steps import ids_of, keep_bad_step
from paligemma.train.config import TrainConfig
from paligemma.train.distributed import Parallel
from paligemma.train.objective import Objective, StepStream, seed_step
from paligemma.train.optim import Average, Group, Optimizer, parameter_groups
from paligemma.train.process import Stopped, peak_memory, repeatable, signals_heard
from paligemma.train.records import Best, Observer, Progress, StepRecord, Summary
from paligemma.train.saving.sets import Restored
from paligemma.train.saving.snapshot import restore, snapshot, trained
from paligemma.train.streams import Loader

MAX_BAD_STEPS = 3  # in a row
RECENT = 50  # steps whose pace makes the estimate
LOWER_IS_BETTER = ("loss", "error", "distance", "perplexity")


class Sets(Protocol):
    """Where checkpoint sets are kept, asked in the main process only; `state.RunState` is one."""

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> object:
        """Keeps a set."""

    def load_last(self) -> Restored | None:
        """The newest good one."""


class Trainer:
    """Trains what requires a gradient in `objective` for `config.steps` steps.

    Args:
        stream: gives the micro-batches of each step.
        config: steps, precision, optimizer, evaluation and saving are read here; `steps` must be known.
        groups: rates and decays by parameter name; default `optim.parameter_groups`.
        observers: told of every step, evaluation and note, in the main process.
        evaluate: step -> figures, called in every process, with averaged weights and in evaluation mode.
        state: where sets are kept; without, nothing is saved and nothing resumed.
        export: "best" or "last": writes the model as it is at that moment; called in every process.
        facts: kept in every set beside the progress.
        accept: is shown the set a run is resumed from; raises where that must not be.
        parallel: processes and device; default this process alone, on the CPU.
        bad_steps: folder for batches without a usable gradient.
    """

    def __init__(
        self, objective: Objective, stream: StepStream, config: TrainConfig, *,
        groups: Sequence[Group] | None = None,
        observers: Sequence[Observer] = (),
        evaluate: Callable[[int], dict[str, float]] | None = None,
        state: Sets | None = None,
        export: Callable[[str], None] | None = None,
        facts: dict[str, Any] | None = None,
        accept: Callable[[Restored], None] | None = None,
        parallel: Parallel | None = None,
        bad_steps: Path | None = None,
    ):  # fmt: skip
        assert config.steps is not None, "epochs are turned into steps before"
        self.objective, self.stream, self.config, self.steps = objective, stream, config, config.steps
        self.evaluate, self.state, self.export = evaluate, state, export
        self.facts, self.accept, self.bad_steps = facts or {}, accept, bad_steps
        self.parallel = parallel or Parallel()
        self.device = self.parallel.device
        self.observers = list(observers) if self.parallel.main else []
        objective.to(self.device)
        if config.checkpointing:
            recompute_activations(objective)
        self.forward = self.parallel.wrap(objective, precision=config.precision)
        self.parameters = trained(objective)
        if groups is None:
            groups = parameter_groups(self.parameters, config.optim, self.steps)
        self.optimizer = Optimizer(self.parameters, groups, config.optim, self.steps)
        self.average = Average(self.parameters, config.optim.ema) if config.optim.ema else None
        self.progress = Progress()
        self.resumed = 0
        self.notes: list[str] = []
        self._saved_at, self._saved_step = time.monotonic(), -1
        self._pace = deque[float](maxlen=RECENT)  # seconds of the last steps

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> Summary:
        """All steps that are not done yet, after those of the last set if there is one.

        Raises:
            DivergedError: `MAX_BAD_STEPS` in a row without a usable gradient.
            Stopped: a signal came; the step was finished and saved.
        """
        began = time.monotonic()
        with repeatable(self.device, self.config.threads), signals_heard() as signals:
            self.restore()
            self._saved_at = time.monotonic()
            stopped = self._all_steps(signals)
        progress = self.progress
        summary = Summary(
            steps=progress.step, stopped=stopped, best=progress.best, last=progress.last, skipped=progress.skipped,
            examples=progress.examples, tokens=progress.tokens, seconds=time.monotonic() - began,
            resumed=self.resumed, notes=tuple(self.notes),
        )  # fmt: skip
        for observer in self.observers:
            observer.on_end(summary)
        return summary

    def _all_steps(self, signals: list[int]) -> str:
        """Steps until the last one, until patience ends or until a signal; why it stopped."""
        progress, parallel = self.progress, self.parallel
        loader = Loader(
            self.stream, start=progress.step, stop=self.steps, rank=parallel.rank, world=parallel.world,
            workers=self.config.data.workers,
        )  # fmt: skip
        patient = True
        with loader:
            while patient and progress.step < self.steps:
                began = time.monotonic()
                batches = next(loader)
                with loader.watched():
                    self.step(batches, began, time.monotonic() - began)
                    if self._is_time_to_evaluate():
                        patient = self._evaluate()
                self._save_and_stop(signals)
        self.save()
        self._export("last")
        return "done" if patient else "patience"

    def _save_and_stop(self, signals: list[int]) -> None:
        """A set where one is due; the end where a signal came to any process."""
        asked = self.parallel.any(bool(signals))
        by_steps = self.config.save_every > 0 and self.progress.step % self.config.save_every == 0
        by_time = time.monotonic() - self._saved_at >= 60 * self.config.save_minutes > 0
        if asked or self.parallel.any(by_steps or by_time):
            self.save()
        if asked:
            self._export("last")
            raise Stopped(int(self.parallel.broadcast(signals[0] if signals else 15)), self.progress.step)

    # --- one step ---------------------------------------------------------------------------------------------------

    def step(self, batches: Sequence[Any], began: float, waited: float) -> None:
        """One update from this process's micro-batches, and its record."""
        progress, done = self.progress, self.progress.step
        self.objective.train()
        seed_step(self.config.seed, done, self.parallel.rank)
        with self._enough_memory():
            losses = self.gradient(batches)
        norm = float(self.parallel.clip_grad_norm(self.parameters.values(), self.config.optim.clip_norm))
        good = all(map(math.isfinite, (norm, *losses.values())))
        if good:
            self.optimizer.update(done)
            if self.average is not None:
                self.average.update(done)
        self.optimizer.zero_grad()
        tokens = int(self.parallel.all_reduce_sum({"tokens": float(sum(map(num_tokens, batches)))})["tokens"])
        progress.step += 1
        progress.examples += self.config.batch_size
        progress.tokens += tokens
        progress.bad_in_a_row = 0 if good else progress.bad_in_a_row + 1
        progress.skipped += not good
        seconds = time.monotonic() - began
        self._pace.append(seconds)
        record = StepRecord(
            step=progress.step, losses=losses, lr=self.optimizer.lr(done), grad_norm=norm,
            examples=self.config.batch_size, tokens=tokens, seconds=seconds, waited_s=waited,
            memory_bytes=peak_memory(self.device), skipped=not good,
            eta_s=sum(self._pace) / len(self._pace) * (self.steps - progress.step),
        )  # fmt: skip
        for observer in self.observers:
            observer.on_step(record)
        if not good:
            self._skipped(batches, record)

    def gradient(self, batches: Sequence[Any]) -> dict[str, float]:
        """The gradient of a step's mean loss, left on the parameters; returns the mean losses.

        Sums are divided by the weight of the whole step, over all processes, so that cutting a step into other
        micro-batches changes nothing but the last bits.

        Raises:
            InputError: nothing in the step weighs anything, so nothing could be learnt.
        """
        config = self.config
        weights = {"weight": sum(self.objective.weight(batch) for batch in batches)}
        weight = self.parallel.all_reduce_sum(weights)["weight"]
        if not weight > 0:
            raise InputError(
                f"step {self.progress.step + 1} has no token to learn ({_whose(batches)}), expected a suffix in its "
                "examples; check the data"
            )
        scale = self.parallel.gradient_scale / weight
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            with self.parallel.accumulating(self.forward, last=last), self.parallel.peers(), compiled(config.compile):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    found = self.forward(batch.to(self.device))
                (found["loss"] * scale).backward()
            for name, value in found.items():
                sums[name] = sums[name] + value.detach().to(exact) if name in sums else value.detach().to(exact)
        values = torch.stack(list(sums.values())).tolist()  # the step's one wait for the device, beside the norm's
        whole = self.parallel.all_reduce_sum(dict(zip(sums, values, strict=True)))
        return {name: value / weight for name, value in whole.items()}

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        """
        Raises:
            ResourceError: there is not.
        """
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            size = self.config.micro_batch or self.config.batch_size // self.parallel.world
            raise ResourceError(
                f"step {self.progress.step + 1} needs more memory than {self.device} has, with {size} examples at a "
                "time; set a smaller micro_batch (the result stays the same) or checkpointing, and resume"
            ) from error

    def _skipped(self, batches: Sequence[Any], record: StepRecord) -> None:
        """Keeps the batch that gave no usable gradient; ends the run after `MAX_BAD_STEPS` in a row."""
        found = f"loss {record.losses['loss']:g}, gradient norm {record.grad_norm:g}"
        where = ""
        if self.bad_steps is not None:
            where = f" in {keep_bad_step(self.bad_steps, record, batches, self.parallel.rank)}"
        self.note(f"step {record.step} was skipped: {found}" + (f"; its batch is kept{where}" if where else ""))
        if self.progress.bad_in_a_row >= MAX_BAD_STEPS:
            raise DivergedError(
                f"{MAX_BAD_STEPS} steps in a row up to step {record.step} gave no usable gradient ({found}), expected "
                f"finite numbers; the last good set is kept, so look at the last batch{where}, then train anew with a "
                "lower optim.lr or a longer optim.warmup"
            )

    # --- evaluation -------------------------------------------------------------------------------------------------

    def _is_time_to_evaluate(self) -> bool:
        every = self.config.evaluate.every or self.steps
        due = self.progress.step % every == 0 or self.progress.step == self.steps
        return self.evaluate is not None and due

    def _evaluate(self) -> bool:
        """Figures of the present weights, the best model written; whether it is worth going on."""
        assert self.evaluate is not None
        progress, wanted = self.progress, self.config.evaluate
        with self.as_exported(), torch.no_grad():
            figures = dict(self.parallel.broadcast(self.evaluate(progress.step)))
            if wanted.metric not in figures:
                hint = did_you_mean(wanted.metric, list(figures))
                raise UsageError(f"the evaluation gives no figure {wanted.metric!r} to say what is best{hint}")
            progress.last = figures
            for observer in self.observers:
                observer.on_evaluation(progress.step, figures)
            progress.evaluations_since_best += 1
            if is_better(wanted.metric, figures, progress.best):
                progress.best, progress.evaluations_since_best = Best(step=progress.step, figures=figures), 0
                if self.export is not None:
                    self.export("best")
        if not wanted.patience or progress.evaluations_since_best < wanted.patience:
            return True
        self.note(f"no better {wanted.metric} in {wanted.patience} evaluations: stopped after step {progress.step}")
        return False

    @contextmanager
    def as_exported(self) -> Iterator[None]:
        """The model as it is evaluated and written: averaged weights where there are any, evaluation mode."""
        self.objective.eval()
        with self.average.swapped_in() if self.average is not None else nullcontext():
            yield
        self.objective.train()

    def _export(self, name: str) -> None:
        if self.export is not None:
            with self.as_exported(), torch.no_grad():
                self.export(name)

    # --- saving -----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """A set with all that later steps depend on: weights that move, the optimizer's memory, average, progress."""
        state = self.state
        if state is None or self._saved_step == self.progress.step:
            return
        tensors = snapshot(self.parallel, self.objective, self.optimizer.torch, self._averages)
        facts = {**self.facts, "progress": self.progress.to_dict()}

        def write() -> None:
            state.save(self.progress.step, tensors, facts)

        self.parallel.on_main(write)
        self._saved_at, self._saved_step = time.monotonic(), self.progress.step

    def restore(self) -> None:
        """Takes up the last set, if there is one."""
        state = self.state
        if state is None:
            return
        tensors: dict[str, Tensor] = {}

        def read() -> Any:
            found = state.load_last()
            if found is None:
                return None
            if self.accept is not None:
                self.accept(found)
            tensors.update(found.tensors)
            return found.facts["progress"]

        progress = self.parallel.on_main(read)
        if progress is None:
            return
        restore(self.parallel, tensors, self.objective, self.optimizer.torch, self._averages)
        self.progress = Progress.from_dict(progress)
        self.resumed = self._saved_step = self.progress.step
        self.note(f"resumed after step {self.resumed}")

    @property
    def _averages(self) -> dict[str, Tensor] | None:
        return None if self.average is None else self.average.values

    def note(self, text: str) -> None:
        """Tells every observer something in words."""
        self.notes.append(text)
        for observer in self.observers:
            observer.on_note(text)


def is_better(metric: str, figures: dict[str, float], best: Best | None) -> bool:
    """Whether figures beat the best so far; ties and what is no number do not."""
    value = figures[metric]
    if not math.isfinite(value) or best is None:
        return math.isfinite(value)
    lower = any(word in metric for word in LOWER_IS_BETTER)
    return value < best.figures[metric] if lower else value > best.figures[metric]


def recompute_activations(objective: Objective) -> None:
    """Gradient checkpointing: each block of both towers keeps its input only and runs again in the backward pass."""

    def again(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *arguments: checkpoint(forward, *arguments, use_reentrant=False)

    model = objective.model
    for block in (*model.vision_tower.layers, *model.language_model.layers):
        block.forward = again(block.forward)


def num_tokens(batch: Any) -> int:
    """Tokens of a micro-batch without padding; 0 where it has no rows of tokens."""
    mask = getattr(batch, "mask_input", None)
    return 0 if mask is None else int(mask.sum())


def _whose(batches: Sequence[Any]) -> str:
    """The first examples of a step, for messages."""
    ids = [each for batch in batches for each in ids_of(batch)]
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "") or "examples without a name"
