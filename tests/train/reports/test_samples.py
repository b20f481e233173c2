import numpy as np
from PIL import Image

from paligemma.results import Answer, Box, Detections
from paligemma.train.judging.grading import Question, TrueObject
from paligemma.train.reports.samples import save_samples, side_by_side

RED = Image.new("RGB", (240, 240), "red")


def question(prefix, suffix="", **more):
    return Question(id="rows:7", images=(RED,), prefix=prefix, suffix=suffix, **more)


def found(*boxes):
    return Detections(
        text="", raw="<loc0000>", task="detect", prompt="detect cat", image_size_px=RED.size, images=(RED,), boxes=boxes
    )


def box(label="cat"):
    return Box(label=label, box_yxyx_norm=(0.25, 0.25, 0.5, 0.5), image_size_px=RED.size, score=0.5)


def test_found_on_the_left_and_true_on_the_right():
    there = TrueObject(name="cat", label="cat", xyxyn=(0.5, 0.5, 0.9, 0.9), mask=np.ones((240, 240), bool))
    both = np.asarray(side_by_side(question("detect cat", objects=(there,)), found(box())))
    none = np.asarray(side_by_side(question("detect cat", objects=()), found()))
    middle = both.shape[1] // 2
    for half in (both[:240, : middle - 6], both[:240, middle + 6 :]):
        assert not (half == half[0, 0]).all()  # something is drawn
    assert len(np.unique(none[:200, :480].reshape(-1, 3), axis=0)) == 1  # nothing is


def test_texts_are_below_the_picture():
    answer = Answer(text="a cat", raw="a cat", task="caption", prompt="caption en", images=(RED,))
    picture = side_by_side(question("caption en", "a dog"), answer)
    assert picture.height > 480 + 60
    silent = Answer(text="", raw="", task="caption", prompt="caption en", images=(RED, RED))
    assert side_by_side(question("caption en"), silent).width > picture.width


def test_files(tmp_path):
    answer = Answer(text="a cat", raw="a cat", task="caption", prompt="caption en", images=(RED,))
    pairs = [(question("caption en", "a dog"), answer), (question("detect cat", "", objects=()), found())]
    written = save_samples(pairs, tmp_path / "samples" / "step_00000001")
    assert [path.name for path in written] == ["00-caption.png", "01-detect.png"]
    assert all(Image.open(path).size[0] >= 480 for path in written)
    text = (written[0].parent / "answers.txt").read_text()
    assert "rows:7\nasked caption en\nsaid  a cat\ntrue  a dog\n" in text
