"""Files are whole or the old ones; names are safe."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.errors import ResourceError
from paligemma.results import Answer
from paligemma.results.files import as_name, folder, picture_path, stem, writing


def test_a_file_takes_its_place_only_when_whole(tmp_path):
    path = tmp_path / "a.txt"
    with writing(path) as file:
        file.write("old\n")
    with pytest.raises(TypeError), writing(path) as file:
        file.writelines(["new", 7])
    assert path.read_bytes() == b"old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    plain = tmp_path / "b.txt"
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(ResourceError, match=r"cannot write .*No such file"), writing(tmp_path / "no" / "a.txt"):
        pass
    (tmp_path / "a").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        folder(tmp_path / "a")


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes and links")
def test_pipes_are_written_to_and_links_stay_links(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with writing(tmp_path / "pipe") as file:
        file.write("through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("target")
    with writing(tmp_path / "link") as file:
        file.write("there")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "there"


def test_pictures_without_a_file_get_a_number():
    answer = Answer(text="", raw="", task="ask", prompt="", paths=("in/b.tar.png",))
    assert (picture_path(answer), stem(answer)) == ("in/b.tar.png", "b.tar")
    blank = Answer(text="", raw="", task="ask", prompt="", paths=(None,))
    assert (picture_path(blank, 12), stem(blank, 12)) == ("image-000012.png", "image-000012")


@given(st.text())
def test_any_label_is_a_safe_name(label):
    name = as_name(label)
    assert 0 < len(name) <= 60
    assert not set(name) & set('/\\:*?"<>|\0')
    assert name not in (".", "..")
