"""One answer out of the answers of many windows."""

import numpy as np
import pytest
from PIL import Image
from tests.api.helpers import CAT, Speaker, picture

from paligemma.api import Images, PaliGemma, Query, Tiles
from paligemma.api.tiling import windows
from paligemma.checkpoints import find_codec, resolve
from paligemma.engine import Generation
from paligemma.errors import InputError, UsageError

SEG = "".join(f"<seg{i:03d}>" for i in range(16))


class Seer(Speaker):
    """An engine that truly sees: it finds the bright rectangle in what it is shown, wherever the window is."""

    def __init__(self, model, masks=""):
        super().__init__(model, "")
        self.model, self.masks = model, masks

    def generate(self, prompts, samplings, **more):
        super().generate(prompts, samplings, **more)
        return [self.answer(prompt.pixels[0, 0].numpy()) for prompt in prompts]

    def answer(self, pixels):
        rows, columns = np.flatnonzero((pixels > 0).any(1)), np.flatnonzero((pixels > 0).any(0))
        text = ""
        if rows.size > 1 and columns.size > 1:
            edges = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) / len(pixels)
            text = "".join(f"<loc{round(edge * 1023):04d}>" for edge in edges) + self.masks + " cat"
        ids = self.model.tokenizer.encode(text, allow=frozenset({"locations"}))
        return Generation(tokens=ids, logprobs=[-1.0] * len(ids), finish_reason="stop", score=0.0)


@pytest.fixture
def seer(model, monkeypatch):
    """Without a cache, so that the engine gets pixels."""
    own = PaliGemma(model.model, model.processor, name="seer", image_cache=0, codec_path=find_codec(resolve("nano")))
    monkeypatch.setattr(own, "engine", Seer(own))
    return own


def rectangle(box, size=(300, 200)):
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), box)
    return image


@pytest.mark.parametrize(
    ("box", "tiles"),
    [
        ((20, 20, 60, 50), (2, 3)),
        ((90, 90, 130, 120), (2, 3)),  # over the borders of windows
        ((10, 40, 290, 160), (2, 3)),  # larger than any window
        ((140, 80, 170, 110), Tiles(size_px=100, overlap=0.4, include_whole=False)),
        ((20, 90, 280, 120), Tiles(rows=1, cols=4, include_whole=False)),  # pieces only
    ],
)
def test_an_object_is_found_once_and_in_its_place(seer, box, tiles):
    found = seer.detect(rectangle(box), "cat", tiles=tiles)
    assert len(found) == 1
    assert found.xyxy[0] == pytest.approx(box, abs=6)
    assert found.image_size_px == (300, 200)
    assert found[0].image_size_px == (300, 200)
    assert found.images[0].size == (300, 200)
    assert found.warnings == ()
    assert " cat" in found.raw
    assert found.text == "cat"


def test_masks_move_with_their_boxes_and_pieces_are_laid_together(seer, monkeypatch):
    monkeypatch.setattr(seer, "engine", Seer(seer, SEG))
    inside = seer.segment(rectangle((20, 20, 60, 50)), "cat", tiles=Tiles(rows=2, cols=3, include_whole=False))
    (box,) = inside
    assert box.mask.image_size_px == (300, 200)
    assert box.mask.box_yxyx_norm == box.box_yxyx_norm
    assert box.mask.array()[20:50, 20:60].any()
    pieces = seer.segment(rectangle((20, 90, 280, 120)), "cat", tiles=Tiles(rows=1, cols=4, include_whole=False))
    (box,) = pieces
    covered = np.flatnonzero(box.mask.array().any(0))
    assert covered.min() < 80
    assert covered.max() > 220
    assert box.mask_codes is None


def test_nothing_found_is_said_once(seer):
    found = seer.detect(Image.new("RGB", (300, 200)), "cat", tiles=(2, 2))
    assert len(found) == 0
    assert [notice.code for notice in found.warnings] == ["empty"]


def test_one_window_is_the_picture_itself(seer):
    plain = seer.detect(rectangle((20, 20, 60, 50)), "cat")
    for tiles in ((1, 1), Tiles(size_px=1000)):
        assert seer.detect(rectangle((20, 20, 60, 50)), "cat", tiles=tiles).boxes == plain.boxes


def test_windows_are_asked_in_batches_with_other_queries(seer):
    queries = [
        Query(rectangle((20, 20, 60, 50)), "detect", {"objects": "cat"}, {"tiles": (2, 3)}),
        Query("nowhere.png", "detect", {"objects": "cat"}, {"tiles": True}),
        Query(rectangle((90, 90, 130, 120)), "detect", {"objects": "cat"}),
    ]
    found = seer.run(queries, batch_size=4, on_error="return")
    assert [len(found[0]), len(found[2])] == [1, 1]
    assert isinstance(found[1], InputError)
    assert len(seer.engine.prompts) == 8
    sizes = [picture.size for picture in found[0].images]
    assert sizes == [(300, 200)]


def test_conf_and_max_objects_hold_for_the_whole(model, monkeypatch):
    own = PaliGemma(model.model, model.processor, name="x")
    monkeypatch.setattr(own, "engine", Speaker(own, CAT))
    every = own.detect(picture(size=(100, 100)), "cat", tiles=Tiles(rows=2, cols=2, include_whole=False, overlap=0))
    assert len(every) == 4
    assert len(own.detect(picture(size=(100, 100)), "cat", tiles=Tiles(rows=2, cols=2, overlap=0), max_objects=2)) == 2


def test_an_encoded_picture_may_be_tiled(model):
    encoded = model.encode(picture(size=(200, 100)))
    a = model.detect(encoded, "cat", tiles=(1, 2), max_tokens=12)
    b = model.detect(picture(size=(200, 100)), "cat", tiles=(1, 2), max_tokens=12)
    assert a.raw == b.raw
    assert len(windows((200, 100), Tiles(rows=1, cols=2), 56)) == 2


def test_what_cannot_be_tiled(model):
    with pytest.raises(UsageError, match="boxes of one picture"):
        model.detect(Images(picture(0), picture(1)), "cat", tiles=True)
    with pytest.raises(UsageError, match="boxes of one picture"):
        model.generate(picture(), "caption en", tiles=(2, 2))
    with pytest.raises(UsageError, match="tiles were asked of a stream"):
        model.stream(picture(), model.prompt("detect", "cat"), tiles=(2, 2))
    with pytest.raises(UsageError, match="unknown option 'tiles'"):
        model.caption(picture(), tiles=True)
