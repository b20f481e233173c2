import numpy as np
import pytest

from paligemma.checkpoints import find_codec, load_codec, resolve
from paligemma.data.example import ENDLESS
from paligemma.data.scenes import STARTS, SceneSource
from paligemma.errors import UsageError
from paligemma.tasks import task_of


def texts(source, count=30):
    return [(source[i].prefix, source[i].suffix) for i in range(count)]


def test_the_same_number_gives_the_same_example():
    one, other = SceneSource(side_px=64), SceneSource(side_px=64)
    assert texts(one) == texts(other)
    assert np.array_equal(np.asarray(one[7].images[0]), np.asarray(other[7].images[0]))
    assert one[7].images[0].size == (64, 64)
    assert len(one) == ENDLESS
    assert one[7].id == "scenes:7"


def test_splits_are_other_scenes():
    assert len({start // (2 * ENDLESS) for start in STARTS.values()}) == len(STARTS)
    train, held_out = SceneSource(side_px=64), SceneSource(start=STARTS["validation"], side_px=64)
    assert texts(train) != texts(held_out)
    assert train.fingerprint != held_out.fingerprint


def test_seeds_are_shared_inside_a_split_alone():
    starts = [*STARTS.values(), *(start + 10**12 - 1 for start in STARTS.values())]
    sources = [SceneSource(start=start) for start in starts]
    for i, one in enumerate(sources):
        assert [one.shares_seeds(other) for other in sources] == [j % 3 == i % 3 for j in range(6)]


def test_languages_and_questions_can_be_chosen():
    spanish = texts(SceneSource(languages=["es"], asks=["caption", "count"], side_px=64))
    assert {prefix.split()[1] for prefix, _ in spanish} == {"es"}
    assert {task_of(prefix) for prefix, _ in spanish} == {"caption", "ask"}
    assert {prefix for prefix, _ in texts(SceneSource(asks=["ocr"], side_px=64), 10)} == {"ocr"}
    charts = SceneSource(kind="chart", asks=["chart"], side_px=64)
    assert all(prefix.startswith("answer") for prefix, _ in texts(charts, 5))


def test_masks_are_asked_for_where_a_codec_spells_them():
    codec = load_codec(find_codec(resolve("nano")))
    found = [SceneSource(asks=["segment"], kind="objects", codec=codec, side_px=64)[i] for i in range(4)]
    assert all(example.prefix.startswith("segment ") for example in found)
    assert any(example.suffix.count("<seg") and example.suffix.count("<seg") % 16 == 0 for example in found)
    assert not any(prefix.startswith("segment") for prefix, _ in texts(SceneSource(kind="objects", side_px=64), 60))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "object"}, "did you mean 'objects'"),
        ({"languages": ["ee"]}, "unknown language"),
        ({"asks": ["captions"]}, "did you mean 'caption'"),
        ({"asks": ["segment"]}, "no mask codec"),
    ],
)
def test_unknown_words_are_told(given, told):
    with pytest.raises(UsageError, match=told):
        SceneSource(**given)


def test_what_no_scene_can_be_asked_is_told():
    with pytest.raises(UsageError, match="no scene of kind chart"):
        SceneSource(kind="chart", asks=["detect"], side_px=32)[0]
