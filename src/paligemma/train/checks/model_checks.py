"""What only the model can tell about a batch before training: a table of tests on the real model and objective.

    future     the loss of an answer token does not depend on that token or any later one
    padding    rows weigh the same alone and side by side, padded
    pictures   other pictures give another loss

In: the objective of a run, not wrapped, and a batch as the loader gives it. Out: `Finding`s. Weights, gradients, modes
and random numbers are as before. To add a test, write a function and its line in `TESTS`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from paligemma.config import IMAGE_SLOT
from paligemma.processor import Batch
from paligemma.train.checks.token_checks import Finding
from paligemma.train.judging.evaluate import aside
from paligemma.train.objective import Objective

# Sums in another order differ; a row that sees its padding or its neighbours differs far more.
SAME = {"fp32": 1e-3, "bf16": 3e-2}
EXTRA = 8  # places of padding
DEFAULT_ROWS = 2


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is tested: an objective, two rows of a batch on its device, and training's precision."""

    objective: Objective
    batch: Batch
    precision: str

    @property
    def num_image_tokens(self) -> int:
        return self.objective.model.config.vision.num_image_tokens

    def loss(self, batch: Batch) -> Tensor:
        """The sum over a batch, computed as training computes it."""
        return self.objective(batch)["loss"]

    def row(self, index: int) -> Batch:
        """One row alone, without padding."""
        return taken(self.batch, [index], self.num_image_tokens)


Test = Callable[[Subject], str | None]


def check_model(objective: Objective, batch: Batch, precision: str) -> list[Finding]:
    """Every test on the first two rows of a batch with answers to learn; see the module."""
    model = objective.model
    learnt = [i for i, row in enumerate(batch.mask_loss.tolist()) if any(row)]
    if not learnt:
        return []  # refused by its rows already
    chosen = taken(batch, learnt[:DEFAULT_ROWS], model.config.vision.num_image_tokens)
    device = next(model.parameters()).device
    subject = Subject(objective=objective, batch=chosen.to(device), precision=precision)
    ids = getattr(batch, "ids", ()) or ("the first batch",) * len(batch.tokens)
    found = []
    with aside(objective), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for test in TESTS:
            if (sentence := test.find(subject)) is not None:
                found.append(Finding(check=test.name, id=ids[learnt[0]], sentence=sentence, refused=test.refused))
    return found


