from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tests.model.test_paligemma import draw_batch
from tests.oracle import TINY, draw_model
from torch import Tensor

from paligemma.config import IMAGE_SLOT, NUM_LOC_TOKENS, NUM_SEG_TOKENS
from paligemma.model import PaliGemmaModel, Targets, suffix_loss, suffix_sum


def loss_case() -> tuple[PaliGemmaModel, SimpleNamespace, Tensor, list[Tensor]]:
    """A model, a batch, its hidden states and, per example, log-probabilities of all tokens at suffix positions."""
    model, batch = draw_model(TINY[2]), draw_batch(2)
    with torch.no_grad():
        hidden = model.hidden(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)
    log_p = F.log_softmax(model.language_model.logits(hidden), -1).detach()
    rows = [log_p[i, :-1][batch.mask_loss[i, 1:] == 1] for i in range(len(hidden))]
    return model, batch, hidden, rows


def test_loss_per_example_and_per_token() -> None:
    model, batch, hidden, rows = loss_case()
    wanted = [batch.tokens[i][batch.mask_loss[i] == 1] for i in range(len(rows))]
    nll = [-row[range(len(ids)), ids] for row, ids in zip(rows, wanted, strict=True)]
    assert [len(x) for x in nll] == [9, 2, 1, 4]
    by_example = suffix_loss(model, hidden, batch.tokens, batch.mask_loss)
    torch.testing.assert_close(by_example, torch.stack([x.mean() for x in nll]).mean())
    by_token = suffix_loss(model, hidden, batch.tokens, batch.mask_loss, per="token")
    torch.testing.assert_close(by_token, torch.cat(nll).mean())
    assert abs(by_example - by_token) > 1e-3
    by_root = suffix_loss(model, hidden, batch.tokens, batch.mask_loss, per="root")
    roots = [len(x) ** 0.5 for x in nll]
    torch.testing.assert_close(by_root, sum(x.sum() / root for x, root in zip(nll, roots, strict=True)) / sum(roots))


def test_label_smoothing_spreads_over_the_other_tokens() -> None:
    model, batch, hidden, rows = loss_case()
    rows_per_example = []
    for i, row in enumerate(rows):
        target = torch.full_like(row, 0.3 / (row.shape[1] - 1))
        target[range(len(row)), batch.tokens[i][batch.mask_loss[i] == 1]] = 0.7
        rows_per_example.append(-(target * row).sum(-1))
    got = suffix_loss(model, hidden, batch.tokens, batch.mask_loss, label_smoothing=0.3)
    torch.testing.assert_close(got, torch.stack([x.mean() for x in rows_per_example]).mean())
    got = suffix_loss(model, hidden, batch.tokens, batch.mask_loss, per="token", label_smoothing=0.3)
    torch.testing.assert_close(got, torch.cat(rows_per_example).mean())


def test_loss_can_leave_the_softcap_out() -> None:
    model, batch, hidden, _ = loss_case()
    hidden = hidden * 5
    capped = suffix_loss(model, hidden, batch.tokens, batch.mask_loss, per="token")
    plain = suffix_loss(model, hidden, batch.tokens, batch.mask_loss, per="token", softcap=False)
    logits = model.language_model.logits(hidden, softcap=False)[:, :-1][batch.mask_loss[:, 1:] == 1]
    want = F.cross_entropy(logits, batch.tokens[:, 1:][batch.mask_loss[:, 1:] == 1])
    torch.testing.assert_close(plain, want)
    assert abs(plain - capped) > 1e-3


def test_only_the_suffix_is_learnt() -> None:
    model, batch, hidden, _ = loss_case()
    moved = batch.tokens.masked_fill((batch.mask_loss == 0) & (batch.tokens != IMAGE_SLOT), 9)
    first, second = (suffix_loss(model, hidden, tokens, batch.mask_loss) for tokens in (batch.tokens, moved))
    assert torch.equal(first, second)


def test_an_example_without_suffix_counts_as_zero() -> None:
    model, batch, hidden, _ = loss_case()
    none = batch.mask_loss.clone()
    none[1:] = 0
    alone = suffix_loss(model, hidden[:1], batch.tokens[:1], batch.mask_loss[:1])
    torch.testing.assert_close(suffix_loss(model, hidden, batch.tokens, none), alone / 4)


