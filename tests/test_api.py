"""The verbs, on tiny random models in Hugging Face's layout; where the words matter, with an engine that says them."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import paligemma
from paligemma.api import Images, PaliGemma, load
from paligemma.config import IMAGE_SLOT, variant
from paligemma.engine import Generation, Token, generate_slowly
from paligemma.errors import CheckpointError, InputError, UnavailableError, UsageError
from paligemma.results import Answer, Detections
from paligemma.tasks import Prompt

GOLDEN = Path(__file__).parent / "data" / "golden"
PAIRS = {"hf-pg1-tiny": "tok-hub", "hf-pg2-tiny": "tok-added"}  # each model and the tokenizer it belongs to
REGION = "<loc0000><loc0000><loc0512><loc1023>"
CAT = "<loc0102><loc0051><loc0920><loc0819> cat"


@pytest.fixture(scope="module", params=PAIRS)
def directory(request, tmp_path_factory):
    target = tmp_path_factory.mktemp(request.param)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / request.param / name, target)
    for file in (GOLDEN / "processor" / PAIRS[request.param]).iterdir():
        shutil.copy(file, target)
    return target


@pytest.fixture(scope="module")
def model(directory):
    return load(directory, device="cpu")


def picture(seed=0, size=(60, 40)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


class Speaker:
    """An engine that says a given text and remembers what it was asked."""

    def __init__(self, model, text, finish_reason="stop"):
        self.ids = model.tokenizer.encode(text, allow=frozenset({"locations"}))
        self.eos_id, self.finish_reason = model.tokenizer.eos_id, finish_reason
        self.prompts, self.samplings, self.calls = [], [], 0

    def generate(self, prompts, samplings, *, batch_size):
        self.calls += 1
        self.prompts += prompts
        self.samplings += samplings
        answer = Generation(
            tokens=self.ids, logprobs=[-1.0] * len(self.ids), finish_reason=self.finish_reason, score=0.0
        )
        return [answer] * len(prompts)

    def stream(self, prompt, sampling):
        for i in self.ids:
            yield Token(id=i, logprob=-1.0)
        yield Token(id=self.eos_id, logprob=-0.5, finish_reason="stop")

    def sent(self, model, i=-1):
        """The text of a prompt, without image slots."""
        tokens = self.prompts[i].tokens
        return model.tokenizer.decode(tokens[tokens != IMAGE_SLOT].tolist(), skip_controls=False)


@pytest.fixture
def says(model, monkeypatch):
    def speak(text, **more):
        speaker = Speaker(model, text, **more)
        monkeypatch.setattr(model, "engine", speaker)
        return speaker

    return speak


# --- truly generating ---


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


def test_a_stream_says_the_same_as_generate(model):
    whole = model.generate(picture(), "caption en", max_tokens=6)
    stream = model.stream(picture(), "caption en", max_tokens=6)
    assert "".join(stream) == whole.raw
    assert stream.answer == whole
    assert model.stream(picture(), "caption en", max_tokens=6).answer == whole  # without reading the pieces


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


# --- prompts and options ---


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
    speaker = says("x")
    answer = ask(model, picture())
    assert speaker.sent(model) == f"<bos>{sent}\n"
    assert (answer.prompt, answer.task) == (sent, task)
    assert isinstance(answer, Detections) == (task in ("detect", "segment"))


def test_typed_tokens_stay_text_unless_allowed_by_type(model, says):
    speaker = says("x")
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


def test_defaults_by_task_and_seeds(model, says):
    speaker = says("x")
    model.caption(picture(), style="describe")
    model.ask(picture(), "?")
    model.ask(picture(), "?", max_tokens=7, seed=3)
    limits = [sampling.max_tokens for sampling in speaker.samplings]
    room = model.config.text.max_positions - len(speaker.prompts[0].tokens)
    assert limits == [min(256, room), 64, 7]
    assert speaker.samplings[-1].seed == 3
    assert speaker.samplings[0].seed != speaker.samplings[1].seed


def test_long_lists_go_in_chunks(model, says):
    speaker = says("x")
    assert len(model.ocr([picture()] * 9, batch_size=2)) == 9
    assert speaker.calls == 2
    assert model.ocr([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_token": 3}, "did you mean 'max_tokens'"),
        ({"temperature": -1}, "temperature"),
        ({"batch_size": 0}, "batch_size"),
        ({"loc_divisor": 1000}, "1023"),
        ({"num_beams": 2, "temperature": 1.0}, "beams"),
    ],
)
def test_wrong_options_are_refused(model, options, message):
    with pytest.raises(UsageError, match=message):
        model.caption(picture(), **options)


def test_a_stream_takes_one_example(model):
    with pytest.raises(UsageError, match="one example"):
        model.stream([picture()], "caption en")


# --- pictures ---


def test_every_kind_of_picture(model, says, tmp_path):
    says("x")
    path = tmp_path / "a.png"
    picture().save(path)
    kinds = [str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), picture(), np.asarray(picture())]
    answers = model.ocr(kinds)
    assert [a.image_size_px for a in answers] == [(60, 40)] * len(kinds)
    assert [a.paths for a in answers[:3]] == [(str(path),), (str(path),), (None,)]
    assert [a.image_size_px for a in model.ocr(p for p in [path])] == [(60, 40)]
    assert isinstance(model.ocr(io.BytesIO(path.read_bytes())), Answer)


@pytest.mark.parametrize("nothing", [None, Images(), [None], [[]], [()]])
def test_a_prompt_without_picture_is_a_clear_error(model, nothing):
    with pytest.raises(InputError, match="no picture; PaliGemma answers about pictures"):
        model.ask(nothing, "hello?")


def test_a_missing_file_is_a_clear_error(model, tmp_path):
    with pytest.raises(InputError):
        model.caption(tmp_path / "none.png")


# --- answers ---


def test_boxes_come_in_pixels_of_the_original_picture(model, says):
    says(f"{CAT} ; <loc0001> junk")
    found = model.detect(picture(size=(200, 100)), "cat")
    (box,) = found
    assert box.xyxy == pytest.approx((51 / 1023 * 200, 102 / 1023 * 100, 819 / 1023 * 200, 920 / 1023 * 100))
    assert [notice.code for notice in found.warnings] == ["rejected"]
    (other,) = model.detect(picture(), "cat", loc_divisor=1024)
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


def test_a_streamed_verb_has_its_task(model, says):
    says("a cat")
    stream = model.stream(picture(), model.prompt("ask", "what?", language="de"))
    assert list(stream)
    assert (stream.answer.task, stream.answer.prompt, stream.answer.text) == ("ask", "answer de what?", "a cat")


# --- what the checkpoint knows ---


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
        ("nano", "segment", ["cat"], "segment cat", ["unknown_task", "mask_codes_only"]),
    ],
)
def test_the_dialect_and_lint_of_published_checkpoints(model, says, monkeypatch, name, verb, words, sent, codes):
    speaker = Speaker(model, f"{CAT[:36]}{''.join(f'<seg{i:03d}>' for i in range(16))}")
    published = known_as(model, name)
    monkeypatch.setattr(published, "engine", speaker)
    answer = getattr(published, verb)(picture(), *words)
    assert speaker.sent(published) == f"<bos>{sent}\n"
    assert [notice.code for notice in answer.warnings] == codes
    if "refcoco" in name:
        assert answer[0].label == "left cat"


def test_answers_are_no_longer_than_the_checkpoint_was_trained(model, monkeypatch):
    published = known_as(model, "paligemma2-3b-pt-224")
    speaker = Speaker(model, "x")
    monkeypatch.setattr(published, "engine", speaker)
    published.detect(picture(), "cat")
    assert speaker.samplings[-1].max_tokens == variant("paligemma2-3b-pt-224").text_length


def test_unknown_verbs_are_refused(model):
    with pytest.raises(UsageError, match="did you mean 'detect'"):
        model.prompt("detec", "cat")
    assert model.prompt("detect", "cat") == Prompt("detect cat", "detect")


# --- loading ---


def test_loading_keeps_or_changes_the_number_type(directory, model):
    assert model.dtype == torch.float32
    assert model.device.type == "cpu"
    assert load(directory, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    assert paligemma.load is load
    assert str(directory) in repr(model)


def test_ids_without_meaning_are_never_produced(model):
    forbidden = set(model.engine.forbidden.tolist())
    assert set(range(model.tokenizer.vocab_size, model.config.text.embedding_rows)) <= forbidden
    assert model.tokenizer.image_id in forbidden
    assert model.tokenizer.eos_id not in forbidden


def test_a_checkpoint_without_tokenizer_says_what_to_do(directory, tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(directory / name, tmp_path)
    with pytest.raises(CheckpointError, match="comes without a tokenizer"):
        load(tmp_path)
    assert (
        load(tmp_path, device="cpu", tokenizer=directory / "tokenizer.json").ocr(picture(), max_tokens=1).task == "ocr"
    )


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("paligemma2-3b-mix-224", {}, UnavailableError, "paligemma pull paligemma2-3b-mix-224"),
        ("palligemma2-3b-mix-224", {}, UnavailableError, "did you mean 'paligemma2-3b-mix-224'"),
        ("./nowhere", {}, UnavailableError, "no file or directory"),
        (None, {"device": "gpu"}, UsageError, "unknown device"),
        (None, {"dtype": "int7"}, UsageError, "unknown weight type"),
        (None, {"resize": "cubic"}, UsageError, "did you mean 'bicubic'"),
    ],
)
def test_what_cannot_be_loaded(directory, name, options, error, message):
    with pytest.raises(error, match=message):
        load(name or directory, **options)
