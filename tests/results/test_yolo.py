"""YOLO's lines read back are the boxes and the masks."""

import numpy as np
import pytest
from tests.results.made import detections, filled, segmented

from paligemma.errors import UsageError
from paligemma.results.yolo import write_yolo


def read(text):
    return [(int(line.split()[0]), [float(v) for v in line.split()[1:]]) for line in text.splitlines()]


def test_lines_read_back_are_the_boxes():
    found = segmented()
    rows = read(found.to_yolo())
    assert [number for number, _ in rows] == [0, 1, 0]
    for (_, (x, y, w, h)), box in zip(rows, found, strict=True):
        assert (x - w / 2, y - h / 2, x + w / 2, y + h / 2) == pytest.approx(box.xyxyn, abs=2e-6)
    assert [values[-1] for _, values in read(found.to_yolo(scores=True))] == [0.9, 0.25, 0]
    assert all(len(values) == 5 for _, values in read(found.to_yolo(scores=True)))
    assert detections(8, 8).to_yolo() == ""


def test_outlines_read_back_are_the_masks():
    found = segmented(size=(400, 300))
    for (_, values), box in zip(read(found.to_yolo(masks=True)), found, strict=True):
        ring = np.array(values).reshape(-1, 2) * box.image_size_px
        again = filled([ring], (300, 400))
        if box.mask is None:
            assert again.sum() == pytest.approx(box.area_px, rel=0.01)
        else:
            mask = box.mask.array()
            assert (again & mask).sum() / (again | mask).sum() > 0.96


def test_a_folder_of_many_pictures(tmp_path):
    several = [segmented(), detections(8, 8), segmented(path="others/a.jpg"), segmented(path=None)]
    write_yolo(several, tmp_path / "set")
    labels = tmp_path / "set" / "labels"
    assert sorted(p.name for p in labels.iterdir()) == ["a-2.txt", "a.txt", "image-000002.txt", "image-000004.txt"]
    assert (labels / "a.txt").read_text() == segmented().to_yolo()
    assert (labels / "image-000002.txt").read_text() == ""
    assert (tmp_path / "set" / "classes.txt").read_text() == "cat\ngrüner Hund\n"
    assert '  1: "grüner Hund"\n' in (tmp_path / "set" / "data.yaml").read_text()


def test_classes_keep_their_numbers_over_pictures(tmp_path):
    several = [detections(9, 9, (name, (0, 0, 1, 1))) for name in ("dog", "cat", "dog", "")]
    write_yolo(several, tmp_path)
    numbers = [read(p.read_text())[0][0] for p in sorted((tmp_path / "labels").iterdir())]
    assert numbers == [0, 1, 0, 2]
    assert (tmp_path / "classes.txt").read_text() == "dog\ncat\nobject\n"
    with pytest.raises(UsageError, match="did you mean 'dogs'"):
        write_yolo(several, tmp_path, classes=["doggy", "dogs"])
