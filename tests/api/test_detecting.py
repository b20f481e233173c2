"""Detection and segmentation: the grammar, the scores, the masks; switched on and off."""

from dataclasses import replace

import numpy as np
import pytest
from tests.api.helpers import CAT, Speaker, picture

from paligemma.api import PaliGemma, Query
from paligemma.checkpoints import find_codec, resolve
from paligemma.config import variant
from paligemma.errors import CheckpointError, UsageError
from paligemma.metrics.calibration import Calibration

SEG = "".join(f"<seg{i:03d}>" for i in range(16))
LONG = {"max_tokens": 60}


# --- truly generating: a random model says nonsense, and still only boxes ---


@pytest.mark.parametrize("verb", ["detect", "segment"])
@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"temperature": 3.0, "seed": 1}])
def test_malformed_answers_cannot_happen(model, verb, more):
    found = getattr(model, verb)([picture(i) for i in range(3)], "cat; dog", **LONG, **more)
    for answer in found:
        assert {box.label for box in answer} <= {"cat", "dog"}
        assert "rejected" not in [notice.code for notice in answer.warnings]
        assert all((box.mask_codes is not None) == (verb == "segment") for box in answer)
        assert answer.raw == model.tokenizer.decode(answer.tokens)
    off = getattr(model, verb)(picture(), "cat; dog", grammar=False, **LONG, **more)
    assert off.warnings


def test_scores_come_with_the_boxes(model):
    found = model.detect([picture(i) for i in range(4)], "cat", temperature=2.0, seed=3, **LONG)
    boxes = [box for answer in found for box in answer]
    assert boxes
    assert all(0 <= box.score <= 1 and box.raw_score == box.score for box in boxes)
    finished = [answer for answer in found if answer.finish_reason == "stop"]
    assert all(answer.score == pytest.approx(np.exp(sum(answer.logprobs))) for answer in finished)
    assert all(answer.score is None for answer in found if answer.finish_reason != "stop")


def test_grammar_decides_what_is_said_at_no_cost_to_other_queries(model):
    alone = model.caption(picture(9), max_tokens=5)
    mixed = model.run(
        [Query(picture(9), "caption", {}, {"max_tokens": 5}), Query(picture(1), "detect", {"objects": "cat"}, LONG)]
    )
    assert mixed[0].tokens == alone.tokens


# --- what is asked of the engine ---


def grammar_of(speaker):
    constraint = speaker.constraints[-1]
    return None if constraint is None else constraint.grammar


@pytest.mark.parametrize(
    ("options", "labels", "max_objects", "duplicates"),
    [
        ({}, ("cat", "dog"), None, False),
        ({"any_label": True}, None, None, False),
        ({"max_objects": 3}, ("cat", "dog"), 3, False),
        ({"duplicates": True}, ("cat", "dog"), None, True),
    ],
)
def test_options_make_the_grammar(model, says, options, labels, max_objects, duplicates):
    speaker = says("")
    model.detect(picture(), "cat; dog", **options)
    grammar = grammar_of(speaker)
    assert (grammar.labels, grammar.max_objects, grammar.duplicates) == (labels, max_objects, duplicates)
    assert not grammar.masks
    model.segment(picture(), "cat", **options)
    assert grammar_of(speaker).masks


def test_when_there_is_no_grammar(model, says):
    speaker = says("x")
    model.detect(picture(), "cat", grammar=False)
    model.caption(picture())
    model.generate(picture(), "detect cat")
    assert speaker.constraints == [None, None, None]
    speaker = says("")
    model.generate(picture(), "detect cat", grammar=True)
    model.generate(picture(), model.prompt("detect", "cat"))
    assert [constraint.grammar.labels for constraint in speaker.constraints] == [("cat",), ("cat",)]
    model.detect(picture(), "a<loc0001>b")  # such a label could not be read back
    assert grammar_of(speaker).labels is None


