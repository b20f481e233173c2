"""Folders, globs, CSV and JSONL become items in an order that is always the same."""

import os

import pytest

from paligemma.errors import InputError
from paligemma.jobs.requests import Defaults
from paligemma.jobs.sources import MAX_LINE_BYTES, expand

OCR = Defaults(task="ocr")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(*names):
    for name in names:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        open(name, "w").close()


def images(*sources, **more):
    return [item.image for item in expand(sources, OCR, **more)]


def messages(source, defaults=OCR):
    return [(item.id, item.error and item.error["message"]) for item in expand([source], defaults)]


def test_a_folder_gives_its_pictures_by_name():
    made("p/b.JPG", "p/a.png", "p/notes.txt", "p/.hidden.png", "p/sub/c.webp", "p/.git/d.png")
    assert images("p") == ["p/a.png", "p/b.JPG"]
    assert images("p", recursive=True) == ["p/a.png", "p/b.JPG", "p/sub/c.webp"]


def test_links_to_folders_are_not_followed():
    made("p/a.png")
    os.symlink("..", "p/up")
    assert images("p", recursive=True) == ["p/a.png"]


def test_a_glob_gives_the_pictures_that_match():
    made("p/b.jpg", "p/a.jpg", "p/a.txt", "p/q/c.jpg")
    assert images("p/*") == ["p/a.jpg", "p/b.jpg"]
    assert images("p/**/*.jpg") == ["p/a.jpg", "p/b.jpg", "p/q/c.jpg"]


def test_a_name_with_brackets_is_a_name_where_it_exists():
    made("p/a[1].jpg", "p/a1.jpg")
    assert images("p/a[1].jpg") == ["p/a[1].jpg"]


def test_several_sources_are_numbered_through():
    made("b.png", "p/a.png")
    assert [(item.index, item.image) for item in expand(["b.png", "p"], OCR)] == [(0, "b.png"), (1, "p/a.png")]


def test_jsonl_paths_are_relative_to_the_file():
    os.mkdir("d")
    with open("d/x.jsonl", "w") as file:
        file.write('\ufeff{"image": "a.jpg", "id": "one"}\n\n  \n{"image": "/b.jpg", "question": "why?"}')
    found = list(expand(["d/x.jsonl"], OCR))
    assert [(item.index, item.id, item.paths, item.task) for item in found] == [
        (0, "one", ("d/a.jpg",), "ocr"), (1, "/b.jpg", ("/b.jpg",), "ask"),
    ]  # fmt: skip


def test_bad_lines_of_jsonl_do_not_stop_the_others():
    lines = [b'{"image": "a"}', b"{", b"\xff", b"[" * 100_000, b'{"image": "b"}']
    lines += [b'{"image": "' + b"x" * MAX_LINE_BYTES + b'"}', b'{"image": "c"}']
    with open("x.jsonl", "wb") as file:
        file.write(b"\n".join(lines))
    found = messages("x.jsonl")
    assert [message is None for _, message in found] == [True, False, False, False, True, False, True]
    assert found[1][0] == "line 2 of x.jsonl"
    assert "line 2 of x.jsonl is no JSON (Expecting property name" in found[1][1]
    assert "not UTF-8" in found[2][1]
    assert "is longer than 1048576 bytes" in found[5][1]


def test_csv_columns_are_keys_and_empty_cells_are_not_given():
    with open("x.csv", "w") as file:
        file.write('image,task,question,objects\na.jpg,ask,"how many, and why?",\nb.jpg,,,"cat; dog"\n\nc.jpg,,,\n')
    found = list(expand(["x.csv"], OCR))
    assert [(item.image, item.task, item.words) for item in found] == [
        ("a.jpg", "ask", {"question": "how many, and why?"}),
        ("b.jpg", "detect", {"objects": "cat; dog"}),
        ("c.jpg", "ocr", {}),
    ]


def test_bad_rows_of_csv_do_not_stop_the_others():
    with open("x.csv", "wb") as file:
        file.write(b'image,question\na.jpg,1,2\nb.jpg\n"c" x,1\nd.jpg,\xff\ne.jpg,why?\n')
    found = messages("x.csv")
    assert "line 2 of x.csv has 3 cells, expected 2" in found[0][1]
    assert "line 3 of x.csv has 1 cells" in found[1][1]
    assert "line 4 of x.csv is no CSV" in found[2][1]
    assert "no UTF-8 text" in found[3][1]
    assert found[4] == ("e.jpg", None)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("imgae,task", "x.csv has the unknown column 'imgae'; did you mean 'image'?"),
        ("task,question", "give each once, and one called image"),
        ("image,image", "give each once"),
    ],
)
def test_a_csv_file_without_usable_columns_is_refused(header, expected):
    with open("x.csv", "w") as file:
        file.write(header + "\na,b\n")
    with pytest.raises(InputError) as caught:
        images("x.csv")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("none", "none cannot be read (No such file or directory); name a folder"),
        ("none.jsonl", "none.jsonl cannot be read (No such file"),
        ("none/*.jpg", "none/*.jpg holds no picture (.bmp"),
        ("empty", "empty holds no picture"),
        ("empty.jsonl", "empty.jsonl holds no request"),
        ("empty.csv", "the columns"),
        ("notes.txt", "notes.txt is no folder, picture, .csv or .jsonl"),
        ("a\0b", "cannot be read"),
    ],
)
def test_sources_that_give_nothing(source, expected):
    os.mkdir("empty")
    made("empty.jsonl", "empty.csv", "notes.txt")
    with pytest.raises(InputError) as caught:
        images(source)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
