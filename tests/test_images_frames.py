"""Animations and videos."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.pictures import message, stored

from paligemma import images
from paligemma.errors import UnavailableError, UsageError
from paligemma.images import HEAD_BYTES, each_frame, open_image, read_frames, recognise

NUM_FRAMES = 7


def animation(format: str) -> bytes:
    pictures = [Image.new("RGB", (8, 6), (30 * i, 0, 0)) for i in range(NUM_FRAMES)]
    options = {"lossless": True} if format == "WEBP" else {}
    return stored(pictures[0], format, save_all=True, append_images=pictures[1:], duration=100, **options)


def shown(pictures: list[Image.Image]) -> list[int]:
    """Which of the frames these are."""
    return [round(np.array(picture)[..., 0].mean() / 30) for picture in pictures]


def video(path: Path, rotation: int = 0) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(NUM_FRAMES):
            picture = np.full((16, 32, 3), (30 * i, 0, 0), np.uint8)
            picture[:, 24:] = 255 if rotation else picture[0, 0]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module", params=["GIF", "WEBP", "PNG", "TIFF", "mp4", "mkv"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / f"clip.{request.param.lower()}"
    if request.param in ("mp4", "mkv"):
        return video(path)
    path.write_bytes(animation(request.param))
    return path


@pytest.mark.parametrize(
    ("frames", "stride", "expected"),
    [
        (7, None, [0, 1, 2, 3, 4, 5, 6]),
        (3, None, [1, 3, 5]),
        (1, None, [3]),
        (16, None, [0, 1, 2, 3, 4, 5, 6] * 2 + [0, 1]),
        (2, 3, [0, 3]),
        (5, 3, [0, 3, 6, 0, 3]),
        (3, 100, [0, 0, 0]),
    ],
)
def test_frames_of_a_clip(clip: Path, frames: int, stride: int | None, expected: list[int]) -> None:
    pictures = read_frames(clip, frames=frames, stride=stride)
    assert shown(pictures) == expected
    assert {picture.mode for picture in pictures} == {"RGB"}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"stride": 3}, [0, 3, 6]),
        ({"frames": 3}, [1, 3, 5]),
        ({"frames": 50}, [0, 1, 2, 3, 4, 5, 6]),
        ({"fps": 5}, [0, 2, 4, 6]),
        ({"fps": 1}, [0]),
        ({"fps": 1000}, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_frames_come_one_by_one_with_number_and_time(clip: Path, choice: dict[str, float], expected: list[int]) -> None:
    frames = list(each_frame(clip, **choice))
    assert shown([frame.image for frame in frames]) == [frame.number for frame in frames] == expected
    assert [frame.time_s for frame in frames] == pytest.approx([i / 10 for i in expected], abs=0.002)


def test_a_film_is_decoded_only_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames = each_frame(path)
    assert next(frames).number == 0
    frames.close()


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": float("nan")}, {"fps": 1, "stride": 2}, {"frames": -1}])
def test_one_choice_of_frames_above_zero(wrong: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of them"):
        next(each_frame(tmp_path / "a.mp4", **wrong))


def test_pictures_and_videos_are_recognised_by_their_first_bytes(clip: Path) -> None:
    head = clip.read_bytes()[:HEAD_BYTES]
    assert recognise(head) == ("video" if clip.suffix in (".mp4", ".mkv") else "picture")
    assert recognise(b"a.png\nb.png\n") == recognise(b"") == "other"


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken_with_a_warning(format: str) -> None:
    with pytest.warns(UserWarning, match="more than one frame"):
        assert shown([open_image(animation(format))]) == [0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_image(stored(Image.new("RGB", (8, 6)), format))


@pytest.mark.filterwarnings("ignore:.*more than one frame")
def test_a_cut_animation_still_has_its_first_frame() -> None:
    data = animation("GIF")
    assert shown([open_image(data[: len(data) // 2])]) == [0]


@given(st.integers(1, 500), st.integers(1, 40), st.one_of(st.none(), st.integers(1, 60)))
def test_wanted_frames_are_increasing_and_in_range(count: int, frames: int, stride: int | None) -> None:
    wanted = images._wanted(count, frames, stride)
    assert wanted == sorted(set(wanted))
    assert 0 <= wanted[0] <= wanted[-1] < count
    assert 1 <= len(wanted) <= frames
    if stride is None:
        assert len(wanted) == min(count, frames)
        assert abs(wanted[0] - (count - 1 - wanted[-1])) <= 1  # centred


@pytest.mark.parametrize(("rotation", "white_side"), [(90, "top"), (-90, "bottom"), (180, "left")])
def test_videos_are_turned_upright(tmp_path: Path, rotation: int, white_side: str) -> None:
    """The white stripe lies at the right of the stored frame; the turn is counter-clockwise."""
    picture = np.array(read_frames(video(tmp_path / "a.mp4", rotation), frames=1)[0])[..., 1]
    assert picture.shape == ((16, 32) if rotation == 180 else (32, 16))
    sides = {"top": picture[:4], "bottom": picture[-4:], "left": picture[:, :4], "right": picture[:, -4:]}
    assert max(sides, key=lambda side: sides[side].mean()) == white_side


def test_clips_over_the_pixel_limit_are_refused(clip: Path) -> None:
    assert "the limit is" in message(lambda: read_frames(clip, max_pixels=10))


def test_damaged_videos_and_other_files_are_an_input_error(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.mp4").read_bytes()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n"
    concat = b"ffconcat version 1.0\nfile whole.mp4\n"
    for i, data in enumerate((whole[: len(whole) // 2], whole[:40], b"", b"some words", playlist, concat, bytes(5000))):
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(data)
        assert str(path) in message(lambda path=path: read_frames(path))
    assert "there is no file" in message(lambda: read_frames(tmp_path / "missing.mp4"))
    assert "is a directory" in message(lambda: read_frames(tmp_path))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    assert "no frame" in message(lambda: read_frames(path))


def test_without_av_a_video_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnavailableError, match=r"paligemma\[video\]"):
        read_frames(path)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"frames": 4, "stride": 0}])
def test_counts_below_one_are_a_usage_error(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        read_frames(tmp_path / "a.mp4", **wrong)
