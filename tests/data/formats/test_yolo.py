import pytest
from hypothesis import given, settings
from PIL import Image
from tests.data.formats.made import (
    close,
    data_sets,
    drawn_boxes,
    masked_boxes,
    plain_boxes,
    round_trip,
    same_pixels,
)

from paligemma.data.formats import Reading, detect, read, yolo
from paligemma.errors import InputError


@given(data_sets(plain_boxes, drawn_boxes, masked_boxes))
@settings(max_examples=12)
def test_pictures_come_back(pictures):
    with round_trip(pictures, "yolo") as pairs:
        for mine, theirs in pairs:
            for a, b in zip(mine.boxes, theirs.boxes, strict=True):
                assert a.label == b.label
                if a.polygons is not None and len(a.polygons) == 1:
                    assert close(a.polygons[0], b.polygons[0], 1e-4)
                else:
                    assert same_pixels(a, b, mine.size_px)
                if a.polygons is None or len(a.polygons) == 1:  # else parts become pixels, the box theirs
                    assert close(a.xyxy, b.xyxy, 1e-4)


def put(folder, line="0 0.5 0.5 0.5 0.5", *, settings="names: [cat, dog]\n", pictures="images/train", name="data.yaml"):
    place = folder / pictures
    labels = folder / pictures.replace("images", "labels")
    for one in (place, labels):
        one.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(place / "a.png")
    (labels / "a.txt").write_text(line)
    (folder / name).write_text(settings)
    return folder


@pytest.mark.parametrize(
    ("pictures", "settings", "split"),
    [
        ("images/train", "names: [cat]\n", "train"),
        ("images/val", "names: {0: cat}\npath: .\nval: images/val\n", "valid"),
        ("valid/images", "names: [cat]\nval: ../valid/images\n", "valid"),
        ("test/images", "names: [cat]\ntest: ../elsewhere\n", "test"),
        ("images", "names: [cat]\n", ""),
        ("images", "names: [cat]\ntrain: images\nval: images\n", ""),
        ("pictures", "names: [cat]\ntrain: [pictures]\n", "train"),
        (".", "names: [cat]\n", ""),
    ],
)
def test_layouts(tmp_path, pictures, settings, split):
    put(tmp_path, settings=settings, pictures=pictures)
    assert detect(tmp_path) == "yolo"
    for path in (tmp_path, tmp_path / "data.yaml"):
        entries, reading = read(path, "yolo")
        assert reading.problems == []
        assert [entry.split for entry in entries] == [split]
        assert [box.xyxy for box in entries[0].item.boxes] == [(5, 2.5, 15, 7.5)]
        assert reading.classes == ["cat"]


def test_classes_from_a_text_and_pictures_from_a_list(tmp_path):
    put(tmp_path, settings="cat\n\n", name="classes.txt")
    assert read(tmp_path)[0][0].item.labels == ["cat"]
    (tmp_path / "list.txt").write_text("images/train/a.png\n./images/train/b.png\n/etc/hostname\n")
    (tmp_path / "data.yaml").write_text("names: [dog]\ntest: list.txt\n")
    entries, reading = read(tmp_path)
    assert [(entry.split, entry.item.labels) for entry in entries] == [("test", ["dog"])]
    said = "\n".join(map(str, reading.problems))
    assert "line 2: there is no picture" in said
    assert "line 3: the picture '/etc/hostname' lies outside" in said


def test_a_picture_without_text_shows_nothing(tmp_path):
    put(tmp_path, "")
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    assert read(tmp_path)[0][0].item.boxes == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.5", "line 1: the line has 3 numbers"),
        ("\n0 0.5 0.5 0.5 0.5 0.9", "line 2: the line has 5 numbers, as predictions with a score"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "7 numbers"),
        ("2 0.5 0.5 0.5 0.5", "class 2 is none of the 2"),
        ("-1 0.5 0.5 0.5 0.5", "expected a class number"),
        ("9999999999 0.5 0.5 0.5 0.5", "expected a class number"),
        ("cat 0.5 0.5 0.5 0.5", "expected a class number"),
        ("0 0.5 0.5 nan 0.5", "and no pixels"),
        ("0 100 50 20 20", "and no pixels"),
        ("0 0.5 0.5 0 0.5", "no area"),
        ("0 0.1 0.5 0.9 0.5", "outside its picture"),
        ("0 .1 .1 .1 .1 .1 .1", "no area"),
    ],
)
def test_bad_lines_are_told(tmp_path, line, said):
    put(tmp_path, line)
    entries, reading = read(tmp_path)
    assert entries == []
    assert said in str(reading.problems[0])
    assert "a.txt" in str(reading.problems[0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("train: images\n", "names no classes"),
        ("names: {x: cat}\n", "names no classes"),
        ("names: [cat\n", "is no YAML"),
        ("- 1\n", "holds a list"),
        ("names: !!python/object/apply:os.getcwd []\n", "is no YAML"),
        ("[" * 400, "is no YAML"),
    ],
)
def test_settings_that_are_none(tmp_path, settings, said):
    with pytest.raises(InputError, match=said):
        read(put(tmp_path, settings=settings), "yolo")


def test_nothing_outside_the_folder_is_read(tmp_path):
    (tmp_path / "outside").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "outside" / "b.png")
    inside = put(tmp_path / "in", settings="names: [cat]\npath: ../outside\ntrain: ../outside\n")
    assert [entry.item.path.name for entry in read(inside)[0]] == ["a.png"]
    (inside / "images" / "train" / "b.png").symlink_to(tmp_path / "outside" / "b.png")
    reading = Reading(inside)
    assert [entry.item.path.name for entry in yolo.read(inside, reading)] == ["a.png"]
    assert "outside the folder" in reading.problems[0].why


def test_no_pictures_at_all(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    with pytest.raises(InputError, match="no picture where YOLO keeps them"):
        read(tmp_path)
