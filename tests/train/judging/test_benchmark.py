import json

import pytest
from PIL import Image

from paligemma.api import load
from paligemma.errors import InputError, UsageError
from paligemma.results import Answer, Box, Detections, Mask
from paligemma.scenes import VERSION
from paligemma.train.judging import benchmark
from paligemma.train.judging.benchmark import SCENE_FIGURES, check_required, evaluate, is_right
from paligemma.train.judging.grading import grade


@pytest.fixture(scope="module")
def nano():
    return load("nano-pt-112", device="cpu")


def perfect(model, questions, *, batch_size):
    """Answers that are all true."""
    for question in questions:
        words = {"raw": question.suffix, "task": question.task, "prompt": question.prefix, "images": question.images}
        if question.objects is None:
            yield question, Answer(text=question.suffix, **words)
            continue
        size = question.images[0].size
        boxes = tuple(
            Box(
                label=one.name, box_yxyx_norm=tuple(one.xyxyn[i] for i in (1, 0, 3, 2)), image_size_px=size, score=1.0,
                mask=Mask.from_array(one.mask),
            )
            for one in question.objects
        )  # fmt: skip
        yield question, Detections(text="", image_size_px=size, boxes=boxes, **words)


@pytest.fixture
def knows_all(monkeypatch):
    monkeypatch.setattr(benchmark, "answered", perfect)


@pytest.fixture
def report(knows_all, nano):
    return evaluate(nano, seed=1, limit=40, size_px=64)


def test_who_knows_all_is_always_right(report):
    assert {name: figure.value for name, figure in report.figures.items()} == dict.fromkeys(report.figures, 1.0)
    assert set(SCENE_FIGURES) <= set(report.figures)
    assert all(is_right(grade(*pair)) for pair in report.shown)


def test_the_object_for_programs(report):
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["scenes_version"] == VERSION
    assert (told["seed"], told["limit"], told["model"]) == (1, 40, "nano-pt-112")
    assert told["caption_exact"] == told["ap50"] == 1.0
    assert told["n"]["caption_exact"] == 40
    assert sum(part["n"] for part in told["by_language"]["caption_exact"].values()) == 40
    assert set(told["by_language"]["ap50"]) <= {"en", "de", "fr", "es", "zh"}
    assert sum(part["n"] for part in told["by_class"]["miou"].values()) == told["n"]["miou"]
    assert {"count", "color"} <= set(told["by_kind"]["question_accuracy"])
    assert "objects" in told["by_kind"]["caption_exact"]


def test_what_was_not_asked_is_null(knows_all, nano):
    told = evaluate(nano, limit=5, kinds=["caption"], languages=["de"], size_px=64).to_dict()
    assert told["caption_exact"] == 1.0
    assert told["miou"] is None
    assert told["clip_accuracy"] is None
    assert set(told["by_language"]["caption_exact"]) == {"de"}


def test_masks_without_a_codec_are_not_measured_instead_of_wrong(knows_all, nano, monkeypatch):
    monkeypatch.setattr(nano, "codec_path", None)
    nano.__dict__.pop("mask_codec", None)
    found = evaluate(nano, limit=5, kinds=["segment"], size_px=64)
    monkeypatch.undo()
    nano.__dict__.pop("mask_codec", None)
    assert "miou" not in found.figures
    (note,) = found.to_dict()["notes"]
    assert note.startswith(f"miou is not measured: {found.questions} answers")
    assert "miou is not measured" in (found.missed({"miou": 0.7}) or "")


def test_marks(report):
    assert report.missed({"ap50": 1.0, "miou": 0.5}) is None
    sentence = evaluate_nothing(report).missed({"ap50": 0.75})
    assert sentence == "nano-pt-112 on scenes: ap50 is not measured, expected 0.75 or more; train on, or lower the mark"
    with pytest.raises(UsageError, match="did you mean 'ap50'"):
        check_required({"ap5": 0.5})
    with pytest.raises(UsageError, match="share from 0 to 1"):
        check_required({"ap50": 75})


def evaluate_nothing(report):
    return type(report)(**{**vars(report), "grades": ()})


def test_rows_of_ones_own(nano, tmp_path):
    for name in "ab":
        Image.new("RGB", (20, 20), (name == "a" and "red") or "blue").save(tmp_path / f"{name}.png")
    rows = [
        {"image": "a.png", "prefix": "caption en", "suffix": "a red cat"},
        {"image": "b.png", "prefix": "detect cat", "suffix": "<loc0000><loc0000><loc0512><loc0512> cat"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    seen = []
    report = evaluate(nano, tmp_path / "rows.jsonl", on_example=lambda *numbers: seen.append(numbers))
    assert seen == [(1, 2), (2, 2)]
    assert {"caption_exact", "ap50"} <= set(report.to_dict())
    assert "miou" not in report.to_dict()
    assert report.to_dict()["n"]["caption_exact"] == 1
    assert evaluate(nano, tmp_path / "rows.jsonl", limit=1).questions == 1
    with pytest.raises(UsageError, match="leave them out"):
        evaluate(nano, tmp_path / "rows.jsonl", kinds=["caption"])
    with pytest.raises(InputError):
        evaluate(nano, tmp_path / "gone.jsonl")


def test_scenes_are_counted_for_the_bar(knows_all, nano):
    seen = []
    evaluate(nano, limit=11, size_px=64, on_example=lambda *numbers: seen.append(numbers))
    assert seen == [(i, 13) for i in range(1, 14)]  # eleven scenes and two clips


def test_unknown_words_are_refused_before_anything_is_drawn(nano):
    with pytest.raises(UsageError, match="unknown language"):
        evaluate(nano, languages=["xx"])
