from dataclasses import replace

import pytest
import torch
from PIL import Image
from tests.oracle import TEXT_2, VISION, draw_model

from paligemma.checkpoints import find_tokenizer
from paligemma.config import IMAGE_SLOT, Config
from paligemma.errors import UsageError
from paligemma.model import AttentionMask
from paligemma.processor import Processor
from paligemma.tokenizer import Tokenizer
from paligemma.train.config import LossConfig
from paligemma.train.pretraining.packing import LENGTH_STEP, PackedObjective, pack

QUESTIONS = [("caption en", "a cat"), ("detect cat", "<loc0100><loc0200><loc0300><loc0400> cat"), ("ocr", "")]
TOKENIZER = Tokenizer.load(find_tokenizer("nano"))
PROCESSOR = Processor(TOKENIZER, image_size_px=8, num_image_tokens=4)
MODEL_CONFIG = Config(vision=VISION, text=replace(TEXT_2, vocab_size=TOKENIZER.vocab_size, sliding_window=4096))
PICTURES = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]


def objective(per: str = "example") -> PackedObjective:
    return PackedObjective(draw_model(MODEL_CONFIG), LossConfig(per=per))


def packed(questions: list[tuple[str, str]], picture: int = 0, alone: bool = False) -> float:
    batch = pack(PROCESSOR, [PICTURES[picture]], [questions], alone=alone)
    with torch.no_grad():
        return float(objective()(batch)["loss"])


def alone_in_a_row(question: tuple[str, str], pictures: list[Image.Image]) -> float:
    """The loss of the ordinary row, as the trainer of stage 3 has it."""
    row = PROCESSOR.collate([PROCESSOR.encode(pictures, *question, allow=frozenset({"locations"}))], side="right")
    trained = objective()
    with torch.no_grad():
        hidden = trained.model.hidden(row.tokens, row.pixels, row.mask_ar, row.mask_input)
        return float(trained.suffix(hidden, row.tokens, row.mask_loss))


def test_a_part_holds_questions_of_like_length() -> None:
    batch = pack(PROCESSOR, PICTURES, [QUESTIONS, QUESTIONS[:1]])
    assert (len(batch.pixels), batch.pictures) == (2, 2)
    found = {}
    for part in batch.questions:
        assert part.tokens.shape[1] % LENGTH_STEP == 0
        assert int(part.mask_input.sum(1).min()) > part.tokens.shape[1] - LENGTH_STEP
        for row in range(len(part.tokens)):
            kept = part.mask_input[row]
            found[int(part.picture[row]), tuple(part.tokens[row][kept].tolist())] = part.mask_loss[row][kept].tolist()
            assert not part.mask_loss[row][~kept].any()
    for picture, (prefix, suffix) in [(0, question) for question in QUESTIONS] + [(1, QUESTIONS[0])]:
        row = PROCESSOR.encode([], prefix, suffix, allow=frozenset({"locations"}), text_only=True)
        assert found.pop((picture, tuple(row.tokens.tolist()))) == row.mask_loss.tolist()
    assert not found


@pytest.mark.parametrize("alone", [True, False])
def test_the_loss_is_the_sum_over_questions_that_know_nothing_of_one_another(alone: bool) -> None:
    batch = pack(PROCESSOR, PICTURES, [QUESTIONS, QUESTIONS[:2]], alone=alone)
    trained = objective()
    with torch.no_grad():
        together = float(trained(batch)["loss"])
    apart = sum(packed([question], alone=alone) for question in QUESTIONS)
    apart += sum(packed([question], 1, alone=alone) for question in QUESTIONS[:2])
    assert together == pytest.approx(apart, rel=1e-5)
    assert trained.weight(batch) == 5


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_question_alone_is_the_ordinary_row(question: tuple[str, str]) -> None:
    want = alone_in_a_row(question, PICTURES[:1])
    assert packed([question], alone=True) == pytest.approx(want, rel=1e-5)
    assert abs(packed([question]) - want) > 1e-4  # here the picture did not see the question


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
    assert packed([question]) == pytest.approx(want, rel=1e-5)


def test_the_picture_learns_from_every_question() -> None:
    """Gradients through the keys and values that questions share: those of the questions one by one, added up."""

    def gradient(questions: list[tuple[str, str]]) -> torch.Tensor:
        trained = objective()
        trained(pack(PROCESSOR, PICTURES[:1], [questions]))["loss"].backward()
        return trained.model.vision_tower.patch_embedding.weight.grad

    together = gradient(QUESTIONS)
    apart = sum(gradient([question]) for question in QUESTIONS)
    assert together.abs().max() > 0
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alone", [True, False])
def test_the_frames_of_a_clip_are_one_picture(alone: bool) -> None:
    questions = [QUESTIONS[0], ("answer en what does it do?", "moves")]
    batch = pack(PROCESSOR, [PICTURES, PICTURES[::-1]], [questions] * 2, alone=alone)
    assert (len(batch.pixels), batch.pictures) == (4, 2)
    with torch.no_grad():
        together = float(objective()(batch)["loss"])
    clips = (PICTURES, PICTURES[::-1])
    apart = sum(alone_in_a_row(question, clip) for clip in clips for question in questions)
    assert (together == pytest.approx(apart, rel=1e-5)) == alone


def test_tokens_may_be_what_counts() -> None:
    batch = pack(PROCESSOR, PICTURES, [QUESTIONS, QUESTIONS[:1]])
    assert objective("token").weight(batch) == sum(int(part.mask_loss.sum()) for part in batch.questions)


def test_pictures_and_questions_must_match() -> None:
    with pytest.raises(UsageError, match="2 pictures and 1 lists"):
        pack(PROCESSOR, PICTURES, [QUESTIONS])
    with pytest.raises(UsageError, match="not empty"):
        pack(PROCESSOR, PICTURES, [QUESTIONS, []])
