"""Candidates and their likelihoods."""

import math

import pytest
import torch
from tests.api.helpers import picture

from paligemma.api import PaliGemma, Ranked
from paligemma.errors import InputError, UsageError


def by_forward(model, image, prompt, text):
    """Log-probability of the answer from one whole forward pass."""
    encoded = model.processor.encode([image], prompt, text)
    batch = model.processor.collate([encoded], side="right")
    with torch.inference_mode():
        logits = model.model(batch.tokens, batch.pixels, batch.mask_ar, batch.mask_input).float().log_softmax(-1)
    answer = int(encoded.mask_loss.sum())
    at = range(len(encoded.tokens) - answer - 1, len(encoded.tokens) - 1)
    return [float(logits[0, i, encoded.tokens[i + 1]]) for i in at]


def test_likelihoods_are_those_of_the_whole_model(model):
    found = model.score(picture(), "which?", ["cat", "a dog", "12"])
    assert [one.logprob for one in found] == sorted((one.logprob for one in found), reverse=True)
    assert math.fsum(one.probability for one in found) == pytest.approx(1)
    for one in found:
        expected = by_forward(model, picture(), "which?", one.text)
        assert one.logprob == pytest.approx(sum(expected), abs=1e-3)
        assert one.logprob_per_token == pytest.approx(sum(expected) / len(expected), abs=1e-3)
    assert str(found[0]) == found[0].text
    assert set(found[0].to_dict()) == {"text", "logprob", "logprob_per_token", "probability"}


def test_lists_and_encoded_pictures(model):
    words = ["yes", "no"]
    alone = model.score(picture(1), model.prompt("ask", "yes?"), words)
    listed = model.score([picture(0), picture(1)], model.prompt("ask", "yes?"), words, batch_size=1)
    encoded = model.score(model.encode(picture(1)), model.prompt("ask", "yes?"), words)
    plain = PaliGemma(model.model, model.processor, name="x", image_cache=0).score(picture(1), "answer en yes?", words)
    for other in (listed[1], encoded, plain):
        assert [one.text for one in other] == [one.text for one in alone]
        assert [one.logprob for one in other] == pytest.approx([one.logprob for one in alone], abs=1e-4)
    assert model.score([], "x", words) == []


def test_extreme_likelihoods_stay_numbers(model):
    found = model.score(picture(), "x", ["a", "b " * 60])
    assert sum(one.probability for one in found) == pytest.approx(1)
    assert isinstance(found[1], Ranked)


def test_special_tokens_by_type(model):
    found = model.score(
        picture(), "detect cat", ["<loc0001><loc0002><loc0003><loc0004> cat", ""][:1], allow=frozenset({"locations"})
    )
    assert len(found) == 1
    assert found[0].probability == 1


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "give a list of at least one"),
        ("cat", "give a list"),
        (["cat", " "], "candidate 1 is ' '"),
        (["cat", 3], "candidate 1 is 3"),
        (["cat", "dog", "cat"], "candidates 0 and 2 are both 'cat'"),
        (["cat<eos>"], "spells '<eos>'"),
        (["<loc0001>"], "allow=frozenset"),
    ],
)
def test_what_cannot_be_ranked(model, candidates, message):
    with pytest.raises(UsageError, match=message):
        model.score(picture(), "which?", candidates)


def test_other_mistakes(model):
    with pytest.raises(UsageError, match="prompt is empty"):
        model.score(picture(), " ", ["a"])
    with pytest.raises(InputError, match="no picture"):
        model.score(None, "x", ["a"])
    with pytest.raises(InputError, match="fit"):
        model.score(picture(), "x", ["a " * 5000])
