from dataclasses import replace

import pytest
import torch
from PIL import Image
from tests.oracle import TEXT_2, VISION, draw_model

from paligemma.checkpoints import resolve
from paligemma.config import IMAGE_SLOT, Config
from paligemma.errors import UsageError
from paligemma.model import AttentionMask
from paligemma.processor import Processor
from paligemma.tokenizer import Tokenizer
from paligemma.train.config import LossConfig
from paligemma.train.pretraining.packing import LENGTH_STEP, PackedBatch, PackedObjective, pack

QUESTIONS = [("caption en", "a cat"), ("detect cat", "<loc0100><loc0200><loc0300><loc0400> cat"), ("ocr", "")]
TOKENIZER = Tokenizer.load(resolve("nano") / "tokenizer.json")
PROCESSOR = Processor(TOKENIZER, image_size_px=8, num_image_tokens=4)
MODEL_CONFIG = Config(vision=VISION, text=replace(TEXT_2, vocab_size=2176, sliding_window=4096))
PICTURES = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]


def objective(per: str = "example") -> PackedObjective:
    return PackedObjective(draw_model(MODEL_CONFIG), LossConfig(per=per))


def packed(questions: list[tuple[str, str]], picture: int = 0) -> float:
    batch = pack(PROCESSOR, [PICTURES[picture]], [questions])
    with torch.no_grad():
        return float(objective()(batch)["loss"])


def test_a_row_holds_the_picture_once_and_every_question() -> None:
    batch = pack(PROCESSOR, PICTURES, [QUESTIONS, QUESTIONS[:1]])
    assert isinstance(batch, PackedBatch)
    assert batch.tokens.shape[1] % LENGTH_STEP == 0
    assert batch.tokens.eq(IMAGE_SLOT).sum(1).tolist() == [4, 4]
    assert batch.segment.amax(1).tolist() == [3, 1]
    for number, (prefix, suffix) in enumerate(QUESTIONS, 1):
        here = batch.segment[0] == number
        row = PROCESSOR.encode([], prefix, suffix, allow=frozenset({"locations"}), text_only=True)
        assert batch.tokens[0][here].tolist() == row.tokens.tolist()
        assert batch.mask_loss[0][here].tolist() == row.mask_loss.tolist()
        assert batch.position[0][here].tolist() == list(range(4, 4 + len(row.tokens)))
        assert batch.step[0][here].tolist() == row.mask_loss.cumsum(0).tolist()
    assert batch.mask_input.sum(1).tolist() == [int((batch.tokens[0] != 0).sum()), int((batch.tokens[1] != 0).sum())]


def test_the_loss_is_the_sum_over_questions_that_know_nothing_of_one_another() -> None:
    batch = pack(PROCESSOR, PICTURES, [QUESTIONS, QUESTIONS[:2]])
    trained = objective()
    with torch.no_grad():
        together = float(trained(batch)["loss"])
    apart = sum(packed([question] * 2) / 2 for question in QUESTIONS)
    apart += sum(packed([question] * 3, 1) / 3 for question in QUESTIONS[:2])
    assert together == pytest.approx(apart, rel=1e-5)
    assert trained.weight(batch) == 5


def test_one_question_alone_is_the_ordinary_row() -> None:
    question = QUESTIONS[1]
    row = PROCESSOR.collate([PROCESSOR.encode(PICTURES[0], *question, allow=frozenset({"locations"}))], side="right")
    trained = objective()
    with torch.no_grad():
        hidden = trained.model.hidden(row.tokens, row.pixels, row.mask_ar, row.mask_input)
        want = float(trained.suffix(hidden, row.tokens, row.mask_loss))
    assert packed([question]) == pytest.approx(want, rel=1e-5)


