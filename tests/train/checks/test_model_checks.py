import random
from dataclasses import replace

import pytest
import torch
from tests.oracle import TINY, draw_model, draw_prompt
from tests.train.tiny import PROCESSOR, Stream

from paligemma.model import AttentionMask
from paligemma.train.checks.model_checks import TESTS, check_model, lengthened, taken
from paligemma.train.config import LoraConfig, LossConfig, TrainConfig
from paligemma.train.objective import SuffixObjective
from paligemma.train.parts import prepare


def objective(kind=SuffixObjective, generation=2, **loss):
    return kind(draw_model(TINY[generation]), LossConfig(**loss))


def batch(step=0):
    return Stream().micro_batches(step)[0]


def names(findings):
    return [finding.check for finding in findings]


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("per", ["example", "token"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_real_objective_passes(generation, per, precision):
    for step in range(3):
        assert check_model(objective(generation=generation, per=per), batch(step), precision) == []


def test_adapters_pass():
    model = draw_model(TINY[2])
    prepare(model, TrainConfig(lora=LoraConfig(where=("lm",), dropout=0.5, dora=True)))
    assert check_model(SuffixObjective(model, LossConfig()), batch(), "fp32") == []


def test_an_all_visible_mask_is_refused(monkeypatch):
    seeing = AttentionMask.prefix_lm
    monkeypatch.setattr(AttentionMask, "prefix_lm", lambda mask_ar, valid: seeing(torch.zeros_like(mask_ar), valid))
    finding = check_model(objective(), batch(), "fp32")[0]
    assert (finding.check, finding.refused, finding.id) == ("future", True, "row:0")
    assert "leaks the answer" in finding.sentence


def test_a_window_into_the_future_of_one_token_is_refused(monkeypatch):
    """The off-by-one that lets each answer token see the next."""
    rows = AttentionMask.rows

    def peeping(self, start, stop, window):
        return rows(replace(self, query_step=self.query_step + 1), start, stop, window)

    monkeypatch.setattr(AttentionMask, "rows", peeping)
    assert "future" in names(check_model(objective(), batch(), "fp32"))


class Unshifted(SuffixObjective):
    """Predicts the token that is read: its loss falls to nothing, and nothing is learnt."""

    def suffix(self, hidden, *given):
        return super().suffix(hidden.roll(-1, 1), *given)


def test_labels_that_are_not_shifted_are_refused():
    finding = check_model(objective(Unshifted), batch(), "fp32")[0]
    assert finding.check == "future"
    assert "depends on itself" in finding.sentence


class Blind(SuffixObjective):
    """Does not look at pictures."""

    def forward(self, batch):
        return super().forward(replace(batch, pixels=torch.zeros_like(batch.pixels)))


def test_pictures_without_effect_are_worth_a_look():
    (finding,) = check_model(objective(Blind), batch(), "fp32")
    assert (finding.check, finding.refused) == ("pictures", False)


def test_blank_pictures_are_worth_a_look():
    blank = replace(batch(), pixels=torch.zeros_like(batch().pixels))
    assert names(check_model(objective(), blank, "fp32")) == ["pictures"]


class OverLength(SuffixObjective):
    """Divides by the length of the padded rows."""

    def forward(self, batch):
        return {"loss": super().forward(batch)["loss"] / batch.tokens.shape[1]}


class Mean(SuffixObjective):
    """A mean where the loop expects sums."""

    def forward(self, batch):
        return {"loss": super().forward(batch)["loss"] / len(batch.tokens)}


@pytest.mark.parametrize("kind", [OverLength, Mean])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_that_depend_on_padding_or_neighbours_are_refused(kind, precision):
    found = check_model(objective(kind), batch(), precision)
    assert names(found) == ["padding"]
    assert found[0].refused


class Hidden(SuffixObjective):
    """The answer sees nothing of its prompt."""

    def forward(self, batch):
        return {"loss": (batch.mask_loss.float() * 1.5).sum() + 0 * super().forward(batch)["loss"]}


def test_a_loss_without_its_prompt_is_refused():
    assert names(check_model(objective(Hidden), batch(), "fp32"))[0] == "future"


def test_nothing_is_changed():
    torch.manual_seed(5)
    random.seed(5)
    subject = objective().train()
    before = {name: tensor.clone() for name, tensor in subject.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    check_model(subject, batch(), "bf16")
    assert all(torch.equal(before[name], tensor) for name, tensor in subject.state_dict().items())
    assert all(parameter.grad is None for parameter in subject.parameters())
    assert subject.training
    assert subject.model.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert not subject.model.language_model._forward_pre_hooks


def test_rows_without_answers_are_left_to_the_other_checks():
    nothing = batch()
    assert check_model(objective(), replace(nothing, mask_loss=torch.zeros_like(nothing.mask_loss)), "fp32") == []


def test_parts_of_a_batch_keep_their_pictures():
    prompts = [draw_prompt(TINY[2], images, 3, seed=images, suffix=[5, 1]) for images in (2, 0, 1)]
    whole = PROCESSOR.collate(prompts, side="right")
    part = taken(whole, [2], 4)
    assert torch.equal(part.pixels, whole.pixels[2:])
    assert torch.equal(part.tokens[0], prompts[2].tokens)
    assert taken(whole, [1], 4).pixels is None
    assert torch.equal(lengthened(part, 3).tokens[:, :-3], part.tokens)
    assert not lengthened(part, 3).mask_input[:, -3:].any()


def test_names_of_tests_differ():
    assert len({test.name for test in TESTS}) == len(TESTS)
