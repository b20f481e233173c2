"""Encode once, ask many: the same answers as from pixels, and the vision tower left alone."""

import threading

import pytest
import torch
from tests.api.helpers import picture

from paligemma.api import EncodedImage, Images, PaliGemma, Query
from paligemma.errors import InputError, ResourceError


@pytest.fixture
def fresh(model):
    """The same weights with a cache of its own."""
    return PaliGemma(model.model, model.processor, name="fresh")


@pytest.fixture
def plain(model):
    """The same weights without a cache."""
    return PaliGemma(model.model, model.processor, name="fresh", image_cache=0)


@pytest.fixture
def tower(model, monkeypatch):
    """How many pictures went through the vision tower, call by call."""
    calls, encode_images = [], type(model.model).encode_images

    def counted(self, pixels):
        calls.append(len(pixels))
        return encode_images(self, pixels)

    monkeypatch.setattr(type(model.model), "encode_images", counted)
    return calls


def same(a, b):
    assert (a.tokens, a.logprobs) == (b.tokens, b.logprobs)
    return True


@pytest.mark.parametrize(
    "ask",
    [
        lambda m, p: m.caption(p, max_tokens=5),
        lambda m, p: m.detect(p, "cat", max_tokens=5),
        lambda m, p: m.generate(p, "ocr", start="a", max_tokens=5),
        lambda m, p: m.stream(p, "what?", max_tokens=5).answer,
        lambda m, p: m.run([Query(p, "ask", {"question": "what?"}, {"max_tokens": 5})])[0],
    ],
)
def test_an_encoded_picture_answers_as_its_pixels_do(fresh, plain, tower, ask):
    encoded = fresh.encode(picture())
    assert tower == [1]
    fresh.encoder.cache.clear()
    found = ask(fresh, encoded)
    assert tower == [1]
    assert same(found, ask(plain, picture()))
    assert tower == [1, 1]
    assert found.images == encoded.images
    assert found.image_size_px == (60, 40)


def test_several_pictures_and_lists(fresh, plain, tmp_path):
    path = tmp_path / "a.png"
    picture(1).save(path)
    pair = fresh.encode(Images(picture(0), path))
    assert pair.features.shape == (2, fresh.config.vision.num_image_tokens, fresh.config.text.width)
    assert pair.paths == (None, str(path))
    assert "60 x 40, 60 x 40" in repr(pair)
    pixels = plain.ask(Images(picture(0), picture(1)), "same?", max_tokens=4)
    found = fresh.ask(pair, "same?", max_tokens=4)
    assert found.tokens == pixels.tokens
    assert found.logprobs == pytest.approx(pixels.logprobs, abs=1e-5)
    assert found.paths == pair.paths
    # one picture encoded, the other not
    mixed = fresh.ask(Images(fresh.encode(picture(0)), picture(1)), "same?", max_tokens=4)
    assert mixed.tokens == pixels.tokens
    several = fresh.encode([picture(0), [picture(1), picture(2)]])
    assert [len(one.images) for one in several] == [1, 2]
    assert [a.tokens for a in fresh.ocr(several, max_tokens=3)] == [
        a.tokens for a in plain.ocr([picture(0), [picture(1), picture(2)]], max_tokens=3)
    ]
    with pytest.raises(InputError, match="no picture"):
        fresh.encode(None)


def test_each_distinct_picture_is_encoded_once(fresh, tower, tmp_path):
    path = tmp_path / "a.png"
    picture(0).save(path)
    queries = [
        Query(p, "ask", {"question": q}, {"max_tokens": 2}) for p in (picture(0), path, picture(1)) for q in "ab"
    ]
    fresh.run(queries)
    assert tower == [2]
    fresh.run(queries)
    fresh.encode(picture(1))
    assert tower == [2]
    assert fresh.encoder.cache.state.entries == 2


def test_without_a_cache_nothing_is_remembered(plain, tower):
    plain.ocr(picture(), max_tokens=1)
    plain.ocr(picture(), max_tokens=1)
    assert tower == [1, 1]
    assert plain.encoder.cache.state.entries == 0


def test_changed_weights_forget(model, tower):
    own = PaliGemma(model.model, model.processor, name="own")
    encoded = own.encode(picture())
    before = own.ocr(encoded, max_tokens=3)
    bias = own.model.projector.bias
    saved = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.add_(1.0)
        after = own.ocr(encoded, max_tokens=3)
        assert tower == [1, 1]
        assert after.logprobs != before.logprobs
        assert own.ocr(picture(), max_tokens=3) == after
    finally:
        with torch.no_grad():
            bias.copy_(saved)


def test_another_model_encodes_again(fresh, plain, tower):
    encoded = fresh.encode(picture())
    assert same(plain.ocr(encoded, max_tokens=3), fresh.ocr(encoded, max_tokens=3))
    assert tower == [1, 1]
    other_number_type = EncodedImage(encoded.images, encoded.paths, encoded.features.double(), ("x",))
    assert same(fresh.ocr(other_number_type, max_tokens=3), fresh.ocr(encoded, max_tokens=3))


def test_threads_share_a_model(fresh, plain):
    expected = [plain.ocr(picture(i % 3), max_tokens=3).tokens for i in range(3)]
    found = {}

    def work(i):
        found[i] = fresh.ocr(picture(i % 3), max_tokens=3).tokens

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(6)] == expected * 2


def test_out_of_memory_is_told(fresh, monkeypatch):
    def full(pixels):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(fresh.engine.runner, "encode_images", full)
    with pytest.raises(ResourceError, match="lower batch_size"):
        fresh.ocr(picture())
    with pytest.raises(ResourceError, match="lower batch_size"):
        fresh.encode(picture())
