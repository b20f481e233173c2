import torch
from tests.oracle import VISION

from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS, Config, nano
from paligemma.model import PaliGemmaModel
from paligemma.train.pretraining.scratch import EMBEDDING_STD, initialise


def begun(seed: int) -> PaliGemmaModel:
    text = nano(112).text
    model = PaliGemmaModel(Config(vision=VISION, text=text))
    initialise(model, seed=seed, first_location=text.vocab_size - NUM_LOC_TOKENS - NUM_SEG_TOKENS)
    return model


def test_the_seed_is_all_that_matters() -> None:
    first, again, other = (begun(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["projector.weight"], other["projector.weight"])


def test_activations_keep_their_size_and_nothing_is_said_yet() -> None:
    model = begun(0)
    tokens = torch.randint(4, 2000, (2, 20))
    with torch.no_grad():
        hidden = model.hidden(tokens)
        p = model.language_model.logits(hidden).softmax(-1)
    assert 0.5 < hidden.std() < 2
    assert -(p * p.log()).sum(-1).mean() > 6.5  # near log(3200) = 8.07
    assert torch.isfinite(p).all()


def test_neighbouring_locations_begin_alike() -> None:
    text = nano(112).text
    first = text.vocab_size - NUM_LOC_TOKENS - NUM_SEG_TOKENS
    rows = begun(0).language_model.embed_tokens.weight[first : first + NUM_LOC_TOKENS]
    near = torch.cosine_similarity(rows[:-1], rows[1:]).mean()
    far = torch.cosine_similarity(rows[:-300], rows[300:]).mean()
    assert near > 0.95
    assert abs(far) < 0.5
    words = begun(0).language_model.embed_tokens.weight[10:first]
    assert abs(words.std() - EMBEDDING_STD) < 0.002