def future_leaks(subject: Subject) -> str | None:
    """Of the first, a middle and the last answer token: gradients of its loss, and what changed answers change."""
    batch = subject.row(0)
    learnt = batch.mask_loss[0].nonzero()[:, 0].tolist()
    for place in dict.fromkeys((learnt[0], learnt[len(learnt) // 2], learnt[-1])):
        slope = _slope(subject, batch, place)
        later = int(slope[0, place:].abs().amax(-1).count_nonzero())
        if later:
            return (
                f"the loss of answer token {place - learnt[0] + 1} depends on itself or on later tokens ({later} of "
                f"{len(slope[0]) - place}), expected earlier ones alone; the attention mask leaks the answer, or the "
                "labels are shifted"
            )
        if not slope.abs().amax() > 0:
            return (
                f"the loss of answer token {place - learnt[0] + 1} depends on no token before it, expected the prompt"
            )
    return _changed_future(subject, batch, learnt)


def _slope(subject: Subject, batch: Batch, place: int) -> Tensor:
    """float[1, T, D]: gradient of the loss of predicting the token at `place`, by what enters the language model."""
    only = torch.zeros_like(batch.mask_loss)
    only[0, place] = 1
    with torch.enable_grad(), entering(subject.objective) as entered:
        loss = subject.loss(replace(batch, mask_loss=only))
        (slope,) = torch.autograd.grad(loss, entered, allow_unused=True)
    return torch.zeros_like(entered[0]) if slope is None else slope


@contextmanager
def entering(objective: Objective) -> Iterator[list[Tensor]]:
    """What enters the language model in here, each time, as leaves that gradients can be asked of."""
    entered: list[Tensor] = []

    def watch(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entered.append(arguments[0].detach().requires_grad_())
        return (entered[-1], *arguments[1:])

    handle = objective.model.language_model.register_forward_pre_hook(watch)
    try:
        yield entered
    finally:
        handle.remove()


def _changed_future(subject: Subject, batch: Batch, learnt: list[int]) -> str | None:
    """Hidden states, and so logits, up to a token must not change with the tokens behind it."""
    model, middle = subject.objective.model, learnt[(len(learnt) - 1) // 2]
    if middle + 1 >= batch.tokens.shape[1]:
        return None
    other = batch.tokens.clone()
    rows = model.config.text.embedding_rows
    other[0, middle + 1 :] = (other[0, middle + 1 :] + 1 + rows // 2) % rows
    with torch.no_grad():
        one, two = (
            model.hidden(tokens, batch.pixels, batch.mask_ar, batch.mask_input)[0] for tokens in (batch.tokens, other)
        )
    if torch.equal(one[: middle + 1], two[: middle + 1]):
        return None
    return (
        f"other tokens behind answer token {middle - learnt[0] + 1} change what is predicted up to it, expected no "
        "change; the attention mask leaks the answer"
    )


def padding_matters(subject: Subject) -> str | None:
    """Rows alone, summed, against the same rows side by side with more padding."""
    batch = subject.batch
    with torch.no_grad():
        alone = sum(float(subject.loss(subject.row(i))) for i in range(len(batch.tokens)))
        padded = float(subject.loss(lengthened(batch, EXTRA)))
    if abs(alone - padded) <= SAME[subject.precision] * max(abs(alone), 1e-6):
        return None
    return (
        f"the loss of its rows is {alone:.6g} one by one, but {padded:.6g} side by side and padded, expected the same; "
        "a row sees its padding or its neighbours"
    )


def pictures_do_not_matter(subject: Subject) -> str | None:
    """The same rows with their pictures inverted and upside down."""
    batch = subject.batch
    if batch.pixels is None:
        return None
    with torch.no_grad():
        before, after = (
            float(subject.loss(replace(batch, pixels=pixels))) for pixels in (batch.pixels, -batch.pixels.flip(-2))
        )
    if before != after:
        return None
    return (
        f"the loss is {before:.6g} with its pictures and with inverted ones; either the pictures are blank, "
        "or the model does not look at them"
    )


@dataclass(frozen=True)
class ModelTest:
    """One line of the table."""

    name: str
    find: Test
    refused: bool = True


TESTS = (
    ModelTest("future", future_leaks),
    ModelTest("padding", padding_matters),
    ModelTest("pictures", pictures_do_not_matter, refused=False),
)


# --- parts of a batch ------------------------------------------------------------------------------------------------


def taken(batch: Batch, rows: list[int], num_image_tokens: int) -> Batch:
    """Some rows with their pictures, without the padding that none of them needs."""
    counts = ((batch.tokens == IMAGE_SLOT).sum(1) // num_image_tokens).tolist()
    images = [sum(counts[:row]) + i for row in rows for i in range(counts[row])]
    pixels = None if batch.pixels is None or not images else batch.pixels[images]
    kept = batch.mask_input[rows].any(0)
    return Batch(
        tokens=batch.tokens[rows][:, kept], pixels=pixels, mask_ar=batch.mask_ar[rows][:, kept],
        mask_input=batch.mask_input[rows][:, kept], mask_loss=batch.mask_loss[rows][:, kept],
    )  # fmt: skip


def lengthened(batch: Batch, extra: int) -> Batch:
    """The same with padding at the end, as `Processor.collate` pads for training."""

    def longer(tensor: Tensor, value: int) -> Tensor:
        return torch.cat([tensor, tensor.new_full((len(tensor), extra), value)], dim=1)

    return Batch(
        tokens=longer(batch.tokens, 0), pixels=batch.pixels, mask_ar=longer(batch.mask_ar, 1),
        mask_input=longer(batch.mask_input, 0), mask_loss=longer(batch.mask_loss, 0),
    )  # fmt: skip