@pytest.mark.parametrize("per", ["example", "token", "root"])
def test_any_chunk_gives_the_same_loss_and_gradients(per: str) -> None:
    found = []
    for chunk in (1, 3, 7, 512):
        model, batch = draw_model(TINY[2]), draw_batch(2)
        hidden = model.hidden(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input)
        loss = suffix_loss(model, hidden, batch.tokens, batch.mask_loss, per=per, chunk=chunk)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    whole, gradients = found[-1]
    for loss, others in found[:-1]:
        torch.testing.assert_close(loss, whole)
        assert others.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-4)


def test_no_more_than_a_chunk_of_logits_exists_at_a_time() -> None:
    model, batch, hidden, _ = loss_case()
    rows = []
    language, score = model.language_model, model.language_model.logits
    language.logits = lambda part, **more: rows.append(len(part)) or score(part, **more)
    suffix_loss(model, hidden.requires_grad_(), batch.tokens, batch.mask_loss, chunk=5).backward()
    assert max(rows) == 5
    assert sum(rows) == 2 * 16  # once forward, once again in the backward pass


def test_the_sum_over_parts_of_a_batch_is_that_of_the_batch() -> None:
    model, batch, hidden, _ = loss_case()
    for per in ("example", "token"):
        parts = [
            suffix_sum(model, hidden[rows], batch.tokens[rows], batch.mask_loss[rows], per=per)
            for rows in (slice(0, 1), slice(1, 4))
        ]
        total, weight = (sum(values) for values in zip(*parts, strict=True))
        torch.testing.assert_close(
            total / weight, suffix_loss(model, hidden, batch.tokens, batch.mask_loss, per=per), atol=1e-6, rtol=1e-5
        )


def special_case() -> tuple[PaliGemmaModel, Tensor, Tensor, Tensor]:
    """One row whose suffix is a location, a mask token and a word; the first location is id 10."""
    model = draw_model(replace(TINY[1], text=replace(TINY[1].text, vocab_size=10 + NUM_LOC_TOKENS + NUM_SEG_TOKENS)))
    tokens = torch.tensor([[2, 3, 10 + 500, 10 + NUM_LOC_TOKENS + 7, 4]])
    mask_loss = torch.tensor([[0, 0, 1, 1, 1]])
    hidden = torch.randn(1, 5, TINY[1].text.width, generator=torch.Generator().manual_seed(0))
    return model, hidden, tokens, mask_loss


def test_a_location_may_be_a_bell_of_bins() -> None:
    model, hidden, tokens, mask_loss = special_case()
    targets = Targets(location_spread=5.0, first_location=10)
    total, weight = suffix_sum(model, hidden, tokens, mask_loss, per="token", targets=targets)
    log_p = F.log_softmax(model.language_model.logits(hidden[0]).float(), -1)
    bins = torch.arange(NUM_LOC_TOKENS)
    bell = torch.exp(-0.5 * ((bins - 500) / 5.0) ** 2)
    want = -(bell / bell.sum() * log_p[1, 10 : 10 + NUM_LOC_TOKENS]).sum()
    want = want - log_p[2, tokens[0, 3]] - log_p[3, 4]
    torch.testing.assert_close(total, want)
    assert weight == 3


def test_mask_tokens_may_weigh_less() -> None:
    model, hidden, tokens, mask_loss = special_case()
    targets = Targets(mask_token_weight=0.25, first_location=10)
    log_p = F.log_softmax(model.language_model.logits(hidden[0]).float(), -1)
    nll = -torch.stack([log_p[1, tokens[0, 2]], log_p[2, tokens[0, 3]], log_p[3, 4]])
    want = (torch.tensor([1, 0.25, 1]) * nll).sum()
    total, weight = suffix_sum(model, hidden, tokens, mask_loss, per="token", targets=targets)
    torch.testing.assert_close(total, want)
    assert weight == 2.25
    total, weight = suffix_sum(model, hidden, tokens, mask_loss, per="example", targets=targets)
    torch.testing.assert_close(total, want / 2.25)
    assert weight == 1
