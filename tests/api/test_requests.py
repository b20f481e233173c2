"""Queries to prompts, tokens to answers."""

import json

import pytest
from tests.api.helpers import CAT, Speaker, picture

from paligemma.api import PaliGemma
from paligemma.config import variant


def test_boxes_come_in_pixels_of_the_original_picture(model, says):
    says(f"{CAT} ; <loc0001> junk")
    found = model.detect(picture(size=(200, 100)), "cat", grammar=False)
    (box,) = found
    assert box.xyxy == pytest.approx((51 / 1023 * 200, 102 / 1023 * 100, 819 / 1023 * 200, 920 / 1023 * 100))
    assert [notice.code for notice in found.warnings] == ["rejected"]
    (other,) = model.detect(picture(), "cat", loc_divisor=1024, grammar=False)
    assert other.xyxyn[0] == 51 / 1024
    row = json.loads(found.to_json())
    assert row["boxes"][0]["loc"] == [102, 51, 920, 819]
    assert row["raw"].startswith(CAT)
    assert found.plot().width >= 480


def test_masks_are_codes(model, says):
    says(f"{CAT[:36]}{''.join(f'<seg{i:03d}>' for i in range(16))} cat")
    found = model.segment(picture(), "cat")
    assert found[0].mask_codes == tuple(range(16))
    assert "mask_codes_only" in [notice.code for notice in found.warnings]


def test_a_cut_answer_says_so(model, says):
    says("a long", finish_reason="length")
    answer = model.caption(picture(), max_tokens=2)
    assert answer.truncated
    assert [notice.code for notice in answer.warnings] == ["truncated"]
    assert "raise max_tokens" in answer.warnings[0].message


def known_as(model, name):
    return PaliGemma(model.model, model.processor, name=name, variant=variant(name))


@pytest.mark.parametrize(
    ("name", "verb", "words", "sent", "codes"),
    [
        ("paligemma2-3b-mix-224", "ask", ["how many?"], "answer en how many?", []),
        ("paligemma2-3b-pt-224", "ask", ["how many?"], "answer en how many?", ["base_checkpoint"]),
        ("paligemma-3b-ft-docvqa-448", "ask", ["how many?"], "how many?", []),
        ("paligemma-3b-ft-docvqa-448", "detect", ["cat"], "detect cat", ["unknown_task"]),
        ("paligemma-3b-ft-refcoco-seg-448", "segment", ["left cat"], "left cat", ["mask_codes_only"]),
        ("paligemma2-3b-mix-224", "generate", ["detct cat"], "detct cat", ["did_you_mean"]),
        ("paligemma-3b-ft-docvqa-448", "segment", ["cat"], "segment cat", ["unknown_task", "mask_codes_only"]),
    ],
)
def test_the_dialect_and_lint_of_published_checkpoints(model, says, monkeypatch, name, verb, words, sent, codes):
    codes_of_mask = "".join(f"<seg{i:03d}>" for i in range(16)) if verb == "segment" else ""
    label = "" if "refcoco" in name else f" {words[0]}"
    speaker = Speaker(model, f"{CAT[:36]}{codes_of_mask}{label}")
    published = known_as(model, name)
    monkeypatch.setattr(published, "engine", speaker)
    answer = getattr(published, verb)(picture(), *words)
    assert speaker.sent(published) == f"<bos>{sent}\n"
    assert [notice.code for notice in answer.warnings] == codes
    if "refcoco" in name:
        assert answer[0].label == "left cat"


def test_answers_are_no_longer_than_the_checkpoint_was_trained(model, monkeypatch):
    published = known_as(model, "paligemma2-3b-pt-224")
    speaker = Speaker(model, "")
    monkeypatch.setattr(published, "engine", speaker)
    published.detect(picture(), "cat")
    assert speaker.samplings[-1].max_tokens == variant("paligemma2-3b-pt-224").text_length