def test_the_dialect_without_labels(model, says, monkeypatch):
    published = PaliGemma(
        model.model, model.processor, name="x", variant=variant("paligemma-3b-ft-refcoco-seg-448")
    )  # fmt: skip
    speaker = Speaker(model, f"{CAT[:36]}{SEG}")
    monkeypatch.setattr(published, "engine", speaker)
    found = published.segment(picture(), "left cat")
    assert grammar_of(speaker).accepts(speaker.ids)
    assert [box.label for box in found] == ["left cat"]


def test_a_given_start_is_part_of_the_grammar(model, says):
    locations = frozenset({"locations"})
    speaker = says("<loc0920><loc0819> cat")
    prompt = model.prompt("detect", "cat")
    found = model.generate(picture(), prompt, start=CAT[:18], allow=locations)
    assert [box.loc for box in found] == [(102, 51, 920, 819)]
    constraint = speaker.constraints[-1]
    assert constraint.allowed(constraint.start())[0] == model.tokenizer.loc_start + 103
    with pytest.raises(UsageError, match="no beginning of boxes"):
        model.generate(picture(), prompt, start="hello")
    assert model.generate(picture(), prompt, start=CAT[:18], allow=locations, grammar=False).raw.startswith(CAT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf": 1.5}, "conf is 1.5"),
        ({"conf": True}, "conf is True"),
        ({"max_objects": 0}, "max_objects is 0"),
        ({"grammar": "no"}, "grammar is 'no'"),
        ({"duplicate": True}, "did you mean 'duplicates'"),
        ({"tiles": 3}, "tiles is 3"),
    ],
)
def test_wrong_options_are_refused(model, options, message):
    with pytest.raises(UsageError, match=message):
        model.detect(picture(), "cat", **options)


# --- what comes back ---


