import torch
from tests.oracle import TINY, VISION, draw_model, draw_pair, randomize

from paligemma.model import VisionTower


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_equal_transformers() -> None:
    for seed in range(3):
        hf, ours = draw_pair(1, seed)
        with torch.no_grad():
            want = hf.model.vision_tower(pixels(3, seed)).last_hidden_state
            got = ours.vision_tower(pixels(3, seed))
        torch.testing.assert_close(got, want, atol=5e-6, rtol=0)


def test_patches_are_numbered_row_by_row() -> None:
    tower = randomize(VisionTower(VISION), 0)
    plain = pixels(1)
    changed = plain.clone()
    changed[:, :, 4:, :4] += 1.0  # lower left of 2 x 2
    moved = (tower.embed(changed) != tower.embed(plain)).any(-1)[0]
    assert moved.tolist() == [False, False, True, False]


def test_images_do_not_see_one_another() -> None:
    tower = randomize(VisionTower(VISION), 0)
    both = pixels(2)
    torch.testing.assert_close(tower(both)[1:], tower(both[1:]), atol=1e-6, rtol=0)


def test_parameters_are_those_of_the_config() -> None:
    for config in TINY.values():
        assert sum(p.numel() for p in VisionTower(config.vision).parameters()) == config.vision.num_parameters


def test_low_precision_weights_take_float32_pixels() -> None:
    model = draw_model(TINY[1]).bfloat16()
    assert model.encode_images(pixels(1)).dtype == torch.bfloat16
