import json

import numpy as np
import pytest

from paligemma.api.calibrating import calibrate, mean_average_precision, report_of, save_calibration
from paligemma.api.loading import load
from paligemma.data import LabelledImage, TrueBox
from paligemma.errors import InputError, ResourceError
from paligemma.metrics import Calibration
from paligemma.results import Box, Detections


class Guesser:
    """Finds the true box of every label, and says a wrong one with a lower score now and then."""

    def __init__(self, examples, seed=0):
        self.truth = {example.path: example for example in examples}
        self.rng = np.random.default_rng(seed)

    def answers(self, queries, *, batch_size):
        for query in queries:
            (label,) = query.words["objects"]
            boxes = []
            for true in self.truth[query.images].boxes:
                if true.label == label:
                    boxes.append(self.box(label, true.xyxy, self.rng.uniform(0.5, 1.0)))
            if self.rng.random() < 0.5:
                boxes.append(self.box(label, (90, 90, 99, 99), self.rng.uniform(0.3, 0.8)))
            yield Detections(text="", raw="", task="detect", prompt="", boxes=tuple(boxes), image_size_px=(100, 100))

    def box(self, label, xyxy, score):
        x1, y1, x2, y2 = (v / 100 for v in xyxy)
        return Box(label=label, box_yxyx_norm=(y1, x1, y2, x2), image_size_px=(100, 100), raw_score=score, score=0.01)


@pytest.fixture
def examples(tmp_path):
    return [
        LabelledImage(
            path=tmp_path / f"{k}.png",
            boxes=tuple(TrueBox(label=label, xyxy=(5.0, 5.0, 40.0, 40.0)) for label in (("cat",), ("dog",))[k % 2]),
            size_px=(100, 100),
        )
        for k in range(60)
    ]


def test_scores_that_rank_are_worth_more_than_constant_ones(examples):
    report = calibrate(Guesser(examples), examples)
    assert report.pictures == 60
    assert report.prompts == 120  # the label that is there, and the other
    assert report.right == 60
    assert report.boxes > 100
    assert report.ap50 > 0.75 > report.ap50_constant + 0.1
    assert report.error_after < report.error_before
    assert report.calibration.examples == report.boxes


def test_negatives_can_be_left_out(examples):
    assert calibrate(Guesser(examples), examples, negatives=0).prompts == 60


def test_the_same_labels_are_asked_each_time(examples):
    first, again = (calibrate(Guesser(examples), examples).to_dict() for _ in range(2))
    assert first == again
    assert json.loads(json.dumps(first)) == first


def test_nothing_to_learn_from(examples):
    with pytest.raises(InputError, match="no labelled pictures"):
        calibrate(Guesser([]), [])
    with pytest.raises(InputError, match="found 0 scored boxes"):
        report_of([], 0)
    assert np.isnan(mean_average_precision([]))


def test_kept_beside_the_model(tmp_path):
    made = Calibration(temperature=2.0, shift=0.5, examples=30)
    file = save_calibration(made, tmp_path)
    assert file == tmp_path / "calibration.json"
    assert Calibration.from_dict(json.loads(file.read_text())) == made
    assert save_calibration(made, tmp_path / "mine.json").name == "mine.json"
    with pytest.raises(ResourceError, match="cannot write"):
        save_calibration(made, tmp_path / "nowhere" / "mine.json")


def test_the_bundled_model_on_its_own_pictures(tmp_path):
    from paligemma.scenes import draw_scene

    examples = []
    for seed in range(1_000_000_000, 1_000_000_012):
        scene = draw_scene(seed, 224, "objects")
        scene.image.save(tmp_path / f"{seed}.png")
        boxes = tuple(
            TrueBox(label=thing.label, xyxy=tuple(thing.box[i] * 224 for i in (1, 0, 3, 2))) for thing in scene.things
        )
        examples.append(LabelledImage(path=tmp_path / f"{seed}.png", boxes=boxes, size_px=scene.image.size))
    from paligemma.api.calibrating import ask_labelled

    asked = ask_labelled(load(), examples)
    found = sum(int(one.match.correct.sum()) for one in asked)
    assert found >= 0.6 * sum(one.match.true for one in asked)
    assert all(0 <= score <= 1 for one in asked for score in one.match.scores)
