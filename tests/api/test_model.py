"""The verbs, on tiny random models of both generations; where the words matter, with an engine that says them."""

import pytest
from tests.api.helpers import CAT, picture

from paligemma.api import Images
from paligemma.engine import generate_slowly
from paligemma.errors import UsageError
from paligemma.results import Answer, Detections
from paligemma.tasks import Prompt

REGION = "<loc0000><loc0000><loc0512><loc1023>"


def test_an_answer_is_what_the_slow_oracle_says(model):
    answer = model.caption(picture(), max_tokens=6)
    encoded = model.processor.encode([picture()], "caption en")
    forbidden = model.engine.forbidden.tolist()
    expected = generate_slowly(
        model.model, encoded, 6, eos_ids=[model.tokenizer.eos_id], forbidden_ids=forbidden
    )  # fmt: skip
    assert answer.tokens == tuple(expected)
    assert answer.raw == model.tokenizer.decode(expected)
    assert answer.finish_reason == ("length" if len(expected) == 6 else "stop")
    assert len(answer.logprobs) >= len(answer.tokens)
    assert (answer.task, answer.prompt, answer.image_size_px) == ("caption", "caption en", (60, 40))
    assert set(answer.timing) == {"preprocess", "generate"}
    assert min(answer.timing.values()) > 0


def test_a_list_gives_the_answers_of_each_alone(model):
    pictures = [picture(i, (30 + i, 20)) for i in range(3)]
    together = model.ask(pictures, "what?", max_tokens=5, batch_size=2)
    alone = [model.ask(p, "what?", max_tokens=5) for p in pictures]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert [a.image_size_px for a in together] == [(30, 20), (31, 20), (32, 20)]


def test_several_pictures_of_one_example(model):
    pair = Images(picture(0), picture(1))
    one = model.ask(pair, "same?", max_tokens=4)
    (listed,) = model.ask([[picture(0), picture(1)]], "same?", max_tokens=4)
    assert isinstance(one, Answer)
    assert one.tokens == listed.tokens
    assert len(one.images) == 2
    assert one.tokens != model.ask(Images(picture(1)), "same?", max_tokens=4).tokens or one.logprobs != listed.logprobs
    assert len(one.to_dict()["images"]) == 2


def test_sampling_options_reach_the_engine(model):
    def drawn(seed):
        return model.generate(picture(), "x", max_tokens=6, temperature=2.0, seed=seed).tokens

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1
    assert model.generate(picture(), "x", max_tokens=3, num_beams=3).tokens


@pytest.mark.parametrize(
    ("ask", "sent", "task"),
    [
        (lambda m, p: m.caption(p), "caption en", "caption"),
        (lambda m, p: m.caption(p, "de", "describe"), "describe de", "caption"),
        (lambda m, p: m.caption(p, region_xyxyn=(0, 0, 1, 0.5)), f"caption {REGION}", "caption"),
        (lambda m, p: m.ask(p, "wie?", "de"), "answer de wie?", "ask"),
        (lambda m, p: m.ocr(p), "ocr", "ocr"),
        (lambda m, p: m.detect(p, "cat;dog"), "detect cat ; dog", "detect"),
        (lambda m, p: m.segment(p, ["cat"]), "segment cat", "segment"),
        (lambda m, p: m.generate(p, "hello there\n"), "hello there", "generate"),
    ],
)  # fmt: skip
def test_each_verb_sends_its_prompt(model, says, ask, sent, task):
    speaker = says("")
    answer = ask(model, picture())
    assert speaker.sent(model) == f"<bos>{sent}\n"
    assert (answer.prompt, answer.task) == (sent, task)
    assert isinstance(answer, Detections) == (task in ("detect", "segment"))


def test_typed_tokens_stay_text_unless_allowed_by_type(model, says):
    speaker = says("")
    model.generate(picture(), "detect <loc0001>")
    assert model.tokenizer.loc_start + 1 not in speaker.prompts[-1].tokens.tolist()
    model.detect(picture(), "<loc0001>")
    assert model.tokenizer.loc_start + 1 not in speaker.prompts[-1].tokens.tolist()
    model.generate(picture(), "detect <loc0001>", allow=frozenset({"locations"}))
    assert model.tokenizer.loc_start + 1 in speaker.prompts[-1].tokens.tolist()


def test_the_start_of_an_answer_is_continued_and_sees_backwards_only(model, says):
    speaker = says(" cat")
    answer = model.generate(picture(), "detect cat", start=CAT.split(" ")[0], allow=frozenset({"locations"}))
    assert answer.raw == CAT
    assert [box.label for box in answer] == ["cat"]
    assert speaker.prompts[-1].mask_ar.tolist()[-5:] == [0, 1, 1, 1, 1]


def test_unknown_verbs_are_refused(model):
    with pytest.raises(UsageError, match="did you mean 'detect'"):
        model.prompt("detec", "cat")
    assert model.prompt("detect", "cat") == Prompt("detect cat", "detect")


def test_ids_without_meaning_are_never_produced(model):
    forbidden = set(model.engine.forbidden.tolist())
    assert set(range(model.tokenizer.vocab_size, model.config.text.embedding_rows)) <= forbidden
    assert model.tokenizer.image_id in forbidden
    assert model.tokenizer.eos_id not in forbidden
