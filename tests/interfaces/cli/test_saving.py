import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paligemma.errors import ResourceError, UsageError
from paligemma.interfaces.cli.options import STDIN, BoxOptions, OutputOptions, SourceOptions
from paligemma.interfaces.cli.saving import Saver
from paligemma.interfaces.cli.sources import Item, Sources
from paligemma.results import Answer, Box, Detections, Mask


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saver(arguments, save=None, several=False, out=None, **boxes):
    sources = Sources(arguments, SourceOptions())
    return Saver(OutputOptions(save=save, out=out), BoxOptions(**boxes), sources, several)


def item(path, place=None):
    return Item(name=path, pictures=(path,), place=place or Path(path).name)


def answer(size=(40, 30)):
    return Answer(text="a cat", raw="a cat", task="caption", prompt="caption en", images=(Image.new("RGB", size),))


def found(label="cat"):
    mask = np.zeros((30, 40), bool)
    mask[10:20, 5:25] = True
    box = Box(
        label=label, box_yxyx_norm=(1 / 3, 1 / 8, 2 / 3, 5 / 8), image_size_px=(40, 30), mask=Mask.from_array(mask)
    )
    return Detections(
        text=label, raw="", task="segment", prompt="", images=(Image.new("RGB", (40, 30), "red"),), boxes=(box, box),
        paths=("x.jpg",), image_size_px=(40, 30),
    )  # fmt: skip


def test_nothing_is_saved_unless_asked_for(place):
    assert saver(["a.jpg"])(item("a.jpg"), answer()) == []
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("save", "written"),
    [("out.png", "out.png"), ("new/", "new/a.jpg"), ("new", "new/a.jpg"), ("deep/x.webp", "deep/x.webp")],
)
def test_one_image_goes_to_a_file_or_into_a_directory(save, written):
    assert saver(["in/a.jpg"], save)(item("in/a.jpg"), answer()) == [Path(written)]
    assert Image.open(written).width >= 40


def test_text_goes_to_a_text_file():
    saver(["a.jpg"], "a.txt")(item("a.jpg"), answer())
    assert Path("a.txt").read_text() == "a cat\n"


def test_several_images_keep_their_names_and_never_collide():
    save = saver(["x", "y"], "out/", several=True)
    places = ["a.jpg", "a.jpg", "A.JPG", "a-2.jpg", "sub/a.jpg", "b.heic", "../../c.png", ""]
    written = [save(item(f"in{i}", place), answer())[0].as_posix() for i, place in enumerate(places)]
    assert written == [
        "out/a.jpg", "out/a-2.jpg", "out/A-3.JPG", "out/a-2-2.jpg", "out/sub/a.jpg", "out/b.png", "out/c.png",
        "out/in7.png",
    ]  # fmt: skip
    assert all(Path(path).exists() for path in written)


def test_a_second_run_replaces_its_own_pictures():
    for _ in range(2):
        assert saver(["in"], "out", several=True)(item("in/a.jpg"), answer()) == [Path("out/a.jpg")]


def test_what_stdin_will_list_is_not_known_so_files_stay(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    Path("out").mkdir()
    Path("out/a.jpg").write_bytes(b"?")
    assert saver([STDIN], "out", several=True)(item("in/a.jpg"), answer()) == [Path("out/a-2.jpg")]
    assert Path("out/a.jpg").read_bytes() == b"?"


def test_several_images_need_a_directory():
    with pytest.raises(UsageError, match="directory"):
        saver(["a.jpg", "b.jpg"], "out.png", several=True)


@pytest.mark.parametrize("option", ["save", "save_crops", "save_mask"])
def test_no_directory_of_inputs_is_written_to(option, place):
    Path("a.jpg").write_bytes(b"?")
    (place / "link").symlink_to(place)
    for arguments in (["a.jpg"], ["b.jpg", "a.jpg"], ["."], ["*.jpg"], ["link/a.jpg"]):
        with pytest.raises(UsageError, match="overwrite"):
            saver(arguments, several=len(arguments) > 1, **{option: "./"})
    saver(["a.jpg"], **{option: "other/"})


@pytest.mark.parametrize("option", ["save", "out"])
def test_no_input_is_the_output(option, place):
    Path("a.png").write_bytes(b"?")
    (place / "link").symlink_to(place)
    for path in ("a.png", "./a.png", "link/a.png"):
        with pytest.raises(UsageError, match="overwrite"):
            saver(["a.png"], **{option: path})


def test_an_input_listed_on_stdin_is_no_output_either(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\n"))
    with pytest.raises(UsageError, match="overwrite"):
        saver([STDIN], "a.png")(item("a.png"), answer())


@pytest.mark.parametrize("save", ["", STDIN, "out.xyz", "nul\0.png"])
def test_a_target_that_can_hold_no_answer_is_refused(save):
    with pytest.raises(UsageError, match="--save"):
        saver(["a.jpg"], save)


def test_a_file_is_no_directory():
    Path("file").write_bytes(b"?")
    for option in ("save", "save_crops", "save_mask"):
        with pytest.raises(UsageError, match="is a file"):
            saver(["a.jpg"], **{option: "file"})
    with pytest.raises(ResourceError, match="directory"):
        saver(["a.jpg"], "file/out.png")(item("a.jpg"), answer())


def test_boxes_are_cut_out_and_masks_written():
    save = saver(["in"], save_crops="crops", save_mask="masks", several=True)
    written = save(item("in/a.jpg"), found())
    assert [path.as_posix() for path in written] == [
        "crops/a-01-cat.png", "crops/a-02-cat.png", "masks/a-01-cat-mask.png", "masks/a-02-cat-mask.png",
    ]  # fmt: skip
    assert Image.open(written[0]).size == (20, 10)
    mask = np.array(Image.open(written[2]))
    assert mask.shape == (30, 40)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).sum() == 200


def test_cut_outs_of_pictures_of_one_name_do_not_collide():
    save = saver(["in"], save_crops="crops", several=True)
    names = [save(item(path), found())[0].name for path in ("in/a.jpg", "in/a.png")]
    names.append(save(item("in/sub/a.jpg", "sub/a.jpg"), found("../x"))[0].as_posix())
    assert names == ["a-01-cat.png", "a-2-01-cat.png", "crops/sub/a-01-_x.png"]
