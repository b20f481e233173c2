from dataclasses import replace

import pytest
import torch
from tests.oracle import TEXT_1, TEXT_2, randomize
from torch import Tensor

from paligemma.model import AttentionMask, LanguageModel, positions


class GrowingCache:
    """The simplest cache: all keys and values of a layer, concatenated."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.layers:
            old_k, old_v = self.layers[layer]
            k_BKTH, v_BKTH = torch.cat((old_k, k_BKTH), 2), torch.cat((old_v, v_BKTH), 2)
        self.layers[layer] = k_BKTH, v_BKTH
        return k_BKTH, v_BKTH


@pytest.mark.parametrize("config", [TEXT_1, TEXT_2])
def test_parameters_are_those_of_the_config(config: object) -> None:
    model = LanguageModel(config)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == config.num_parameters  # type: ignore[attr-defined]


def test_only_gemma_2_has_post_norms_and_its_even_layers_slide() -> None:
    assert LanguageModel(TEXT_1).layers[0].post_ffw_norm is None
    assert LanguageModel(TEXT_2).layers[0].post_ffw_norm is not None
    assert [TEXT_2.window(layer) for layer in range(3)] == [6, None, 6]
    assert [TEXT_1.window(layer) for layer in range(2)] == [None, None]


def test_embeddings_are_scaled_by_a_factor_of_the_weights_type() -> None:
    model = randomize(LanguageModel(replace(TEXT_1, width=2048, depth=0)), 0)
    ids = torch.tensor([[3, 7]])
    torch.testing.assert_close(model.embed(ids), model.embed_tokens.weight[ids] * 2048**0.5)
    low = model.bfloat16()
    assert torch.equal(low.embed(ids), low.embed_tokens.weight[ids] * 45.25)  # sqrt(2048) in bfloat16


def test_the_final_softcap_follows_the_formula_and_keeps_the_argmax() -> None:
    model = randomize(LanguageModel(TEXT_2), 0)
    hidden = torch.randn(50, TEXT_2.width, generator=torch.Generator().manual_seed(1)) * 8
    plain, capped = model.logits(hidden, softcap=False), model.logits(hidden)
    torch.testing.assert_close(plain, hidden @ model.embed_tokens.weight.T)
    torch.testing.assert_close(capped, 30 * torch.tanh(plain / 30))
    assert (plain - capped).abs().max() > 0.1
    assert torch.equal(plain.argmax(-1), capped.argmax(-1))
    assert LanguageModel(TEXT_1).logits(hidden[:, : TEXT_1.width]).shape == (50, TEXT_1.embedding_rows)


@pytest.mark.parametrize("config", [TEXT_1, TEXT_2])
@pytest.mark.parametrize("prefill", [1, 4, 8])
def test_cached_equals_uncached(config: object, prefill: int) -> None:
    model = randomize(LanguageModel(config), 0)  # type: ignore[arg-type]
    tokens = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(2))
    mask_ar = torch.tensor([[0] * prefill + [1] * (9 - prefill)] * 2)
    valid = torch.tensor([[True] * 9, [False] + [True] * 8])
    whole = AttentionMask.prefix_lm(mask_ar, valid)
    x = model.embed(tokens)
    want = model(x, positions(valid), whole)
    cache, got = GrowingCache(), []
    for start, stop in ((0, prefill), *((t, t + 1) for t in range(prefill, 9))):
        part = AttentionMask(
            whole.query_step[:, start:stop], whole.query_position[:, start:stop],
            whole.key_step[:, :stop], whole.key_position[:, :stop], valid[:, :stop],
        )  # fmt: skip
        got.append(model(x[:, start:stop], part.query_position, part, cache))
    torch.testing.assert_close(torch.cat(got, 1)[valid], want[valid], atol=1e-5, rtol=0)
