"""Refuse to be wrong, for packed questions: what `train.checks` asks of rows, and that no question sees another.

    first scenes of a stream -> packed questions -> each as the ordinary row it stands for -> `token_checks`
                                                 -> tests on the model: future, neighbours, pictures

In: the objective of a run, not wrapped, and its stream. Out: nothing, or one sentence about what must be mended first.
Weights, gradients, modes and random numbers are as before. Not done here: the dry run, which needs a trainer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from torch import Tensor

from paligemma.config import IMAGE_SLOT
from paligemma.processor import Processor
from paligemma.train.checks.model_checks import SAME, Subject, entering, pictures_do_not_matter
from paligemma.train.checks.preflight import refuse
from paligemma.train.checks.rows import rows_of
from paligemma.train.checks.token_checks import Alphabet, Finding, check_rows
from paligemma.train.judging.evaluate import aside
from paligemma.train.pretraining.packing import PackedBatch, PackedObjective, Questions
from paligemma.train.pretraining.scenes import SceneStream
from paligemma.train.streams import TrainingBatch

FEW = 2  # scenes that are looked at, of each way to ask


def check_scenes(objective: PackedObjective, stream: SceneStream, precision: str = "bf16") -> list[Finding]:
    """Looks at a few scenes of a stream, asked together and alone as its plan says; returns what is worth a look.

    Raises:
        InputError: a question that would teach something wrong.
        CheckFailed: an answer token sees itself, what follows it, or another question.
    """
    findings: list[Finding] = []
    examples = 0
    for batch in _first(stream):
        examples += sum(len(part.tokens) for part in batch.questions)
        findings += check_packed(objective, batch, stream.processor, precision)
    refuse(findings, examples)
    return findings


def _first(stream: SceneStream) -> Iterator[PackedBatch]:
    plan = stream.plan
    ways = [way for way, asked in ((0.0, plan.alone < 1), (1.0, plan.alone > 0)) if asked and plan.questions]
    for alone in ways:
        few = replace(plan, pictures=FEW, micro=FEW, clips=min(plan.clips, 1), alone=alone)
        for batch in SceneStream(stream.processor, few, stream.codec, stream.first_seed).micro_batches(0, 0, 1):
            assert isinstance(batch, PackedBatch)
            yield batch


def check_packed(objective: PackedObjective, batch: PackedBatch, processor: Processor, precision: str) -> list[Finding]:
    """Everything that is wrong with one packed batch; its rows come first, and where they are refused, alone."""
    model = objective.model
    rows = rows_of(unpacked(batch, processor.num_image_tokens), processor)
    findings = check_rows(rows, Alphabet.of(processor, model.config.text.max_positions))
    if any(found.refused for found in findings):
        return findings
    device = next(model.parameters()).device
    bare = _without_truth(batch).to(device)
    subject = Subject(objective=objective, batch=bare, precision=precision)  # type: ignore[arg-type]  # other rows
    with aside(objective), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        told = {
            "future": sees_too_much(objective, bare),
            "padding": neighbours_matter(objective, bare, SAME[precision]),
            "pictures": pictures_do_not_matter(subject),
        }
    return findings + [
        Finding(check=name, id=rows[0].id, sentence=sentence, refused=name != "pictures")
        for name, sentence in told.items()
        if sentence is not None
    ]


def unpacked(batch: PackedBatch, num_image_tokens: int) -> list[TrainingBatch]:
    """Every question as the ordinary row it stands for, behind slots for its picture."""
    slots = num_image_tokens * (len(batch.pixels) // batch.pictures)
    found = []
    for number, part in enumerate(batch.questions):
        before = part.tokens.new_zeros(len(part.tokens), slots)
        learnt = torch.cat((before, part.mask_loss), dim=1)
        found.append(
            TrainingBatch(
                tokens=torch.cat((before + IMAGE_SLOT, part.tokens), dim=1), pixels=None, mask_ar=learnt,
                mask_input=torch.cat((before == 0, part.mask_input), dim=1), mask_loss=learnt,
                ids=tuple(f"question {number}.{row} of picture {int(of)}" for row, of in enumerate(part.picture)),
                sources=("scenes",) * len(part.tokens),
            )
        )  # fmt: skip
    return found


def sees_too_much(objective: PackedObjective, batch: PackedBatch) -> str | None:
    """The loss of an answer token, by gradients: first, middle and last of two questions.

    One is of the table with most of them, one of the longest. It must depend on its picture and on earlier tokens of
    its own question, and on nothing else.
    """
    for number in {_most(batch, lambda part: len(part.tokens)), _most(batch, lambda part: part.tokens.shape[1])}:
        learnt = batch.questions[number].mask_loss[0].nonzero()[:, 0].tolist()
        for place in dict.fromkeys((learnt[0], learnt[len(learnt) // 2], learnt[-1])):
            felt, pictures = _felt(objective, batch, number, place)
            own = felt[number][0].clone()
            felt[number][0] = False
            others = sum(int(one.sum()) for one in felt)
            where = f"the loss of answer token {place - learnt[0] + 1}"
            if others:
                return (
                    f"{where} depends on {others} tokens of other questions, expected its own question alone; "
                    "the attention mask mixes questions"
                )
            pictures[batch.questions[number].picture[0]] = False
            if pictures.any():
                return f"{where} depends on {int(pictures.sum())} pictures of other questions, expected its own alone"
            if own[place:].any():
                return (
                    f"{where} depends on itself or on later tokens, expected earlier ones alone; the attention "
                    "mask leaks the answer, or the labels are shifted"
                )
            if not own.any():
                return f"{where} depends on no token before it, expected the prompt"
    return None


def _most(batch: PackedBatch, size: Callable[[Questions], int]) -> int:
    return max(range(len(batch.questions)), key=lambda number: size(batch.questions[number]))


def _felt(
    objective: PackedObjective, batch: PackedBatch, number: int, place: int
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """On what the loss of predicting a token of a table's first row depends: tokens of each table, bool[R, T]; pictures
    that were read before them, bool[P]."""
    only = [torch.zeros_like(part.mask_loss) for part in batch.questions]
    only[number][0, place] = 1
    with torch.enable_grad(), entering(objective) as entered, _learning(objective, only):
        slopes = torch.autograd.grad(objective(batch)["loss"], entered, allow_unused=True)
    found, pictures = [], torch.zeros(batch.pictures, dtype=torch.bool, device=batch.pixels.device)
    for slope in slopes[: -len(batch.questions)]:
        pictures |= pictures if slope is None else slope.flatten(1).abs().amax(1) > 0
    for part, slope in zip(batch.questions, slopes[-len(batch.questions) :], strict=True):
        length = part.tokens.shape[1]  # behind the picture's, where it is asked alone
        found.append(part.mask_input & False if slope is None else slope[:, -length:].abs().amax(-1) > 0)
    return found, pictures


@contextmanager
def _learning(objective: PackedObjective, masks: Sequence[Tensor]) -> Iterator[None]:
    """The loss is that of these tokens in here, table by table; what is seen stays as it is."""
    left, suffix = iter(masks), objective.suffix

    def only(hidden: Tensor, tokens: Tensor, mask_loss: Tensor) -> Tensor:
        return suffix(hidden, tokens, next(left))

    objective.suffix = only  # type: ignore[method-assign]  # of this object alone
    try:
        yield
    finally:
        del objective.suffix


def neighbours_matter(objective: PackedObjective, batch: PackedBatch, same: float) -> str | None:
    """Questions one by one, summed, against all of them together."""
    with torch.no_grad():
        together = float(objective(batch)["loss"])
        alone = sum(
            float(objective(_one(batch, part, row))["loss"])
            for part in batch.questions
            for row in range(len(part.tokens))
        )
    if abs(alone - together) <= same * max(abs(alone), 1e-6):
        return None
    return (
        f"the loss of its questions is {alone:.6g} one by one, but {together:.6g} together, expected the same; a "
        "question sees its padding, its neighbours, or another picture"
    )


def _one(batch: PackedBatch, part: Questions, row: int) -> PackedBatch:
    """One question and its picture, without padding."""
    frames = len(batch.pixels) // batch.pictures
    first, kept = frames * int(part.picture[row]), part.mask_input[row]
    question = Questions(
        tokens=part.tokens[row : row + 1, kept], mask_loss=part.mask_loss[row : row + 1, kept],
        mask_input=part.mask_input[row : row + 1, kept], picture=torch.zeros_like(part.picture[:1]),
        number=torch.zeros_like(part.number[:1]),
    )  # fmt: skip
    return replace(batch, pixels=batch.pixels[first : first + frames], pictures=1, questions=(question,))


def _without_truth(batch: PackedBatch) -> PackedBatch:
    """The same without what is known about patches, whose loss would hide that answers do not need the picture."""
    return PackedBatch(**{field.name: getattr(batch, field.name) for field in fields(PackedBatch)})
