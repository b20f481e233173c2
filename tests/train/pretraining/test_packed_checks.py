"""What is asked of packed rows before the first step, each refusal provoked on scenes as they come."""

from dataclasses import replace

import pytest
import torch
from tests.oracle import TEXT_2, VISION, draw_model

from paligemma.checkpoints import find_tokenizer
from paligemma.config import Config
from paligemma.errors import CheckFailed, InputError
from paligemma.model import AttentionMask
from paligemma.processor import Processor
from paligemma.scenes import draw_scene
from paligemma.tokenizer import Tokenizer
from paligemma.train.checks.rows import rows_of
from paligemma.train.config import LossConfig
from paligemma.train.pretraining import packed_checks, packing
from paligemma.train.pretraining.looking import SeeAndSpeakObjective
from paligemma.train.pretraining.packed_checks import check_scenes, unpacked
from paligemma.train.pretraining.packing import PackedObjective, pack
from paligemma.train.pretraining.scenes import ScenePlan, SceneStream

TOKENIZER = Tokenizer.load(find_tokenizer("nano"))
PROCESSOR = Processor(TOKENIZER, image_size_px=32, num_image_tokens=16)
CONFIG = Config(
    vision=replace(VISION, image_size_px=32, patch_size_px=8),
    text=replace(TEXT_2, vocab_size=TOKENIZER.vocab_size, sliding_window=4096),
)
PLAN = ScenePlan(pictures=2, micro=2, questions=3, alone=0.5, alone_questions=2, clips=1)


def objective(kind=PackedObjective, **more):
    return kind(draw_model(CONFIG), LossConfig(), **more)


def stream(**changes):
    return SceneStream(PROCESSOR, replace(PLAN, **changes))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scenes_pass(precision):
    found = check_scenes(objective(), stream(), precision)
    assert not any(one.refused for one in found)
    assert not [one for one in found if one.check == "pictures"]


def test_the_truth_about_patches_does_not_hide_a_blind_model(monkeypatch):
    seeing = objective(SeeAndSpeakObjective, first_location=0, patch_weight=0.3)
    assert not [one for one in check_scenes(seeing, stream()) if one.check == "pictures"]
    speak = PackedObjective.packed_loss
    monkeypatch.setattr(PackedObjective, "packed_loss", lambda self, batch, seen: speak(self, batch, 0 * seen))
    (blind, *_) = [one for one in check_scenes(seeing, stream(clips=0)) if one.check == "pictures"]
    assert "does not look at them" in blind.sentence


def test_all_ways_to_ask_are_looked_at(monkeypatch):
    looked = []
    monkeypatch.setattr(packed_checks, "check_packed", lambda trained, batch, *more: looked.append(batch) or [])
    check_scenes(objective(), stream())
    found = [(batch.alone, batch.pictures, len(batch.pixels) // batch.pictures) for batch in looked]
    assert found == [(False, 2, 1), (False, 1, 8), (True, 2, 1), (True, 1, 8)]  # two scenes, a clip; the same alone
    looked.clear()
    check_scenes(objective(), stream(alone=1.0, clips=0))
    assert [batch.alone for batch in looked] == [True]
    looked.clear()
    assert check_scenes(objective(), stream(questions=0)) == looked == []


def test_a_question_that_sees_another_is_refused(monkeypatch):
    """Values of the row beside it, weakly: too little for the loss to tell."""
    update = packing._Behind.update

    def mixed(self, layer, keys, values):
        return update(self, layer, keys, values + 1e-4 * values.roll(1, 0))

    monkeypatch.setattr(packing._Behind, "update", mixed)
    with pytest.raises(CheckFailed, match=r"depends on \d+ tokens of other questions, expected its own"):
        check_scenes(objective(), stream(alone=0.0))
    assert not any(one.refused for one in check_scenes(objective(), stream(alone=1.0)))


def test_a_question_about_another_picture_is_refused(monkeypatch):
    update = packing._Behind.update

    def moved(self, layer, keys, values):
        self.picture = self.picture.roll(1)
        return update(self, layer, keys, values)

    monkeypatch.setattr(packing._Behind, "update", moved)
    with pytest.raises(CheckFailed, match=r"depends on \d pictures of other questions"):
        check_scenes(objective(), stream(alone=0.0))


class Averaged(PackedObjective):
    """A mean over the questions that stand together, of which a sum is expected."""

    def packed_loss(self, batch, seen):
        return super().packed_loss(batch, seen) / sum(len(part.tokens) for part in batch.questions)


def test_a_loss_that_depends_on_its_neighbours_is_refused():
    with pytest.raises(CheckFailed, match=r"one by one, but .* together"):
        check_scenes(objective(Averaged), stream(alone=1.0))


@pytest.mark.parametrize("alone", [0.0, 1.0])
def test_an_answer_that_sees_what_follows_is_refused(monkeypatch, alone):
    """The off-by-one that lets each answer token see the next."""
    rows = AttentionMask.rows

    def peeping(self, start, stop, window):
        return rows(replace(self, query_step=self.query_step + 1), start, stop, window)

    monkeypatch.setattr(AttentionMask, "rows", peeping)
    with pytest.raises(CheckFailed, match="on itself or on later tokens"):
        check_scenes(objective(), stream(alone=alone))


class Unshifted(PackedObjective):
    """Predicts the token that is read."""

    def suffix(self, hidden, *given):
        return super().suffix(hidden.roll(-1, 1), *given)


def test_labels_that_are_not_shifted_are_refused():
    with pytest.raises(CheckFailed, match="labels are shifted"):
        check_scenes(objective(Unshifted), stream())


def nothing_learnt(part):
    return replace(part, mask_loss=0 * part.mask_loss)


def everything_learnt(part):
    return replace(part, mask_loss=part.mask_input.long())


def without_eos(part):
    tokens = torch.where(part.tokens == TOKENIZER.eos_id, TOKENIZER.newline_id, part.tokens)
    return replace(part, tokens=tokens)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (nothing_learnt, "question 0.0 of picture .: no token of it is trained"),
        (everything_learnt, "expected <bos> before"),
        (without_eos, "expected <eos>"),
    ],
)
def test_questions_are_checked_as_ordinary_rows_are(monkeypatch, spoil, told):
    table = packing._table
    monkeypatch.setattr(packing, "_table", lambda *given: spoil(table(*given)))
    with pytest.raises(InputError, match=told):
        check_scenes(objective(), stream())


def test_nothing_is_changed():
    trained = objective().train()
    weights = {name: value.clone() for name, value in trained.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_scenes(trained, stream())
    assert torch.equal(torch.rand(3), expected)
    assert trained.training
    assert "suffix" not in vars(trained)
    assert all(torch.equal(value, weights[name]) for name, value in trained.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_each_question_is_the_row_it_stands_for():
    questions = [("caption en", "a cat"), ("detect cat", "<loc0100><loc0200><loc0300><loc0400> cat"), ("ocr", "")]
    rows = rows_of(unpacked(pack(PROCESSOR, [draw_scene(3, 32).image], [questions]), 16), PROCESSOR)
    assert sorted((row.text("prefix"), row.text("suffix")) for row in rows) == sorted(questions)
    assert len({row.id for row in rows}) == 3
    assert [len(row.of("image")) for row in rows] == [16] * 3
