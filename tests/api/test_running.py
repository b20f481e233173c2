"""Many queries at once: order, batches, errors in their places."""

import pytest
from tests.api.helpers import picture

from paligemma.api import Query
from paligemma.errors import InputError, PaliGemmaError, ResourceError, UsageError
from paligemma.results import Detections

MIXED = [
    Query(picture(0), "detect", {"objects": "cat; dog"}, {"max_tokens": 5}),
    Query(picture(1), "caption", {}, {"max_tokens": 3}),
    Query([picture(2), picture(3)], "ask", {"question": "same?"}, {"max_tokens": 4}),
    Query(picture(4), "generate", {"prompt": "ocr"}, {"max_tokens": 5}),
]


def test_mixed_queries_answer_as_the_verbs_do(model):
    found = model.run(MIXED, batch_size=3)
    alone = [
        model.detect(picture(0), "cat; dog", max_tokens=5),
        model.caption(picture(1), max_tokens=3),
        model.ask([[picture(2), picture(3)]], "same?", max_tokens=4)[0],
        model.generate(picture(4), "ocr", max_tokens=5),
    ]
    assert [a.tokens for a in found] == [a.tokens for a in alone]
    assert [a.task for a in found] == ["detect", "caption", "ask", "generate"]
    assert isinstance(found[0], Detections)


def test_long_lists_go_in_chunks(model, says):
    speaker = says("x")
    assert len(model.ocr([picture()] * 9, batch_size=2)) == 9
    assert speaker.calls == 2
    assert model.ocr([]) == []


def test_queries_are_read_a_window_at_a_time(model, says):
    speaker = says("x")
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield Query(picture(), "ocr")

    some = model.answers(endless(), batch_size=2)
    assert next(some).text == "x"
    assert (len(read), speaker.calls) == (8, 1)
    assert [next(some).text for _ in range(8)] == ["x"] * 8
    assert (len(read), speaker.calls) == (16, 2)


BAD = [
    (Query("nowhere.png", "ocr"), InputError, "nowhere.png"),
    (Query(b"not a picture", "ocr"), InputError, "image"),
    (Query(None, "ocr"), InputError, "no picture"),
    (Query(picture(), "ask", {"question": " "}), UsageError, "empty"),
    (Query(picture(), "detct", {"objects": "cat"}), UsageError, "did you mean 'detect'"),
    (Query(picture(), "ask", {"question": "x " * 5000}), InputError, "fit"),
    (Query(picture(), "ocr", {}, {"max_tokens": 10**6}), UsageError, "positions"),
]


@pytest.mark.parametrize(("bad", "kind", "message"), BAD)
def test_one_bad_query_stops_nothing_when_errors_are_wanted_back(model, bad, kind, message):
    queries = [*MIXED[:2], bad, *MIXED[2:]]
    found = model.run(queries, batch_size=8, on_error="return")
    assert isinstance(found[2], kind)
    assert message in str(found[2])
    good = [found[i] for i in (0, 1, 3, 4)]
    assert [a.tokens for a in good] == [a.tokens for a in model.run(MIXED)]
    with pytest.raises(kind, match=message):
        model.run(queries)


def test_what_fails_together_may_pass_in_smaller_groups(model, says):
    speaker = says("x")
    generate, sizes = speaker.generate, []

    def small_memory(prompts, samplings, **more):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise ResourceError("out of memory")
        return generate(prompts, samplings, **more)

    speaker.generate = small_memory
    assert [a.text for a in model.run([Query(picture(), "ocr")] * 5, on_error="return")] == ["x"] * 5
    assert sizes == [5, 2, 3, 1, 2]
    with pytest.raises(ResourceError):
        model.run([Query(picture(), "ocr")] * 5)


def test_our_own_mistakes_are_not_swallowed(model, says):
    speaker = says("x")
    speaker.generate = lambda *a, **k: 1 / 0
    with pytest.raises(ZeroDivisionError):
        model.run([Query(picture(), "ocr")], on_error="return")


def test_settings_of_a_run_are_checked(model):
    assert model.run([]) == []
    with pytest.raises(UsageError, match="'raise' or 'return'"):
        model.run([], on_error="ignore")
    with pytest.raises(UsageError, match="batch_size is 0"):
        model.run([], batch_size=0)
    with pytest.raises(PaliGemmaError, match="belongs to the whole run"):
        model.run([Query(picture(), "ocr", {}, {"batch_size": 2})])
