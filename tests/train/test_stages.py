from pathlib import Path

import pytest

from paligemma.config import VARIANTS
from paligemma.errors import UsageError
from paligemma.train.stages import STAGES, lr_scale, stage_config, table


def test_the_published_numbers() -> None:
    """PaliGemma report, section 3.2; PaliGemma 2 report, section 3."""
    first = stage_config(1, "paligemma-3b-pt-224")
    assert (first.image_size_px, first.data.max_tokens, first.optim.lr) == (224, 128, 2e-5)
    assert first.steps is not None
    assert first.steps * first.batch_size == pytest.approx(1e9, rel=1e-4)
    assert (first.optim.schedule, first.optim.clip_norm, first.optim.betas) == ("rsqrt", 1.0, (0.9, 0.999))
    assert first.optim.vision_warmup > 0
    assert (first.loss.per, first.loss.softcap, first.train) == ("example", False, ("all",))
    for size, examples in ((448, 50e6), (896, 10e6)):
        second = stage_config(2, "google/paligemma-3b-pt-224", size)
        assert (second.image_size_px, second.data.max_tokens) == (size, 512)
        assert second.steps is not None
        assert second.steps * second.batch_size == pytest.approx(examples, rel=1e-3)
    third = stage_config(3, "paligemma-3b-pt-224")
    assert (third.optim.lr, third.batch_size, third.epochs, third.optim.schedule) == (1e-5, 256, 10, "cosine")
    assert third.optim.warmup == 0.05
    assert third.optim.weight_decay == third.loss.label_smoothing == 0


def test_nano_spells_texts_with_more_tokens_than_the_published_sizes() -> None:
    limits = {name: stage_config(3, name).data.max_tokens for name in ("nano", "scratch:nano", "runs/mine/best")}
    assert set(limits.values()) == {256}
    assert stage_config(3, "scratch:paligemma2-3b-pt-224").data.max_tokens == 128


@pytest.mark.parametrize(("size", "lr"), [("3b", 1e-5), ("10b", 5e-6), ("28b", 5e-6)])
def test_larger_models_learn_slower(size: str, lr: float) -> None:
    assert stage_config(1, f"google/paligemma2-{size}-pt-224").optim.lr == pytest.approx(lr)


def test_every_published_size_has_a_scale() -> None:
    scales = {lr_scale(name) for name, variant in VARIANTS.items() if variant.kind != "nano"}
    assert scales == {1.0, 0.5, 0.25}
    assert lr_scale("runs/mine/best") == 1.0


def test_what_is_no_stage_is_told() -> None:
    with pytest.raises(UsageError, match=r"expected one of \[1, 2, 3\]"):
        stage_config(4, "paligemma-3b-pt-224")
    with pytest.raises(UsageError, match="expected one of 448, 896"):
        stage_config(2, "paligemma-3b-pt-224", 224)


def test_the_page_shows_the_table() -> None:
    assert table() in Path("docs/stages.md").read_text()


def test_the_table_has_a_row_for_each() -> None:
    rows = table().splitlines()
    assert len(rows) == 2 + len(STAGES)
    assert "1,000,000,000" in rows[2]