class Sure(Speaker):
    """Says its boxes with given probabilities of the location tokens."""

    def __init__(self, model, text, *probabilities, **more):
        super().__init__(model, text, **more)
        self.probabilities = probabilities
        self.loc_start = model.tokenizer.loc_start

    def generate(self, *arguments, **more):
        answers = super().generate(*arguments, **more)
        watched, number = [], 0
        for token in self.ids:
            place = token - self.loc_start
            if not 0 <= place < 1024:
                watched.append(None)
                continue
            p = self.probabilities[number // 4]
            row = np.full(1024, (1 - p) / 1023)
            row[place] = p
            watched.append(np.log(np.maximum(row, 1e-30)))
            number += 1
        logprobs = [0.0] * len(self.ids)
        return [replace(answer, watched=watched, logprobs=logprobs) for answer in answers]


TWO = f"{CAT} ; <loc0000><loc0000><loc0100><loc0100> cat"


@pytest.fixture
def own(model):
    return PaliGemma(model.model, model.processor, name="own", codec_path=find_codec(resolve("nano")))


def test_conf_keeps_the_sure_ones_and_the_raw_text(own, monkeypatch):
    monkeypatch.setattr(own, "engine", Sure(own, TWO, 1.0, 0.5))
    found = own.detect(picture(), "cat")
    assert found.scores[0] == pytest.approx(1.0)
    assert found.scores[1] < 0.7
    kept = own.detect(picture(), "cat", conf=0.9)
    assert [box.loc for box in kept] == [(102, 51, 920, 819)]
    assert kept.raw == found.raw == TWO
    assert own.detect(picture(), "cat", conf=1.0, grammar=False).text == kept.text


def test_a_calibration_changes_scores_and_not_raw_scores(own, monkeypatch):
    monkeypatch.setattr(own, "engine", Sure(own, TWO, 0.9, 0.5))
    before = own.detect(picture(), "cat")
    own.calibration = Calibration(temperature=2.0, shift=-1.0, examples=50)
    after = own.detect(picture(), "cat")
    assert [box.raw_score for box in after] == before.scores.tolist()
    assert after.scores == pytest.approx([own.calibration(score) for score in before.scores])


def test_repetitions_are_left_out_unless_wanted(own, monkeypatch):
    twice = f"{CAT} ; <loc0103><loc0052><loc0921><loc0820> cat"
    monkeypatch.setattr(own, "engine", Sure(own, twice, 0.5, 0.9))
    found = own.detect(picture(), "cat")
    assert [box.loc for box in found] == [(103, 52, 921, 820)]
    assert "duplicate" in [notice.code for notice in found.warnings]
    assert len(own.detect(picture(), "cat", duplicates=True)) == 2
    assert len(own.generate(picture(), "detect cat")) == 2


def test_refined_edges_lie_at_the_median(own, monkeypatch):
    monkeypatch.setattr(own, "engine", Sure(own, CAT, 0.1))  # else uniform, so that the median is in the middle
    written, refined = own.detect(picture(), "cat")[0], own.detect(picture(), "cat", refine=True)[0]
    assert refined.loc == written.loc == (102, 51, 920, 819)
    assert all(abs(a - 0.5) < abs(b - 0.5) for a, b in zip(refined.xyxyn, written.xyxyn, strict=True))
    monkeypatch.setattr(own, "engine", Sure(own, f"{CAT[:36]}{SEG} cat", 0.1))
    assert own.segment(picture(), "cat", refine=True)[0].box_yxyx_norm == written.box_yxyx_norm


def test_masks_of_a_batch_are_decoded_in_one_call(own, monkeypatch):
    calls, decode = [], type(own.mask_codec).decode
    monkeypatch.setattr(
        type(own.mask_codec), "decode", lambda codec, codes: calls.append(len(codes)) or decode(codec, codes)
    )
    monkeypatch.setattr(own, "engine", Speaker(own, f"{CAT[:36]}{SEG} cat"))
    found = own.segment([picture(0, (60, 40)), picture(1, (30, 90))], "cat")
    assert calls == [2]
    assert [box.mask.array().shape for answer in found for box in answer] == [(40, 60), (90, 30)]
    assert found[0].warnings == ()
    assert found[0][0].mask.codes == tuple(range(16))
    assert found[0][0].mask.convention == "big_vision"
    assert own.segment(picture(), "cat", loc_divisor=1024)[0].mask.convention == "demo"


def test_without_a_codec_codes_stay_codes(model, says):
    says(f"{CAT[:36]}{SEG} cat")
    found = model.segment(picture(), "cat")
    assert found[0].mask is None
    assert found[0].mask_codes == tuple(range(16))
    assert "mask_codes_only" in [notice.code for notice in found.warnings]


def test_a_damaged_codec_is_an_error_of_this_query_alone(model, monkeypatch, tmp_path):
    (tmp_path / "mask_codec.npz").write_bytes(b"none")
    broken = PaliGemma(model.model, model.processor, name="x", codec_path=tmp_path / "mask_codec.npz")
    monkeypatch.setattr(broken, "engine", Speaker(model, f"{CAT[:36]}{SEG} cat"))
    with pytest.raises(CheckpointError, match="mask_codec"):
        broken.segment(picture(), "cat")
    monkeypatch.setattr(broken, "engine", Speaker(model, CAT))
    assert broken.detect(picture(), "cat").boxes  # which needs none


def test_a_cut_answer_keeps_its_whole_boxes(own, monkeypatch):
    monkeypatch.setattr(own, "engine", Speaker(own, f"{CAT} ; <loc0001><loc0002>", finish_reason="length"))
    found = own.detect(picture(), "cat")
    assert [box.label for box in found] == ["cat"]
    assert [notice.code for notice in found.warnings] == ["truncated"]
    assert found.score is None


def test_max_objects_holds_without_the_grammar_too():
    from paligemma import load
    from paligemma.scenes import draw_scene

    nano = load()
    images = [
        scene.image
        for seed in range(1_000_000_000, 1_000_000_012)
        if len((scene := draw_scene(seed, kind="objects")).things) > 2
    ]
    labels = ["cat", "crown", "fish", "cloud", "car", "cup", "hammer", "turtle", "castle", "cherry", "star", "carrot"]
    free = nano.detect(images, labels, grammar=False)
    assert any(len(found) > 1 for found in free)
    for found, one in zip(free, nano.detect(images, labels, grammar=False, max_objects=1), strict=True):
        assert one.boxes == found.boxes[:1]
        assert one.raw == found.raw
        assert any(notice.code == "max_objects" for notice in one.warnings) == (len(found) > 1)
