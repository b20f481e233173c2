import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.results import Answer, Box, Detections, Mask
from paligemma.train.judging.grading import (
    Figure,
    Question,
    TrueObject,
    figures,
    grade,
    language_of,
    split,
    true_objects,
)

SIZE = (8, 8)
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)  # x first


def question(prefix, suffix="", images=("a.png",), **more):
    return Question(id="1", images=images, prefix=prefix, suffix=suffix, language=language_of(prefix), **more)


def said(text):
    return Answer(text=text, raw=text, task="ask", prompt="")


def pixels(xyxyn):
    x1, y1, x2, y2 = (round(v * 8) for v in xyxyn)
    array = np.zeros((8, 8), bool)
    array[y1:y2, x1:x2] = True
    return array


def box(label, xyxyn, score=0.9, mask=None):
    x1, y1, x2, y2 = xyxyn
    return Box(
        label=label, box_yxyx_norm=(y1, x1, y2, x2), image_size_px=SIZE, score=score,
        mask=None if mask is None else Mask.from_array(pixels(mask)),
    )  # fmt: skip


def found(*boxes):
    return Detections(text="", raw="", task="detect", prompt="", image_size_px=SIZE, boxes=boxes)


def thing(name, xyxyn, label=None, mask=None):
    return TrueObject(
        name=name, label=label or name, xyxyn=xyxyn, mask=None if mask is None else pixels(mask)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prefix", "images", "metric", "language"),
    [
        ("caption de", 1, "caption_exact", "de"),
        ("cap en", 1, "caption_exact", "en"),
        ("answer fr combien?", 1, "question_accuracy", "fr"),
        ("answer en what does it do?", 8, "clip_accuracy", "en"),
        ("ocr", 1, "ocr_word_accuracy", ""),
        ("detect cat", 1, "ap50", ""),
        ("segment cat", 1, "miou", ""),
        ("what is it?", 1, "exact_match", ""),
    ],
)
def test_the_prompt_says_how_it_is_judged(prefix, images, metric, language):
    one = question(prefix, images=("a.png",) * images)
    assert (one.metric, one.language) == (metric, language)


def test_texts():
    grades = [
        *grade(question("caption en", "a red cat"), said("a red cat")),
        *grade(question("caption en", "a red cat"), said("a cat")),
        *grade(question("answer en how many?", "2", kind="count"), said("2")),
        *grade(question("ocr", "OPEN 24 HOURS"), said("OPEN HOURS")),
        *grade(question("ocr", ""), said("")),
        *grade(question("answer en what happens?", "left", images=("a",) * 8), said("right")),
    ]
    told = {name: (figure.value, figure.n) for name, figure in figures(grades).items()}
    assert told == {
        "caption_exact": (0.5, 2), "question_accuracy": (1, 1), "ocr_word_accuracy": (0.75, 4), "clip_accuracy": (0, 1),
    }  # fmt: skip
    assert split(grades, "question_accuracy", lambda one: one.kind)["count"].value == 1
    assert split(grades, "caption_exact", lambda one: one.kind)["caption"].n == 2  # the task, where no kind is told


def test_boxes_by_class_in_two_languages():
    cats, katzen = question("detect cat ; dog"), question("detect Katze", labels={"Katze": "cat"})
    cats = Question(**{**vars(cats), "objects": (thing("cat", LEFT), thing("dog", RIGHT)), "language": "en"})
    katzen = Question(**{**vars(katzen), "objects": (thing("Katze", LEFT, "cat"),), "language": "de"})
    grades = [
        *grade(cats, found(box("cat", LEFT), box("dog", LEFT, 0.5), box("cat", RIGHT, 0.4))),
        *grade(katzen, found()),
    ]
    told = figures(grades)
    assert told["recall50"].value == pytest.approx(1 / 3)
    assert told["precision50"].value == pytest.approx(1 / 3)
    assert told["ap50"].n == 3
    of_class = split(grades, "ap50", lambda one: one.label)
    assert {name: figure.n for name, figure in of_class.items()} == {"cat": 2, "dog": 1}
    assert of_class["dog"].value == 0
    assert of_class["cat"].value == pytest.approx(51 / 101)  # right up to a recall of one half
    assert told["ap50"].value == pytest.approx((of_class["cat"].value + of_class["dog"].value) / 2)
    assert split(grades, "ap50", lambda one: one.language)["de"].value == 0


