import pytest
import torch
from tests.oracle import TINY, draw_model, draw_prompt

from paligemma.model import suffix_loss, suffix_sum
from paligemma.processor import Batch
from paligemma.train.config import LossConfig
from paligemma.train.objective import SuffixObjective, seed_step


def batch(lengths: tuple[int, ...] = (3, 1, 5)) -> Batch:
    prompts = [draw_prompt(TINY[1], 1, 4, seed=i, suffix=range(4, 4 + n)) for i, n in enumerate(lengths)]
    longest = max(len(one.tokens) for one in prompts)

    def stack(name: str) -> torch.Tensor:
        return torch.stack(
            [torch.nn.functional.pad(getattr(one, name), (0, longest - len(one.tokens))) for one in prompts]
        )

    valid = torch.stack([torch.arange(longest) < len(one.tokens) for one in prompts])
    pixels = torch.cat([one.pixels for one in prompts if one.pixels is not None])
    return Batch(
        tokens=stack("tokens"), pixels=pixels, mask_ar=stack("mask_ar"), mask_input=valid, mask_loss=stack("mask_loss")
    )


@pytest.mark.parametrize("per", ["example", "token", "root"])
def test_sum_over_weight_is_the_loss(per: str) -> None:
    model, rows = draw_model(TINY[1]), batch()
    objective = SuffixObjective(model, LossConfig(per=per))
    with torch.no_grad():
        found = objective(rows)["loss"] / objective.weight(rows)
        hidden = model.hidden(rows.tokens, rows.pixels, rows.mask_ar, rows.mask_input)
        torch.testing.assert_close(found, suffix_loss(model, hidden, rows.tokens, rows.mask_loss, per=per))
    lengths = rows.mask_loss.sum(dim=1)
    expected = {"example": 3, "token": int(lengths.sum()), "root": float(lengths.sqrt().sum())}
    assert objective.weight(rows) == pytest.approx(expected[per])


def test_mask_tokens_count_less_where_the_config_says_so() -> None:
    rows = batch((2, 2))
    first = int(rows.tokens[rows.mask_loss != 0].min()) - 1024  # so that suffix tokens are read as mask tokens
    objective = SuffixObjective(
        draw_model(TINY[1]), LossConfig(per="token", mask_token_weight=0.5), first_location=first
    )
    assert objective.weight(rows) == 0.5 * int(rows.mask_loss.sum())
    roots = SuffixObjective(objective.model, LossConfig(per="root", mask_token_weight=0.5), first_location=first)
    with torch.no_grad():
        hidden = roots.model.hidden(rows.tokens, rows.pixels, rows.mask_ar, rows.mask_input)
        weights = suffix_sum(roots.model, hidden, rows.tokens, rows.mask_loss, per="root", targets=roots.targets)[1]
    assert roots.weight(rows) == pytest.approx(float(weights))


def test_random_numbers_are_a_function_of_seed_step_and_rank() -> None:
    drawn = {}
    for key in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)):
        seed_step(*key)
        drawn[key] = torch.rand(3)
        seed_step(*key)
        assert torch.equal(torch.rand(3), drawn[key])
    assert len({tuple(values.tolist()) for values in drawn.values()}) == 4
