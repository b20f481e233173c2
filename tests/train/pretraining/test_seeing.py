import pytest
import torch
import torch.nn.functional as F
from tests.oracle import TEXT_2, VISION, draw_model
from torch import Tensor

from paligemma.config import Config
from paligemma.processor import Batch
from paligemma.scenes.patches import BLANK, NOTHING
from paligemma.train.pretraining.seeing import ContrastiveObjective, PatchBatch, PatchObjective, SeenBatch, total

CONFIG = Config(vision=VISION, text=TEXT_2)


def seen(pictures: int, seed: int = 0) -> SeenBatch:
    generator = torch.Generator().manual_seed(seed)

    def numbers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    patches = PatchBatch(
        label=numbers(NOTHING + 1, pictures, 4), color=numbers(12, pictures, 4),
        box=torch.rand(pictures, 4, 4, generator=generator) - 0.5, characters=numbers(BLANK + 1, pictures, 4, 2),
    )  # fmt: skip
    return SeenBatch(pixels=torch.randn(pictures, 3, 8, 8, generator=generator), patches=patches)


def test_patch_truth_can_be_learnt_and_moves_the_tower_alone() -> None:
    torch.manual_seed(0)
    objective, batch = PatchObjective(draw_model(CONFIG)), seen(3)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    losses = []
    for _ in range(120):
        found = objective(batch)
        found["loss"].backward()
        assert objective.model.language_model.embed_tokens.weight.grad is None
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(found["loss"].detach()) / objective.weight(batch))
    assert losses[-1] < 0.2 * losses[0]


def test_every_kind_of_truth_counts() -> None:
    torch.manual_seed(0)
    objective, batch = PatchObjective(draw_model(CONFIG)), seen(2)
    before = objective(batch)
    for name, field in (("label", "label"), ("color", "color"), ("characters", "characters"), ("edges", "box")):
        changed = seen(2)
        getattr(changed.patches, field).add_(-1 if field == "box" else 0)
        if field != "box":
            values = getattr(changed.patches, field)
            values.copy_(values.flip(0, 1))
        after = objective(changed)
        assert after[name] != before[name], name


def test_the_color_of_nothing_is_not_learnt() -> None:
    torch.manual_seed(0)
    objective, batch = PatchObjective(draw_model(CONFIG)), seen(1)
    batch.patches.label.fill_(NOTHING)
    batch.patches.color.fill_(-100)
    with torch.no_grad():
        found = objective(batch)
    assert float(found["color"]) == 0
    assert float(found["edges"]) == 0
    assert torch.isfinite(total(found))


def pairs(count: int) -> Batch:
    """Pictures and texts of which each belongs to one."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, 40, (count, 6), generator=generator)
    mask_loss = torch.ones_like(tokens)
    mask_loss[:, :2] = 0
    return Batch(
        tokens=tokens, pixels=torch.randn(count, 3, 8, 8, generator=generator),
        mask_ar=mask_loss, mask_input=torch.ones_like(tokens).bool(), mask_loss=mask_loss,
    )  # fmt: skip


def test_the_sigmoid_loss_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    objective, batch = ContrastiveObjective(draw_model(CONFIG)), pairs(5)
    with torch.no_grad():
        seen = objective.model.vision_tower(batch.pixels)
        pooled = objective.pool(objective.probe.expand(5, -1, -1), seen, seen)[0][:, 0]
        x, y = (
            torch.nn.functional.normalize(pooled, dim=-1),
            torch.nn.functional.normalize(objective._read(batch), dim=-1),
        )
        want = 0.0
        for i in range(5):
            for j in range(5):
                z = 1 if i == j else -1
                want -= F.logsigmoid(z * (10 * x[i] @ y[j] - 10))
        found = objective(batch)
    assert float(found["loss"]) == pytest.approx(float(want), rel=1e-4)


def test_the_prompt_is_no_text_of_the_picture() -> None:
    torch.manual_seed(0)
    objective, batch = ContrastiveObjective(draw_model(CONFIG)), pairs(3)
    with torch.no_grad():
        before = objective._read(batch)
        batch.tokens[:, :2] = 7
        torch.testing.assert_close(objective._read(batch), before)


def test_contrast_brings_pairs_together() -> None:
    torch.manual_seed(0)
    objective, batch = ContrastiveObjective(draw_model(CONFIG)), pairs(6)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    for _ in range(60):
        found = objective(batch)
        found["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(found["matched"]) == objective.weight(batch) == 6
