"""One bad input never costs another its answer; memory that runs out is met with smaller batches."""

import json

import pytest
from PIL import Image
from tests.jobs.helpers import Fake

from paligemma.errors import ResourceError
from paligemma.jobs import chunk
from paligemma.jobs.chunk import answer_chunk, error_line, out_of_memory, result_line
from paligemma.jobs.pictures import Opened
from paligemma.jobs.requests import Item
from paligemma.results import Answer, Box, Detections


def opened(count, size=(2, 2), **more):
    return [
        Opened(Item(index=i, id=i, image=f"{i}.png", task="ask", **more), (Image.new("RGB", size, (i, 0, 0)),))
        for i in range(count)
    ]


def indices(data):
    return [json.loads(line)["index"] for line in data.splitlines()]


def errors(lines):
    return {row["index"]: row["error"] for row in map(json.loads, lines.errors.splitlines())}


def test_answers_and_errors():
    inputs = opened(5)
    inputs[1] = Opened(Item(index=1, id=1, error={"code": "bad_input", "message": "a bad line"}))
    inputs[3] = Opened(Item(index=3, id=3), error=ResourceError("a large picture"))
    lines = answer_chunk(Fake(), inputs, 4)
    assert (lines.inputs, lines.failed, lines.batch_size) == (5, 2, 4)
    assert indices(lines.results) == [0, 2, 4]
    assert errors(lines) == {
        1: {"code": "bad_input", "message": "a bad line"}, 3: {"code": "resources", "message": "a large picture"},
    }  # fmt: skip


def test_an_error_of_the_model_is_that_inputs_own():
    inputs = opened(4)
    inputs[2].item.words["question"] = "too long?"
    fake = Fake()
    lines = answer_chunk(fake, inputs, 4)
    assert errors(lines) == {2: {"code": "bad_input", "message": "too long"}}
    assert indices(lines.results) == [0, 1, 3]


def test_the_batch_is_halved_until_it_fits():
    lines = answer_chunk(Fake(too_many=3), opened(8), 8)
    assert (lines.failed, lines.batch_size) == (0, 2)


def test_no_memory_for_anything_ends_the_job():
    with pytest.raises(ResourceError, match="not enough memory for any of the last 3 inputs"):
        answer_chunk(Fake(too_many=0), opened(3), 4)


def test_no_memory_for_a_single_input_is_its_own():
    class Small(Fake):
        def answer(self, batch, batch_size, on_error):
            if len(batch) > 1 or batch[0].item.index == 2:
                raise MemoryError
            return super().answer(batch, batch_size, on_error)

    lines = answer_chunk(Small(), opened(4), 4)
    assert errors(lines)[2]["code"] == "resources"
    assert indices(lines.results) == [0, 1, 3]


def test_a_fault_is_traced_to_the_input_that_causes_it():
    lines = answer_chunk(Fake(poison=2), opened(4), 4)
    assert errors(lines) == {
        2: {"code": "bug", "message": "unexpected RuntimeError: poisoned; please report it"},
    }  # fmt: skip
    assert indices(lines.results) == [0, 1, 3]


def test_a_fault_of_all_inputs_ends_the_job():
    class Broken(Fake):
        def answer(self, batch, batch_size, on_error):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        answer_chunk(Broken(), opened(3), 4)


def test_large_pictures_are_answered_in_smaller_groups(monkeypatch):
    monkeypatch.setattr(chunk, "MAX_GROUP_PIXELS", 250)
    fake = Fake()
    lines = answer_chunk(fake, opened(5, size=(10, 10)), 8)
    assert fake.batches == [[0, 1], [2, 3], [4]]
    assert indices(lines.results) == [0, 1, 2, 3, 4]


def test_an_empty_chunk():
    assert answer_chunk(Fake(), [], 4).inputs == 0


def test_numbers_are_rounded_and_times_left_out():
    answer = Detections(
        text="cat", raw="cat", task="detect", prompt="detect cat", score=0.123456789,
        image_size_px=(3, 3), images=(Image.new("RGB", (3, 3)),), paths=("a.png",), timing={"generate": 1.0},
        boxes=(Box(label="cat", box_yxyx_norm=(0, 0, 1 / 3, 1), image_size_px=(3, 3)),),
    )  # fmt: skip
    row = json.loads(result_line(Item(index=2, id="x", image="a.png"), answer))
    assert list(row) == ["index", "id", "image", "answer"]
    assert row["answer"]["score"] == 0.1235
    assert row["answer"]["boxes"][0]["box_norm"] == [0.0, 0.0, 1.0, 0.333333]
    assert row["answer"]["images"] == [{"width": 3, "height": 3}]
    assert "timing" not in row["answer"]


def test_numbers_that_are_none_become_null():
    answer = Answer(text="", raw="", task="ask", prompt="p", score=float("nan"))
    assert json.loads(result_line(Item(index=0, id=0), answer))["answer"]["score"] is None


def test_an_error_line():
    item = Item(index=4, id="x", image=["a", "b"])
    row = json.loads(error_line(item, ResourceError("why")))
    assert row == {"index": 4, "id": "x", "image": ["a", "b"], "error": {"code": "resources", "message": "why"}}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (ResourceError("x"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate"), True),
        (RuntimeError("shape"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_memory_is_told_from_other_faults(error, expected):
    assert out_of_memory(error) is expected
