"""COCO files are what pycocotools reads, for one picture and for many."""

import contextlib
import io
import json
import weakref

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.results.made import detections, segmented

from paligemma.errors import ResourceError, UsageError
from paligemma.results import Detections
from paligemma.results.coco import size_of, to_coco, write_coco


def read(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("segmentation", ["rle", "polygons"])
def test_pycocotools_reads_boxes_scores_and_masks(tmp_path, segmentation):
    several = [segmented(0), detections(8, 8), segmented(1, path=None, size=(300, 200))]
    coco = read(write_coco(several, tmp_path / "coco.json", segmentation=segmentation))
    names = [coco.imgs[i]["file_name"] for i in coco.getImgIds()]
    assert names == ["shots/a.png", "image-000002.png", "image-000003.png"]
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == {1: "cat", 2: "grüner Hund"}
    for image_id, found in enumerate(several, start=1):
        rows = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(rows) == len(found)
        for row, box in zip(rows, found, strict=True):
            assert row["bbox"] == pytest.approx(box.xywh, abs=0.006)
            assert row.get("score") == box.score
            assert coco.cats[row["category_id"]]["name"] == box.label
            if box.mask is None:
                assert row["segmentation"] == []
                continue
            ours, theirs = box.mask.array(), coco.annToMask(row).astype(bool)
            shared = (ours & theirs).sum() / (ours | theirs).sum()
            assert shared == 1 if segmentation == "rle" else shared > 0.85
            assert row["area"] == ours.sum()


def test_annotations_are_a_result_file_that_pycocotools_scores(tmp_path):
    several = [segmented(0)[:2], segmented(1)[:2]]
    truth = read(write_coco(several, tmp_path / "truth.json"))
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(to_coco(several)["annotations"])
        for kind in ("bbox", "segm"):
            score = COCOeval(truth, found, kind)
            score.evaluate()
            score.accumulate()
            score.summarize()
            assert score.stats[0] == pytest.approx(1)


def test_the_file_holds_what_the_object_does(tmp_path):
    several = [segmented(0), segmented(1)]
    written = json.loads(write_coco(several, tmp_path / "coco.json").read_text())
    assert written == to_coco(several)
    assert segmented(0).to_coco() == to_coco(several[:1])
    assert json.loads(write_coco([], tmp_path / "none.json").read_text()) == {
        "images": [], "annotations": [], "categories": [],
    }  # fmt: skip
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["coco.json", "none.json"]


def test_given_classes_hold(tmp_path):
    coco = segmented().to_coco(classes=["dog", "grüner Hund", "cat"])
    assert [row["category_id"] for row in coco["annotations"]] == [3, 2, 3]
    assert [row["name"] for row in coco["categories"]] == ["dog", "grüner Hund", "cat"]
    (tmp_path / "coco.json").write_text("old")
    with pytest.raises(UsageError, match="none of the 1 given classes"):
        write_coco([segmented()], tmp_path / "coco.json", classes=["cat"])
    assert (tmp_path / "coco.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_are_let_go_as_they_are_written(tmp_path):
    seen = []
    most = 0

    def many():
        nonlocal most
        for _ in range(30):
            found = detections(20, 10, ("cat", (0, 0, 0.5, 0.5)))
            seen.append(weakref.ref(found.images[0]))
            most = max(most, sum(image() is not None for image in seen))
            yield found

    assert len(read(write_coco(many(), tmp_path / "coco.json")).anns) == 30
    assert most <= 3


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(ResourceError, match="cannot write"):
        write_coco([], tmp_path / "missing" / "coco.json")
    with pytest.raises(UsageError, match="unknown segmentation"):
        segmented().to_coco(segmentation="png")
    blank = Detections(text="", raw="", task="detect", prompt="detect x")
    with pytest.raises(UsageError, match="size of this answer's picture"):
        blank.to_coco()
    assert size_of(detections(7, 5)) == (7, 5)