def test_what_is_not_there_costs_when_it_is_found():
    absent = question("detect dog", objects=())
    there = question("detect dog", objects=(thing("dog", LEFT),))
    fooled = figures([*grade(there, found(box("dog", LEFT, 0.5))), *grade(absent, found(box("dog", LEFT, 0.9)))])
    silent = figures([*grade(there, found(box("dog", LEFT, 0.5))), *grade(absent, found())])
    assert fooled["ap50"].value == pytest.approx(0.5)
    assert fooled["precision50"].value == 0.5
    assert silent["ap50"].value == silent["precision50"].value == 1
    assert (fooled["absent_accuracy"], silent["absent_accuracy"]) == (Figure(0.0, 1), Figure(1.0, 1))


def test_only_absent_things_give_no_average_precision():
    assert figures(grade(question("detect dog", objects=()), found())) == {"absent_accuracy": Figure(1.0, 1)}


def test_boxes_nobody_asked_for_cost_precision():
    grades = grade(question("detect cat", objects=(thing("cat", LEFT),)), found(box("cat", LEFT), box("cow", RIGHT)))
    assert figures(grades)["precision50"].value == 0.5
    assert figures(grades)["ap50"].value == 1
    assert "absent_accuracy" not in figures(grades)


def test_masks_are_matched_one_to_one():
    asked = question("segment cat", objects=(thing("cat", LEFT, mask=LEFT), thing("cat", RIGHT, mask=RIGHT)))
    both = grade(asked, found(box("cat", RIGHT, mask=(0.5, 0.0, 1.0, 0.5)), box("cat", LEFT, mask=LEFT)))
    assert [one.right for one in both] == [1.0, 0.5]
    one_box = grade(asked, found(box("cat", (0.0, 0.0, 1.0, 1.0), mask=(0.0, 0.0, 1.0, 1.0))))
    assert sorted(one.right for one in one_box) == [0, 0.5]
    assert figures(both)["miou"].value == 0.75
    other = grade(asked, found(box("dog", LEFT, mask=LEFT), box("cat", LEFT)))
    assert figures(other)["miou"] == type(figures(other)["miou"])(0.0, 2)


def test_objects_are_read_from_the_suffix_of_an_example():
    codes = "".join(f"<seg{i:03d}>" for i in range(16))
    example = question("segment cat", f"<loc0000><loc0000><loc1023><loc0512>{codes} cat", labels={"cat": "Cat"})
    (read,) = true_objects(example, SIZE, decode=lambda rows: np.ones((len(rows), 64, 64), np.float32))
    assert read.label == "Cat"
    assert read.xyxyn == pytest.approx((0, 0, 512 / 1023, 1))
    assert read.mask is not None
    assert read.mask[:, :4].all()
    assert not read.mask[:, 4:].any()
    assert grade(example, found()) == []  # without a codec a mask cannot be judged
    detected = question("detect cat", "<loc0000><loc0000><loc1023><loc0512> cat")
    assert figures(grade(detected, found(box("cat", (0.0, 0.0, 0.5, 1.0)))))["ap50"].value == 1


@given(st.lists(st.tuples(st.sampled_from(["en", "de", ""]), st.booleans()), max_size=20))
def test_parts_add_up_to_the_whole(rows):
    grades = [
        one
        for language, right in rows
        for one in grade(question(f"caption {language}" if language else "caption", "x"), said("x" if right else "y"))
    ]
    parts = split(grades, "caption_exact", lambda one: one.language)
    assert sum(part.n for part in parts.values()) == sum(bool(language) for language, _ in rows)
    if rows:
        assert figures(grades)["caption_exact"].value == pytest.approx(sum(right for _, right in rows) / len(rows))
