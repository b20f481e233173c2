import io

import numpy as np
import pytest
from PIL import Image
from tests.data.checking import picture
from tests.pictures import stored

from paligemma.data.look_alike import Gallery, Looks, look
from paligemma.errors import InputError


def test_other_pictures_are_other(tmp_path):
    gallery = Gallery()
    for seed in range(300):
        seen = look(picture(seed))
        assert gallery.same(seen) is None
        assert gallery.alike(seen) is None
        gallery.add(seen, str(seed))
    assert gallery.same(look(picture(7))) == "7"


@pytest.mark.parametrize(
    "change",
    [
        lambda image: Image.open(io.BytesIO(stored(image, "JPEG", quality=80))),
        lambda image: image.resize((144, 120), Image.Resampling.BILINEAR),
        lambda image: image.point(lambda level: min(255, level + 2)),
    ],
)
def test_the_same_motif_stored_anew_looks_the_same(change):
    gallery = Gallery()
    for seed in range(20):
        gallery.add(look(picture(seed)), str(seed))
    for seed in range(20):
        seen = look(change(picture(seed)))
        assert gallery.same(seen) is None
        assert gallery.alike(seen) == str(seed)


def test_plain_surfaces_look_like_nothing():
    gallery = Gallery()
    gallery.add(look(Image.new("RGB", (40, 40), (200, 200, 200))), "a")
    assert gallery.alike(look(Image.new("RGB", (40, 41), (201, 200, 200)))) is None


def test_another_colour_is_another_picture():
    image = picture(1)
    red = Image.fromarray(np.roll(np.asarray(image), 1, axis=2))
    gallery = Gallery()
    gallery.add(look(image), "a")
    assert gallery.alike(look(red)) is None


def test_files_are_opened_once_while_they_come_again(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    picture(1).save(file)
    looks = Looks()
    first = looks.of(file)
    file.unlink()
    assert looks.of(file) is first
    assert looks.of(stored(picture(1), "PNG")).size_px == first.size_px


def test_what_is_no_picture_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.png"):
        Looks().of(tmp_path / "a.png")
