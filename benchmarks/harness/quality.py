"""How exact a model in fewer bits is: against golden logits, and against itself unquantised on drawn scenes.

In: a directory of golden files, or a loaded model and questions. Out: shares and nats. Not done here: speed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from paligemma.api import PaliGemma
from paligemma.checkpoints.load import build_model, open_checkpoint
from paligemma.checkpoints.packing import build_packed, chosen_methods
from paligemma.config import IMAGE_SLOT
from paligemma.data.example import allowed_tokens
from paligemma.model import PaliGemmaModel
from paligemma.tasks.masks import decoder
from paligemma.train.judging.asking import answered
from paligemma.train.judging.grading import Question, figures, grade

CASES = ("prefix1", "batch3_left", "two_images", "text_only")  # of tests/data/golden/hf-*


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Distance from the oracle's logits.

    Attributes:
        error: |ours - golden| / |golden|. same: share of positions with the oracle's most likely token.
    """

    error: float
    same: float


def golden(directory: Path, quantize: "str | Mapping[str, str] | None", dtype: torch.dtype = torch.float32) -> Golden:
    """Of the model in `directory`, which holds expected.npz beside its weights."""
    opened = open_checkpoint(directory)
    methods = chosen_methods(opened, quantize)
    model = build_model(opened, dtype) if methods is None else build_packed(opened, dtype, methods)[0]
    arrays = dict(np.load(directory / "expected.npz", allow_pickle=False))
    off = size = 0.0
    same: list[Tensor] = []
    for case in CASES:
        logits, valid = _forward(model, arrays, case, opened.image_token_id)
        wanted = torch.from_numpy(arrays[f"{case}.logits_sub"])[valid]
        off += float((logits[valid][:, torch.from_numpy(arrays["sub_ids"]).long()] - wanted).square().sum())
        size += float(wanted.square().sum())
        same.append(logits[valid].argmax(-1) == torch.from_numpy(arrays[f"{case}.argmax"])[valid])
    return Golden(error=(off / size) ** 0.5, same=float(torch.cat(same).float().mean()))


@torch.no_grad()
def _forward(
    model: PaliGemmaModel, arrays: Mapping[str, np.ndarray], case: str, image_token_id: int | None
) -> tuple[Tensor, Tensor]:
    """Logits float32[B, T, V] of a golden case, and where they count, bool[B, T]."""
    ids, mask_ar = (torch.from_numpy(arrays[f"{case}.{name}"]) for name in ("input_ids", "token_type_ids"))
    valid = torch.from_numpy(arrays[f"{case}.attention_mask"]) != 0
    pixels = None
    if f"{case}.image_index" in arrays:
        chosen = torch.from_numpy(arrays["pixels_u8"][arrays[f"{case}.image_index"]])
        pixels = ((chosen.float() / 255 - 0.5) / 0.5).to(model.projector.weight.dtype)
    hidden = model.hidden(ids.masked_fill(ids == image_token_id, IMAGE_SLOT), pixels, mask_ar, valid)
    return model.language_model.logits(hidden).float(), valid


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A model on questions.

    Attributes:
        figures: of `paligemma evaluate`. answers: as text. forced: float32[T, V] log probabilities of the tokens of
            each true answer. nats: of those tokens, on average.
    """

    figures: dict[str, float]
    answers: list[str]
    forced: list[Tensor]
    nats: float

    @property
    def score(self) -> float:
        return mean(self.figures.values())


def asked(model: PaliGemma, questions: Sequence[Question], batch_size: int = 16) -> Seen:
    """Asks them all, and reads the probabilities of the true answers."""
    decode = None if model.mask_codec is None else decoder(model.mask_codec)
    answers, grades = [], []
    for question, answer in answered(model, questions, batch_size=batch_size):
        answers.append(str(answer.text))
        grades += grade(question, answer, decode)
    pairs = [_forced(model, question) for question in questions]
    told = torch.cat([logs.gather(1, true[:, None]) for logs, true in pairs])
    return Seen(
        figures={name: figure.value for name, figure in figures(grades).items()},
        answers=answers, forced=[logs for logs, _ in pairs], nats=-float(told.mean()),
    )  # fmt: skip


@torch.no_grad()
def _forced(model: PaliGemma, question: Question) -> tuple[Tensor, Tensor]:
    """float32[T, V] log probabilities at each token of the true answer, and those tokens."""
    allow = allowed_tokens(question.prefix)
    batch = model.processor.collate([
        model.processor.encode(list(question.images), question.prefix, question.suffix, allow=allow)
    ])  # fmt: skip
    assert batch.pixels is not None
    pixels = batch.pixels.to(model.model.projector.weight.dtype)
    hidden = model.model.hidden(batch.tokens, pixels, batch.mask_ar, batch.mask_input)
    before = batch.mask_loss[0, 1:].bool()
    logits = model.model.language_model.logits(hidden[:, :-1][:, before])[0]
    return logits.float().log_softmax(-1), batch.tokens[0, 1:][before]


def same_answers(one: Seen, other: Seen) -> float:
    """Share of questions that are answered alike."""
    return mean(a == b for a, b in zip(one.answers, other.answers, strict=True))


def divergence(of: Seen, reference: Seen) -> float:
    """Kullback-Leibler divergence from the reference, in nats, averaged over the tokens of true answers."""
    pairs: Iterable[tuple[Tensor, Tensor]] = zip(of.forced, reference.forced, strict=True)
    return float(torch.cat([(r.exp() * (r - m)).nan_to_num(0.0).sum(-1) for m, r in pairs]).mean())
