"""The suffix loss, without ever holding all logits: rows of 257,152 scores exist `chunk` at a time.

    loss(token) = logsumexp(logits) - sum over v of target(v) * logits(v)

In: hidden states, the tokens they were computed from, which of them are to be learnt. Out: sums and how much they
weigh, so that one loss can be computed in several parts. Logits of a chunk are computed again in the backward pass.
Sources: big_vision `trainers/proj/paligemma/train.py` (per example), Hugging Face (per token), InternVL 2.5 (per root:
its "square averaging").
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS
from paligemma.model.fused import fusible
from paligemma.model.paligemma import PaliGemmaModel

Per = Literal["example", "token", "root"]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a suffix position should say, where that is not simply its one token.

    Attributes:
        label_smoothing: e puts 1 - e on the true token and e / (V - 1) on each other.
        location_spread: standard deviation in bins of a bell around a location token's bin; 0 is the bin alone.
        mask_token_weight: of `<seg>` tokens, where others weigh 1.
        first_location: id of `<loc0000>`; locations and masks lie behind one another from there.
    """

    label_smoothing: float = 0.0
    location_spread: float = 0.0
    mask_token_weight: float = 1.0
    first_location: int = -1

    @property
    def know_locations(self) -> bool:
        return bool(self.location_spread) or self.mask_token_weight != 1.0


PLAIN = Targets()


def suffix_loss(
    model: PaliGemmaModel,
    hidden: Tensor,
    tokens: Tensor,
    mask_loss: Tensor,
    *,
    per: Per = "example",
    label_smoothing: float = 0.0,
    softcap: bool = True,
    chunk: int = 512,
) -> Tensor:
    """Mean negative log-likelihood of the suffix, a scalar; position t predicts token t + 1.

    `per="example"` averages inside each example, then over examples (big_vision: a long suffix weighs no more than a
    short one); `per="token"` averages over all suffix tokens of the batch (Hugging Face); `per="root"` lies between: an
    example weighs the root of its tokens (InternVL 2.5).

    Args:
        hidden: float[B, T, D] from `model.hidden`.
        tokens: int64[B, T], the model's input.
        mask_loss: [B, T], non-zero on the tokens to be learnt (suffix and eos).
        label_smoothing: see `Targets`.
        softcap: False trains on uncapped logits, as big_vision does.
        chunk: rows of logits that exist at a time.
    """
    targets = Targets(label_smoothing=label_smoothing)
    total, weight = suffix_sum(model, hidden, tokens, mask_loss, per=per, targets=targets, softcap=softcap, chunk=chunk)
    return total / weight


def suffix_sum(
    model: PaliGemmaModel,
    hidden: Tensor,
    tokens: Tensor,
    mask_loss: Tensor,
    *,
    per: Per = "example",
    targets: Targets = PLAIN,
    softcap: bool = True,
    chunk: int = 512,
) -> tuple[Tensor, Tensor]:
    """Sum of the losses of all examples (or tokens), and what it is divided by; arguments as for `suffix_loss`."""
    wanted = mask_loss[:, 1:] != 0
    truth = tokens[:, 1:][wanted]
    nll = _losses(model, hidden[:, :-1][wanted], truth, targets, softcap, chunk)
    weight = token_weights(truth, targets)
    if per == "token":
        return (weight * nll).sum(), weight.sum()
    rows = wanted.nonzero()[:, 0]
    zero = torch.zeros(len(tokens), device=nll.device)
    share = zero.index_add(0, rows, weight)
    total = zero.index_add(0, rows, weight * nll)
    divisor = share if per == "example" else share.sqrt()
    return (total / divisor.clamp(min=1e-6)).sum(), batch_weight(share, per)


def batch_weight(share: Tensor, per: Per) -> Tensor:
    """What the sum of a batch's losses is divided by; `share` float32[B] is the weight of each example's tokens."""
    if per == "example":
        return share.new_tensor(float(len(share)))
    return share.sum() if per == "token" else share.sqrt().sum()


def token_weights(truth: Tensor, targets: Targets) -> Tensor:
    """float32 of the shape of `truth`, int64[...]: how much each token counts."""
    if targets.mask_token_weight == 1.0:
        return torch.ones(truth.shape, device=truth.device)
    first = targets.first_location + NUM_LOC_TOKENS
    is_mask = (truth >= first) & (truth < first + NUM_SEG_TOKENS)
    return torch.where(is_mask, targets.mask_token_weight, 1.0)


def _losses(
    model: PaliGemmaModel, hidden: Tensor, truth: Tensor, targets: Targets, softcap: bool, chunk: int
) -> Tensor:
    """float32[n] of the rows `hidden` [n, D], in chunks."""

    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        return _negative_log(model.language_model.logits(part, softcap=softcap), wanted, targets)

    if len(truth) <= chunk:
        return losses(hidden, truth)
    parts = zip(hidden.split(chunk), truth.split(chunk), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(losses, part, wanted, use_reentrant=False) for part, wanted in parts])
    return torch.cat([losses(part, wanted) for part, wanted in parts])


@fusible
def _negative_log(logits: Tensor, truth: Tensor, targets: Targets) -> Tensor:
    """float32[n] of logits [n, V]."""
    logits = logits.float()
    return torch.logsumexp(logits, dim=-1) - _expected(logits, truth, targets)


def _expected(logits: Tensor, truth: Tensor, targets: Targets) -> Tensor:
    """float32[n]: mean of the logits under the target distribution."""
    score = logits.gather(-1, truth[:, None])[:, 0]
    if targets.location_spread:
        first = targets.first_location
        places = logits[:, first : first + NUM_LOC_TOKENS]
        bins = torch.arange(NUM_LOC_TOKENS, device=logits.device)
        away = (bins - (truth[:, None] - first)) / targets.location_spread
        belled = (F.softmax(-0.5 * away.square(), dim=-1) * places).sum(-1)
        score = torch.where((truth >= first) & (truth < first + NUM_LOC_TOKENS), belled, score)
    if targets.label_smoothing:
        others = targets.label_smoothing / (logits.shape[-1] - 1)
        score = (1.0 - targets.label_smoothing - others) * score + others * logits.sum(-1)
    return score
