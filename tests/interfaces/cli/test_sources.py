import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paligemma.errors import InputError, UsageError
from paligemma.interfaces.cli import urls
from paligemma.interfaces.cli.options import STDIN, SourceOptions
from paligemma.interfaces.cli.sources import Sources


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working directory with a folder of pictures, folders in it, and other things beside them."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.jpg", "in/a.PNG", "in/notes.txt", "in/sub/c.png", "in/.hidden/d.png", "in/.e.png", "alone.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")
    (tmp_path / "in" / "sub" / "loop").symlink_to(tmp_path / "in")
    return tmp_path


def items(*arguments, skip=(), **options):
    return list(Sources(arguments, SourceOptions(**options), skip))


def names(*arguments, **options):
    return [item.name for item in items(*arguments, **options)]


def errors(*arguments, **options):
    return [str(item.error) for item in items(*arguments, **options) if item.error]


def clip(path, number=20, rate=10):
    """A video of 2 seconds whose frames get lighter."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(number):
            frame = np.full((16, 32, 3), i * 12, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def stdin(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))


def test_files_stand_for_themselves_in_their_order():
    assert names("alone.png", "in/b.jpg") == ["alone.png", "in/b.jpg"]
    [item] = items("in/b.jpg")
    assert (item.pictures, item.place, item.paths, item.error) == (("in/b.jpg",), "b.jpg", ("in/b.jpg",), None)


def test_a_folder_gives_its_pictures_by_name_and_on_request_those_below():
    assert names("in") == ["in/a.PNG", "in/b.jpg"]
    found = items("in", recursive=True)
    assert [item.name for item in found] == ["in/a.PNG", "in/b.jpg", "in/sub/c.png"]
    assert [item.place for item in found] == ["a.PNG", "b.jpg", "sub/c.png"]


def test_a_folder_without_pictures_says_so_and_what_could_help():
    (Path("empty") / "deep").mkdir(parents=True)
    assert "holds no picture" in errors("empty")[0]
    assert "--recursive" in errors("empty")[0]
    assert "--recursive" not in errors("empty", recursive=True)[0]


def test_a_quoted_pattern_is_read_here():
    assert names("in/*.*g") == ["in/b.jpg"]
    found = items("in/**/*.png")
    assert [(item.name, item.place) for item in found] == [("in/sub/c.png", "sub/c.png")]
    assert "no file matches" in errors("*.webp")[0]


def test_a_file_that_is_called_like_a_pattern_is_a_file():
    Path("a[1].png").write_bytes(b"?")
    assert names("a[1].png") == ["a[1].png"]


def test_our_own_output_is_not_read_again():
    assert names("in", recursive=True, skip=["in/sub"]) == ["in/a.PNG", "in/b.jpg"]
    assert errors("in/**/*.png", skip=["in/sub"])
    assert names("in", skip=["in"]) == ["in/a.PNG", "in/b.jpg"]  # then `saving` refuses to write there


@pytest.mark.parametrize("path", ["missing.jpg", "x" * 5000, "nul\0byte", ""])
def test_what_is_plainly_no_file_is_an_item_with_an_error(path):
    [error] = errors(path)
    assert "image" in error
    assert len(error) < 400


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs permissions that hold for us")
def test_a_folder_that_cannot_be_read_is_an_error():
    Path("in").chmod(0)
    assert "permissions" in errors("in")[0]
    Path("in").chmod(0o755)


def test_whether_the_answer_is_a_list(monkeypatch):
    def several(*arguments, **options):
        return Sources(arguments, SourceOptions(**options)).several

    stdin(monkeypatch, b"a.png\n")
    film = clip("film.mp4")
    assert not several("alone.png")
    assert not several("http://host/a.png")
    assert not several("missing.png")
    assert not several(film, clip=True)
    for listed in (["alone.png", "in/b.jpg"], ["in"], ["in/*.jpg"], [STDIN], [film]):
        assert several(*listed)


def test_how_many_there_will_be_is_known_where_it_can_be(monkeypatch):
    def count(*arguments, **options):
        return Sources(arguments, SourceOptions(**options)).count()

    film = clip("film.mp4")
    assert count("alone.png", "in", "http://host/a.png") == 4
    assert count("in", recursive=True) == 3
    assert count(film) is None
    assert count(film, clip=True) == 1
    stdin(monkeypatch, b"a.png\n")
    assert count(STDIN) is None


def test_directories_of_the_inputs(place):
    found = Sources(["in", "alone.png", "http://host/x.png"], SourceOptions(recursive=True)).directories()
    assert found == {str(place / name) for name in ("in", "in/sub", ".")} | {str(place)} - {str(place / ".")}


def test_stdin_lists_paths_folders_and_patterns(monkeypatch):
    stdin(monkeypatch, b"alone.png\r\n\n  \nin\nin/sub/*.png")
    assert names("in/b.jpg", STDIN) == ["in/b.jpg", "alone.png", "in/a.PNG", "in/b.jpg", "in/sub/c.png"]


def test_stdin_is_read_no_further_than_needed(monkeypatch):
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as writer:
        monkeypatch.setattr(sys, "stdin", reader)
        writer.write("alone.png\n")
        writer.flush()
        found = iter(Sources([STDIN], SourceOptions()))
        assert next(found).name == "alone.png"  # though the list is not at its end
        writer.write("in/b.jpg\n")
        writer.close()
        assert [item.name for item in found] == ["in/b.jpg"]


def test_names_on_stdin_need_no_encoding(monkeypatch, place):
    (place / os.fsdecode(b"\xff\xe9.png")).write_bytes(b"?")
    stdin(monkeypatch, b"\xff\xe9.png\n")
    [item] = items(STDIN)
    assert item.error is None
    assert os.fsencode(item.name) == b"\xff\xe9.png"


def test_a_picture_on_stdin_is_that_picture(monkeypatch):
    out = io.BytesIO()
    Image.new("RGB", (4, 3)).save(out, "PNG")
    stdin(monkeypatch, out.getvalue())
    sources = Sources([STDIN], SourceOptions())
    assert (sources.several, sources.count()) == (False, 1)
    [item] = sources
    assert (item.name, item.pictures, item.paths) == ("-", (out.getvalue(),), ("-",))


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_an_empty_stdin_is_told(monkeypatch, data):
    stdin(monkeypatch, data)
    with pytest.raises(InputError, match="stdin is empty"):
        items(STDIN)


@pytest.mark.parametrize("data", [b"a\0b.png\n", b"x" * 100_000])
def test_rubbish_on_stdin_is_told(monkeypatch, data):
    stdin(monkeypatch, data)
    with pytest.raises(InputError, match="neither"):
        items(STDIN)


def test_stdin_can_be_read_once_only():
    with pytest.raises(UsageError, match="once"):
        Sources([STDIN, STDIN], SourceOptions())


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({}, [0, 10]),
        ({"fps": 5}, list(range(0, 20, 2))),
        ({"stride": 7}, [0, 7, 14]),
        ({"frames": 2}, [5, 15]),
    ],
)
def test_a_video_gives_its_frames(options, frames):
    found = items(clip("film.mp4"), **options)
    assert [item.facts["frame"] for item in found] == frames
    assert [item.facts["time_s"] for item in found] == pytest.approx([i / 10 for i in frames], abs=0.002)
    assert {item.name for item in found} == {"film.mp4"}
    last = found[-1]
    assert last.place == last.path == f"film-{frames[-1]:06}.png"
    assert last.title == f"film.mp4 at {frames[-1] / 10:.2f} s"
    assert np.array(last.pictures[0]).mean() == pytest.approx(12 * frames[-1], abs=8)


def test_frames_are_decoded_one_after_the_other(monkeypatch):
    from paligemma import images

    decoded = []
    convert = images.each_frame
    monkeypatch.setattr(images, "each_frame", lambda *a, **k: (decoded.append(f.number) or f for f in convert(*a, **k)))
    found = iter(Sources([clip("film.mp4")], SourceOptions(stride=1)))
    next(found)
    next(found)
    assert decoded == [0, 1]


def test_a_clip_is_one_example():
    [item] = items(clip("film.mp4"), clip=True)
    assert (len(item.pictures), item.name, item.place) == (16, "film.mp4", "film.png")
    [item] = items("film.mp4", clip=True, stride=5)
    assert item.facts == {"frames": [0, 5, 10, 15]}
    [item] = items("film.mp4", clip=True, frames=3)
    assert len(item.paths) == 3


def test_a_video_is_known_by_its_first_bytes_too():
    os.rename(clip("film.mp4"), "film.bin")
    assert len(items("film.bin")) == 2


def test_a_damaged_video_is_an_error_after_what_could_be_read():
    Path("broken.mp4").write_bytes(Path(clip("film.mp4")).read_bytes()[:300])
    assert "broken.mp4" in errors("broken.mp4")[0]


def test_folders_give_videos_and_animations_only_when_frames_are_asked_for():
    clip("in/z.mp4")
    frames = [Image.new("RGB", (8, 8), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save("in/y.gif", save_all=True, append_images=frames[1:], duration=500)
    Image.new("RGB", (8, 8)).save("in/a.PNG")
    assert names("in") == ["in/a.PNG", "in/b.jpg", "in/y.gif"]
    listed = names("in", stride=1)
    assert listed.count("in/y.gif") == 3
    assert listed.count("in/z.mp4") == 20
    assert listed.count("in/a.PNG") == 1


def test_an_address_needs_permission_and_fails_alone(monkeypatch):
    assert "--allow-url" in errors("http://host/a.png?key=1")[0]
    assert "key" not in errors("http://host/a.png?key=1")[0]
    monkeypatch.setattr(urls, "fetch", lambda url: url.encode())
    [item] = items("https://host/x/a%20b.png?key=1", allow_url=True)
    assert (item.name, item.place) == ("https://host/x/a%20b.png", "a b.png")
    assert item.pictures == (b"https://host/x/a%20b.png?key=1",)


def test_many_files_are_listed_without_being_held(tmp_path):
    """What is kept while a folder is read does not grow with the pictures already given."""
    import tracemalloc

    (tmp_path / "big").mkdir()
    for i in range(300):
        (tmp_path / "big" / f"{i:04}.png").write_bytes(b"?")
    found = iter(Sources(["big"], SourceOptions()))
    next(found)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(250):
        next(found)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000