def test_among_others_the_picture_does_not_see_the_question() -> None:
    question = QUESTIONS[1]
    row = PROCESSOR.collate([PROCESSOR.encode(PICTURES[0], *question, allow=frozenset({"locations"}))], side="right")
    trained = objective()
    model = trained.model
    step = row.mask_ar.cumsum(1) + (row.tokens != IMAGE_SLOT)  # the prompt is a step after the picture
    mask = AttentionMask.prefix_lm(torch.diff(step, prepend=step[:, :1]), row.mask_input)
    with torch.no_grad():
        hidden = model.decode(model.embed(row.tokens, model.encode_images(row.pixels)), mask)
        want = float(trained.suffix(hidden, row.tokens, row.mask_loss))
    assert packed([question] * 2) / 2 == pytest.approx(want, rel=1e-5)
    assert abs(packed([question]) - want) > 1e-4


def test_no_position_sees_what_comes_later_or_another_question() -> None:
    """Gradient of one position's hidden state with respect to all embeddings: only what it may see."""
    batch = pack(PROCESSOR, PICTURES[:1], [QUESTIONS])
    model = draw_model(MODEL_CONFIG)
    mask = AttentionMask.packed(batch.step, batch.position, batch.segment, batch.mask_input)
    x = model.embed(batch.tokens, model.encode_images(batch.pixels)).detach().requires_grad_()
    hidden = model.decode(x, mask)
    for at in batch.mask_loss[0].nonzero()[:, 0].tolist():
        (gradient,) = torch.autograd.grad(hidden[0, at].square().sum(), x, retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        mine = (batch.segment[0] == batch.segment[0, at]) & (batch.step[0] <= batch.step[0, at])
        assert seen.tolist() == ((batch.segment[0] == 0) & batch.mask_input[0] | mine).tolist()


def test_questions_in_rows_of_their_own_share_the_tower_s_work() -> None:
    batch = pack(PROCESSOR, PICTURES, [QUESTIONS[:2], QUESTIONS[:1]], alone=True)
    assert batch.tokens.shape[0] == 3
    assert (batch.rows.tolist(), len(batch.pixels)) == ([2, 1], 2)
    trained = objective()
    with torch.no_grad():
        together = float(trained(batch)["loss"])
    apart = packed(QUESTIONS[:1]) + packed(QUESTIONS[1:2]) + packed(QUESTIONS[:1], 1)
    assert together == pytest.approx(apart, rel=1e-5)
    assert trained.weight(batch) == 3


@pytest.mark.parametrize("alone", [True, False])
def test_the_frames_of_a_clip_are_one_picture(alone: bool) -> None:
    questions = [QUESTIONS[0], ("answer en what does it do?", "moves")]
    batch = pack(PROCESSOR, [PICTURES, PICTURES[::-1]], [questions] * 2, alone=alone)
    rows = [
        PROCESSOR.encode(clip, *question) for clip in (PICTURES, PICTURES[::-1]) for question in questions
    ]  # fmt: skip
    assert batch.tokens.eq(IMAGE_SLOT).sum(1).tolist() == [8] * len(batch.tokens)
    assert batch.pixels.shape[0] == 4
    trained = objective()
    with torch.no_grad():
        together = float(trained(batch)["loss"])
        if not alone:
            assert together > 0
            return
        row = PROCESSOR.collate(rows, side="right")
        hidden = trained.model.hidden(row.tokens, row.pixels, row.mask_ar, row.mask_input)
        want = float(trained.suffix(hidden, row.tokens, row.mask_loss))
    assert together == pytest.approx(want, rel=1e-5)


def test_tokens_may_be_what_counts() -> None:
    batch = pack(PROCESSOR, PICTURES, [QUESTIONS, QUESTIONS[:1]])
    assert objective("token").weight(batch) == int(batch.mask_loss.sum())


def test_pictures_and_questions_must_match() -> None:
    with pytest.raises(UsageError, match="2 pictures and 1 lists"):
        pack(PROCESSOR, PICTURES, [QUESTIONS])
    with pytest.raises(UsageError, match="not empty"):
        pack(PROCESSOR, PICTURES, [QUESTIONS, []])
