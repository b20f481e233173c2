from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.oracle import TINY, draw_model, draw_prompt

from paligemma.config import Config, nano
from paligemma.engine import Runner
from paligemma.engine.runner import IMAGES_AT_ONCE
from paligemma.errors import InputError


def prompts_of(generation: int) -> list[Any]:
    """Other lengths, 0 to 2 images, one with the start of an answer."""
    shapes = [(1, 5, 0), (2, 3, 3), (0, 7, 0), (1, 1, 1)]
    return [
        draw_prompt(TINY[generation], images, length, seed=i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(shapes)
    ]


def test_many_images_are_encoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = draw_model(TINY[1])
    pixels = torch.rand(2 * IMAGES_AT_ONCE + 3, 3, 8, 8)
    want = model.encode_images(pixels)
    sizes = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda p: sizes.append(len(p)) or encode(p))
    torch.testing.assert_close(Runner(model).encode_images(pixels), want, atol=1e-6, rtol=0)
    assert sizes == [IMAGES_AT_ONCE, IMAGES_AT_ONCE, 3]


def test_features_come_in_the_order_of_their_slots() -> None:
    model, prompts = draw_model(TINY[2]), prompts_of(2)
    runner = Runner(model)
    pixels = [prompt.pixels for prompt in prompts if prompt.pixels is not None]
    want = runner.encode_images(torch.cat(pixels))
    given = replace(prompts[1], pixels=None, features=want[1:3])
    seen = [want[0], *want[3:]]
    found = runner.features([prompts[0], given, *prompts[2:]], seen)
    assert found is not None
    assert torch.equal(found, want)
    assert runner.features([prompts[2]], []) is None
    runner.check(given, "it")


def test_big_vision_leaves_scores_uncapped_where_asked() -> None:
    model = draw_model(TINY[2])
    hidden = 40 * torch.randn(3, TINY[2].text.width, generator=torch.Generator().manual_seed(0))
    uncapped, capped = Runner(model).scores(hidden, softcap=False), Runner(model).scores(hidden)
    torch.testing.assert_close(capped, 30 * torch.tanh(uncapped / 30))
    assert (capped - uncapped).abs().max() > 0.1


def test_a_pass_of_a_large_model_is_worth_all_threads() -> None:
    """Even of one token, whose weights have to be read; nano's whole prompt is not."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for config, tokens, want in ((Config.of("paligemma2-3b-pt-224"), 1, 3), (nano(112), 80, 1)):
            model = SimpleNamespace(config=config, projector=torch.nn.Linear(1, 1))
            with Runner(model).threads(tokens):  # type: ignore[arg-type]
                assert torch.get_num_threads() == want
    finally:
        torch.set_num_threads(before)


def test_prompts_that_do_not_fit_the_model_are_refused() -> None:
    runner = Runner(draw_model(TINY[1]))

    def refused(match: str, **changes: Any) -> None:
        prompt = SimpleNamespace(**{**vars(draw_prompt(TINY[1], 1, 3)), **changes})
        with pytest.raises(InputError, match=match):
            runner.check(prompt, "prompt 7")

    plain = draw_prompt(TINY[1], 1, 3)
    runner.check(plain, "prompt 7")
    refused("prompt 7 has 4 image slots and 0 images", pixels=None)
    refused("prompt 7 has 4 image slots and 2 images", pixels=plain.pixels.repeat(2, 1, 1, 1))
    refused(r"pixels of shape \(1, 3, 12, 12\); this model takes \[images, 3, 8, 8\]", pixels=torch.zeros(1, 3, 12, 12))
    refused(r"features of shape \(1, 4, 9\); this model takes \[images, 4, 32\]", features=torch.zeros(1, 4, 9))
    refused("token ids from -1 to 48, but this model has 48", tokens=torch.tensor([-1, -1, -1, -1, 48, 2, 2, 2]))
    refused("token ids from -2", tokens=torch.tensor([-1, -1, -1, -1, -2, 2, 2, 2]))
    refused("0 tokens", tokens=torch.tensor([], dtype=torch.int64))
    refused("8 tokens and 2 mask_ar", mask_ar=torch.tensor([0, 0]))


def test_fine_ids_are_scored_in_float32_from_the_same_hidden_states() -> None:
    model = draw_model(TINY[2]).bfloat16()
    plain, fine = Runner(model), Runner(model, fine=[(10, 20), (30, 33)])
    hidden = torch.randn(40, TINY[2].text.width, generator=torch.Generator().manual_seed(0)).bfloat16()
    coarse, exact = plain.logits(hidden), fine.logits(hidden)
    inside = [*range(10, 20), *range(30, 33)]
    outside = [i for i in range(coarse.shape[1]) if i not in inside]
    assert coarse.dtype == torch.bfloat16
    assert exact.dtype == torch.float32
    assert torch.equal(coarse[:, outside].float(), exact[:, outside])
    torch.testing.assert_close(coarse[:, inside].float(), exact[:, inside], atol=0.05, rtol=0.02)
    rounded = exact[:, inside].bfloat16().float()
    assert (rounded != exact[:, inside]).float().mean() > 0.8  # finer than bfloat16 can say


def test_pictures_go_alone_where_no_other_may_change_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = draw_model(TINY[1]), []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda p: sizes.append(len(p)) or encode(p))
    Runner(model, alone=True).encode_images(torch.rand(3, 3, 8, 8))
    assert sizes == [1, 1, 1]
