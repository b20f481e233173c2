import io
import sys
from pathlib import Path

import pytest

from paligemma.errors import InputError, UsageError
from paligemma.interfaces.cli.options import (
    STDIN,
    AnswerOptions,
    check_image,
    image_paths,
    save_targets,
    several,
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1.5},
        {"temperature": 1.0, "top_k": 0},
        {"num_beams": 0},
        {"num_beams": 2, "temperature": 0.5},
        {"top_k": 5},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="--"):
        AnswerOptions(**wrong)


def test_good_settings_are_taken():
    AnswerOptions(max_tokens=1, temperature=0.7, top_k=1, top_p=1.0, seed=-3)
    AnswerOptions(num_beams=4)


def test_a_dash_reads_paths_from_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("b c.jpg\r\n\n  \nd.jpg"))
    assert image_paths(["a.jpg", STDIN, "e.jpg"]) == ["a.jpg", "b c.jpg", "d.jpg", "e.jpg"]


def test_no_paths_and_two_dashes_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(InputError, match="stdin"):
        image_paths([STDIN])
    with pytest.raises(UsageError, match="once"):
        image_paths([STDIN, STDIN])


def test_a_list_from_stdin_is_a_list_even_with_one_path():
    assert not several(["a.jpg"])
    assert several(["a.jpg", "b.jpg"])
    assert several([STDIN])


@pytest.mark.parametrize("path", ["missing.jpg", "x" * 5000, "nul\0byte", ""])
def test_what_is_no_image_is_refused_at_once(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"image|directory"):
        check_image(path)


def test_a_directory_is_no_image_and_a_file_may_be_one(tmp_path):
    with pytest.raises(InputError, match="directory"):
        check_image(str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"?")
    check_image(str(tmp_path / "a.jpg"))


def test_one_image_is_saved_to_a_file_or_into_a_directory(tmp_path):
    assert save_targets(None, ["a.jpg"], False) == {}
    assert save_targets(str(tmp_path / "out.png"), ["a.jpg"], False) == {0: tmp_path / "out.png"}
    assert save_targets(str(tmp_path), ["in/a.jpg"], False) == {0: tmp_path / "a.jpg"}
    assert save_targets(f"{tmp_path}/new/", ["in/a.jpg"], False) == {0: tmp_path / "new" / "a.jpg"}
    assert save_targets(f"{tmp_path}/new", ["in/a.jpg"], False) == {0: tmp_path / "new" / "a.jpg"}


def test_several_images_keep_their_names_and_never_collide(tmp_path):
    targets = save_targets(str(tmp_path), ["x/a.jpg", "y/a.jpg", "y/a-2.jpg", "z/b.heic"], True)
    assert [path.name for path in targets.values()] == ["a.jpg", "a-2.jpg", "a-2-2.jpg", "b.png"]
    assert {path.parent for path in targets.values()} == {tmp_path}


def test_several_images_need_a_directory():
    with pytest.raises(UsageError, match="directory"):
        save_targets("out.png", ["a.jpg", "b.jpg"], True)


def test_an_input_is_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"?")
    (tmp_path / "link").symlink_to(tmp_path)
    for save, paths, many in (
        (".", ["a.jpg"], False),
        ("link/a.jpg", ["a.jpg"], False),
        ("./", ["b.jpg", "a.jpg"], True),
    ):
        with pytest.raises(UsageError, match="overwrite"):
            save_targets(save, paths, many)


@pytest.mark.parametrize("save", ["", STDIN, "out.xyz"])
def test_a_target_that_can_hold_no_answer_is_refused(save):
    with pytest.raises(UsageError, match="--save"):
        save_targets(save, ["a.jpg"], False)
